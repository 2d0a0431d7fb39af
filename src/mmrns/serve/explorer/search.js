// A field that finds entities while one types: a combobox, by mouse or by keyboard.

import { get, picture } from "./api.js";
import { h, show } from "./dom.js";

let fields = 0;

export function finder({ label, placeholder, run, chosen, value = "", hint = null }) {
  const id = `find-${++fields}`;
  const input = h("input", {
    id,
    type: "search",
    role: "combobox",
    autocomplete: "off",
    spellcheck: "false",
    placeholder,
    value,
    "aria-label": label,
    "aria-expanded": "false",
    "aria-controls": `${id}-list`,
    "aria-autocomplete": "list",
  });
  const list = h("ul", { id: `${id}-list`, role: "listbox", class: "hits", "aria-label": label, hidden: true });
  const box = h("div", { class: "finder" }, input, hint && h("kbd", { "aria-hidden": "true" }, hint), list);
  let found = [];
  let at = -1;
  let timer = 0;
  let control = null;

  const close = () => {
    list.hidden = true;
    at = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const mark = (place) => {
    at = place;
    [...list.children].forEach((one, i) => one.setAttribute("aria-selected", String(i === at)));
    const one = list.children[at];
    if (one?.id) input.setAttribute("aria-activedescendant", one.id);
    one?.scrollIntoView({ block: "nearest" });
  };
  const choose = (one) => {
    close();
    input.value = one.name ?? one.entity;
    chosen(one, input);
  };
  const open = (text, choices) => {
    found = choices;
    const rows = choices.map((one, i) =>
      h(
        "li",
        {
          id: `${id}-${i}`,
          role: "option",
          "aria-selected": "false",
          onmousedown: (event) => event.preventDefault(),
          onclick: () => choose(one),
        },
        one.pictures ? picture(one.entity, { run: run(), kind: "tiny" }) : h("span", { class: "picture tiny none" }),
        h("span", { class: "words" }, h("span", { class: "name" }, one.name ?? one.entity), h("span", { class: "id" }, one.description ?? one.entity)),
        one.match === "alike" && h("span", { class: "tag quiet" }, "similar"),
      ),
    );
    show(list, rows.length ? rows : h("li", { class: "none", role: "option", "aria-disabled": "true" }, `Nothing is called “${text}”.`));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    if (rows.length) mark(0);
  };
  const look = async () => {
    control?.abort();
    const text = input.value.trim();
    if (!text) return close();
    control = new AbortController();
    try {
      const answer = await get("entities", { q: text, run: run(), limit: 8 }, control.signal);
      if (document.activeElement === input) open(text, answer.entities);
    } catch (error) {
      if (error.name !== "AbortError") show(list, h("li", { class: "none" }, error.message));
    }
  };
  input.addEventListener("input", () => {
    delete input.dataset.entity;
    clearTimeout(timer);
    timer = setTimeout(look, 120);
  });
  input.addEventListener("focus", () => input.select());
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const last = found.length - 1;
    if (event.key === "Escape") close();
    else if (list.hidden && event.key === "ArrowDown") look();
    else if (list.hidden) return;
    else if (event.key === "ArrowDown") mark(at >= last ? 0 : at + 1);
    else if (event.key === "ArrowUp") mark(at <= 0 ? last : at - 1);
    else if (event.key === "Enter" && found[at]) choose(found[at]);
    else return;
    event.preventDefault();
  });
  return { box, input };
}
