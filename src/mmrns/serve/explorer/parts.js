// Parts that several views share.

import { get, picture } from "./api.js";
import { h, link } from "./dom.js";
import { finder } from "./search.js";

export const called = (one) => one.name ?? one.entity ?? one.relation;

// An entity with its picture, its name and, where that says more, its id; a link to its page.
export function entity(one, { run, kind = "small", pictures = one.pictures > 0 } = {}) {
  const name = called(one);
  return h(
    "a",
    { class: "entity", href: link("entity", { e: one.entity, run }) },
    pictures && picture(one.entity, { run, kind, size: kind === "large" ? "large" : "small" }),
    h("span", { class: "words" }, h("span", { class: "name" }, name), one.name && one.name !== one.entity && h("span", { class: "id" }, one.entity)),
  );
}

export function bar(share, label) {
  return h("span", { class: "meter", "aria-hidden": label ? null : "true" }, h("span", { style: { "--p": Math.max(0, Math.min(1, share)).toFixed(4) } }));
}

export function relationChoice(relations, { label, value = "", blank = "?", id = null }) {
  return h(
    "select",
    { "aria-label": label, id },
    blank !== null && h("option", { value: "" }, blank),
    relations.map((one) => h("option", { value: one.relation, selected: one.relation === value }, one.name ?? one.relation)),
  );
}

// The form of a question: two of head, relation and tail, or with all three a triple.
export function triple({ state, relations, given = {}, whole = false, button, submit, more = null }) {
  const run = () => state.run;
  const choice = (part, label) => {
    const field = finder({
      label,
      run,
      placeholder: whole ? "entity" : "? or an entity",
      value: given[`${part}Name`] ?? given[part] ?? "",
      chosen: (one, input) => (input.dataset.entity = one.entity),
    });
    if (given[part]) field.input.dataset.entity = given[part];
    return field;
  };
  const head = choice("head", "Head");
  const tail = choice("tail", "Tail");
  const relation = relationChoice(relations, { label: "Relation", value: given.relation, blank: whole ? null : "? (which relation)" });
  const value = (field) => field.input.dataset.entity ?? field.input.value.trim();
  return h(
    "form",
    {
      class: `ask${whole ? " whole" : ""}`,
      onsubmit: (event) => {
        event.preventDefault();
        submit({ head: value(head), relation: relation.value, tail: value(tail) }, event.target);
      },
    },
    h("div", { class: "part" }, h("span", { class: "label" }, "Head"), head.box),
    h("div", { class: "part" }, h("span", { class: "label" }, "Relation"), relation),
    h("div", { class: "part" }, h("span", { class: "label" }, "Tail"), tail.box),
    more,
    h("button", { class: "main" }, button),
  );
}

// The readable name of an entity that an address gives by id.
export async function nameOf(state, entity) {
  if (!entity) return null;
  return (await get("entity", { entity, run: state.run })).name;
}
