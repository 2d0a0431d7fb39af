// An entity: its pictures, texts and numbers, what is known of it, what may be asked, who is similar.

import { get, picture } from "../api.js";
import { capital, count, empty, failed, h, link, loading, number, plural, show } from "../dom.js";
import { bar, called, entity } from "../parts.js";

const SHOWN = 12;

export async function entityPage(state, { e }) {
  if (!e) return { body: empty("Search an entity above."), title: "Entity" };
  const run = state.run;
  const [one, relations] = await Promise.all([get("entity", { entity: e, run }), state.relationsOf(run)]);
  const name = called(one);
  const texts = Object.entries(one.texts).flatMap(([modality, words]) => words.map((text) => [modality, text]));
  const lacking = Object.keys(one.modalities).filter((modality) => !one.modalities[modality]);
  const similar = h("div", {});
  const body = h(
    "article",
    { class: "entity-page" },
    h(
      "aside",
      { class: "card portrait" },
      one.pictures > 0 && h("div", { class: "gallery" }, [...Array(Math.min(one.pictures, 6)).keys()].map((i) => picture(one.entity, { run, number: i, size: "large", kind: "full", label: `Picture of ${name}` }))),
      h("h1", {}, name),
      one.name && one.name !== one.entity && h("p", { class: "id" }, one.entity),
      one.description && h("p", { class: "description" }, one.description),
      texts.length > 0 &&
        h("details", {}, h("summary", {}, plural(texts.length, "text"), " that models read"), h("ul", { class: "texts" }, texts.map(([, text]) => h("li", {}, text)))),
      one.numbers.length > 0 &&
        h("dl", { class: "numbers" }, one.numbers.map((row) => h("div", {}, h("dt", {}, row.attribute), h("dd", {}, row.value.toLocaleString("en", { maximumFractionDigits: 4 }))))),
      h(
        "p",
        { class: "tags" },
        !one.seen && h("span", { class: "tag warn" }, "not seen in training"),
        lacking.map((modality) => h("span", { class: "tag quiet" }, `no ${modality}`)),
      ),
    ),
    h(
      "div",
      { class: "flow" },
      h(
        "section",
        { class: "card", "aria-labelledby": "known" },
        h("h2", { id: "known" }, "Known", h("span", { class: "count" }, plural(one.total, "triple"))),
        one.facts.length ? h("ul", { class: "plain known" }, one.facts.map((fact) => factLine(fact, one, run))) : empty("No split holds a triple of it."),
      ),
      h(
        "section",
        { class: "card", "aria-labelledby": "open" },
        h("h2", { id: "open" }, "Open questions"),
        h("p", { class: "note" }, "What the model holds plausible beside what is known, best first."),
        questions(one, relations),
      ),
      h("section", { class: "card", "aria-labelledby": "similar" }, h("h2", { id: "similar" }, "Similar"), similar),
    ),
  );
  neighbours(similar, one, run, null);
  return { body, title: name };
}

function factLine(fact, one, run) {
  const relation = fact.name ?? fact.relation;
  const rest = fact.entities.slice(SHOWN);
  const chip = (other) =>
    h("li", {}, h("a", { class: "chip", href: link("entity", { e: other.entity, run }) }, called(other)), other.split !== "train" && h("span", { class: "tag known" }, other.split));
  const list = h("ul", { class: "chips" }, fact.entities.slice(0, SHOWN).map(chip));
  const asked = fact.side === "tail" ? { h: one.entity, r: fact.relation } : { r: fact.relation, t: one.entity };
  return h(
    "li",
    {},
    h(
      "p",
      { class: "relation" },
      fact.side === "tail" ? [relation, " …"] : ["… ", relation, " ", called(one)],
      h("span", { class: "count" }, count(fact.total)),
      h("a", { class: "more", href: link("ask", { ...asked, run }), "aria-label": `What else: ${relation}, ${fact.side}` }, "what else?"),
    ),
    list,
    rest.length > 0 &&
      h(
        "button",
        {
          type: "button",
          class: "link",
          onclick: (event) => {
            list.append(...rest.map(chip));
            event.target.remove();
          },
        },
        `${count(rest.length)} more`,
      ),
    fact.total > fact.entities.length && h("p", { class: "note" }, `The first ${count(fact.entities.length)} of ${count(fact.total)}.`),
  );
}

// The relations that it has, and those that it might have, on both sides.
function questions(one, relations) {
  const has = new Set(one.facts.map((fact) => `${fact.side} ${fact.relation}`));
  const every = relations.flatMap((r) => [
    { ...r, side: "tail" },
    { ...r, side: "head" },
  ]);
  const line = (r) =>
    h(
      "li",
      {},
      h(
        "a",
        { class: "chip", href: link("ask", r.side === "tail" ? { h: one.entity, r: r.relation, known: "drop" } : { r: r.relation, t: one.entity, known: "drop" }) },
        r.side === "tail" ? `${r.name ?? r.relation} ?` : `? ${r.name ?? r.relation}`,
      ),
    );
  const own = every.filter((r) => has.has(`${r.side} ${r.relation}`));
  const rest = every.filter((r) => !has.has(`${r.side} ${r.relation}`));
  return h(
    "div",
    {},
    h("ul", { class: "chips" }, own.map(line)),
    rest.length > 0 && h("details", {}, h("summary", {}, `Relations that nothing is known of (${count(rest.length)})`), h("ul", { class: "chips" }, rest.slice(0, 200).map(line))),
  );
}

async function neighbours(place, one, run, by) {
  show(place, loading());
  try {
    const answer = await get("neighbours", { entity: one.entity, by, run, top: 8 });
    const tab = (measure) =>
      h("button", { type: "button", "aria-pressed": String(measure === answer.by), onclick: () => neighbours(place, one, run, measure) }, measure);
    const rows = answer.neighbours.map((other) => h("li", {}, entity(other, { run }), h("span", { class: "value" }, bar((other.similarity + 1) / 2), number(other.similarity))));
    show(place, h("div", { class: "tabs", role: "group", "aria-label": "Similar by" }, answer.measures.map(tab)), h("ol", { class: "plain similar" }, rows));
  } catch (error) {
    const measures = ["structure", ...Object.keys(one.modalities)].filter((measure) => measure !== by && one.modalities[measure] !== false);
    show(place, failed(error), h("div", { class: "tabs" }, measures.map((m) => h("button", { type: "button", onclick: () => neighbours(place, one, run, m) }, capital(m)))));
  }
}
