// The runs: metrics, curves, what they were made with; and two of them before one question.

import { get } from "../api.js";
import { capital, count, empty, failed, h, link, loading, number, plural, show } from "../dom.js";
import { lines } from "../charts.js";
import { called, entity, nameOf, triple } from "../parts.js";

export async function runs(state, given) {
  const facts = await Promise.all(state.runs.map((one) => get(`runs/${encodeURIComponent(one.run)}`)));
  const own = facts.find((one) => one.run === state.run);
  const series = (key, factor = 1) =>
    facts
      .map((one, i) => ({ name: one.run, colour: one.colour, dashed: facts.findIndex((other) => other.colour === one.colour) !== i, points: one.history.filter((row) => row[key] !== null && row[key] !== undefined).map((row) => [row.step, factor * row[key]]) }))
      .filter((one) => one.points.length);
  const charts = [
    lines({ title: "Validation MRR", unit: "percent, by step", series: series("valid_mrr", 100), format: (value) => number(value, value % 1 ? 1 : 0) }),
    lines({ title: "Training loss", unit: "by step", series: series("model_loss"), format: (value) => number(value, 2) }),
  ];
  const body = h(
    "div",
    {},
    h("header", { class: "lead" }, h("h1", {}, plural(facts.length, "run"))),
    h("section", { class: "card", "aria-label": "Metrics" }, metrics(facts, state), h("p", { class: "note" }, "Test split, both sides, ties at their mean rank; in percent but for the mean rank.")),
    h("section", { class: "card two charts", "aria-label": "Curves" }, charts),
    facts.length > 1 && (await comparison(state, given, facts)),
    h(
      "section",
      { class: "card", "aria-labelledby": "own" },
      h("h2", { id: "own" }, own.run),
      h("p", { class: "note" }, `${own.title}, seed ${own.seed}; version ${own.record.code?.version ?? "unknown"}, ${plural(own.record.threads ?? 1, "thread")}, ${own.record.device ?? ""}.`),
      h("details", {}, h("summary", {}, "Configuration"), tree(own.config)),
      h("details", {}, h("summary", {}, "Record"), tree(own.record)),
    ),
  );
  return { body, title: "Runs" };
}

function metrics(facts, state) {
  const columns = [
    ["MRR", (one) => number(100 * one.metrics.mrr, 1)],
    ["hits@1", (one) => number(100 * one.metrics["hits@1"], 1)],
    ["hits@10", (one) => number(100 * one.metrics["hits@10"], 1)],
    ["mean rank", (one) => number(one.metrics.mr, 1)],
  ];
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Metrics of the runs" },
    h(
      "table",
      { class: "metrics" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "run"), columns.map(([name]) => h("th", { scope: "col", class: "right" }, name)))),
      h("tbody", {}, facts.map((one) => h("tr", { "aria-current": one.run === state.run ? "true" : null }, h("th", { scope: "row" }, h("span", { class: "dot", style: { "--c": one.colour } }), h("a", { href: link("runs", { run: one.run }) }, one.run), h("span", { class: "id" }, one.title)), columns.map(([, value]) => h("td", { class: "right" }, value(one)))))),
    ),
  );
}

async function comparison(state, given, facts) {
  const relations = await state.relationsOf(state.run);
  const [headName, tailName] = await Promise.all([nameOf(state, given.h), nameOf(state, given.t)]);
  const choice = (label, value) => h("select", { "aria-label": label }, facts.map((one) => h("option", { value: one.run, selected: one.run === value }, one.run)));
  const first = choice("One run", given.a ?? facts[0].run);
  const second = choice("The other run", given.b ?? facts[1].run);
  const place = h("div", {});
  const form = triple({
    state,
    relations,
    given: { head: given.h, relation: given.r ?? relations[0]?.relation, tail: given.t, headName, tailName },
    button: "Compare",
    more: [h("div", { class: "part small" }, h("span", { class: "label" }, "Run"), first), h("div", { class: "part small" }, h("span", { class: "label" }, "Against"), second)],
    submit: (asked) => (location.hash = link("runs", { h: asked.head, r: asked.relation, t: asked.tail, a: first.value, b: second.value })),
  });
  if (given.r && (given.h || given.t)) compared(place, given, state, facts);
  else show(place, empty("Ask both for a head or a tail, and see where they differ."));
  return h("section", { class: "card", "aria-labelledby": "compare" }, h("h2", { id: "compare" }, "Two runs, one question"), form, place);
}

async function compared(place, given, state, facts) {
  show(place, loading());
  try {
    const names = [given.a ?? facts[0].run, given.b ?? facts[1].run];
    const found = await get("compare", { run: names, head: given.h, relation: given.r, tail: given.t, top: 10 });
    const colour = (name) => facts.find((one) => one.run === name).colour;
    const rank = (value, i) => h("td", { class: "right" }, h("span", { class: `rank-of${value !== null && value <= 10 ? "" : " far"}`, style: { "--c": colour(names[i]) } }, value === null ? "> 1,000" : count(value)));
    const move = ([a, b]) => (a === null || b === null ? "" : a === b ? "=" : b < a ? `↑ ${count(a - b)}` : `↓ ${count(b - a)}`);
    show(
      place,
      h("p", { class: "note" }, `${plural(found.shared, "answer")} of the first 10 are common to both.`),
      h(
        "table",
        { class: "answers compared" },
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "entity"), found.runs.map((name) => h("th", { scope: "col", class: "right" }, name)), h("th", { scope: "col", class: "right" }, h("span", { class: "hidden" }, "difference")))),
        h(
          "tbody",
          {},
          found.answers.map((one) =>
            h("tr", {}, h("th", { scope: "row" }, entity(one, { run: state.run }), one.known && h("span", { class: "tag known" }, "known")), one.ranks.map(rank), h("td", { class: "right move" }, move(one.ranks))),
          ),
        ),
      ),
      h("p", { class: "note" }, `Ranks among all entities; scores of different runs do not compare.`),
    );
  } catch (error) {
    show(place, failed(error));
  }
}

// Nested values as lists of terms.
function tree(value) {
  if (value === null) return h("span", { class: "none" }, "none");
  if (Array.isArray(value)) return value.length ? h("span", {}, value.map((one, i) => [i ? ", " : "", tree(one)])) : h("span", { class: "none" }, "none");
  if (typeof value === "object") return h("dl", { class: "tree" }, Object.entries(value).map(([key, one]) => h("div", { class: one !== null && typeof one === "object" && !Array.isArray(one) ? "group" : null }, h("dt", {}, key), h("dd", {}, tree(one)))));
  return h("code", {}, String(value));
}
