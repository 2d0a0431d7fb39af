// The start: what is served, and where to begin.

import { capital, count, h, link, number, percent, plural } from "../dom.js";
import { get } from "../api.js";
import { triple } from "../parts.js";

export async function home(state) {
  const [facts, relations] = await Promise.all([get(`runs/${encodeURIComponent(state.run)}`), state.relationsOf(state.run)]);
  const about = facts.about;
  const rows = about.triples;
  const body = h(
    "div",
    { class: "home" },
    h(
      "header",
      { class: "lead" },
      h("h1", {}, `What is missing in ${facts.dataset}?`),
      h("p", {}, `${plural(about.entities, "entity", "entities")}, ${plural(about.relations, "relation")} and ${plural(rows.train.rows, "triple")} to learn from. Search an entity, or ask for the missing part of a triple.`),
    ),
    h(
      "section",
      { class: "card", "aria-labelledby": "question" },
      h("h2", { id: "question" }, "Ask a question"),
      triple({
        state,
        relations,
        given: { relation: relations[0]?.relation },
        button: "Answer",
        submit: (asked) => (location.hash = link("ask", { h: asked.head, r: asked.relation, t: asked.tail })),
      }),
      h("p", { class: "note" }, "Leave out what you ask for: the head, the tail, or which relation."),
    ),
    h(
      "div",
      { class: "two" },
      h(
        "section",
        { class: "card", "aria-labelledby": "served" },
        h("h2", { id: "served" }, plural(state.runs.length, "run")),
        h("ul", { class: "plain runs" }, state.runs.map((one) => runLine(one, state))),
        h("p", { class: "note" }, "MRR and hits at 10 of the test split, ties at their mean rank."),
      ),
      h(
        "section",
        { class: "card", "aria-labelledby": "data" },
        h("h2", { id: "data" }, facts.dataset),
        h(
          "dl",
          { class: "facts" },
          ["train", "valid", "test"].map((split) => h("div", {}, h("dt", {}, split), h("dd", {}, count(rows[split].rows)))),
          Object.entries(about.features).map(([name, one]) => h("div", {}, h("dt", {}, `have ${name}`), h("dd", {}, percent(one.coverage, 0)))),
        ),
        about.notes.length > 0 && h("ul", { class: "notes" }, about.notes.map((one) => h("li", {}, capital(one)))),
      ),
    ),
    h(
      "section",
      { class: "card", "aria-labelledby": "rel" },
      h("h2", { id: "rel" }, "Relations"),
      h(
        "ul",
        { class: "plain relations" },
        relations.map((one) =>
          h(
            "li",
            {},
            h("a", { href: link("ask", { r: one.relation }) }, one.name ?? one.relation),
            one.name && one.name !== one.relation && h("span", { class: "id" }, one.relation),
            h("span", { class: "count" }, count(one.triples.train)),
          ),
        ),
      ),
    ),
  );
  return { body };
}

function runLine(one, state) {
  return h(
    "li",
    { "aria-current": one.run === state.run ? "true" : null },
    h("span", { class: "dot", style: { "--c": one.colour } }),
    h("a", { href: link("runs", { run: one.run }) }, h("strong", {}, one.run), h("span", { class: "id" }, one.title)),
    h("span", { class: "figure" }, h("small", {}, "MRR"), number(100 * one.metrics.mrr, 1)),
    h("span", { class: "figure" }, h("small", {}, "hits@10"), number(100 * one.metrics["hits@10"], 1)),
  );
}
