// What speaks for an answer.

import { get } from "./api.js";
import { capital, count, failed, h, link, loading, number, percent, show } from "./dom.js";

export async function evidence(place, one, side, state) {
  show(place, loading("Looking for evidence…"));
  try {
    const found = await get("explain", { head: one.head, relation: one.relation, tail: one.tail, side, run: state.run, top: 4 });
    show(place, body(found, state));
  } catch (error) {
    show(place, failed(error));
  }
}

function body(found, state) {
  const names = found.names ?? {};
  const name = (id) => names[id] ?? id;
  const fact = (head, relation, tail) => h("span", { class: "fact" }, h("a", { href: link("entity", { e: head, run: state.run }) }, name(head)), " ", h("em", {}, name(relation)), " ", h("a", { href: link("entity", { e: tail, run: state.run }) }, name(tail)));
  const of = (triple) => (Array.isArray(triple) ? fact(...triple) : fact(triple.head, triple.relation, triple.tail));
  const section = (title, note, rows, line) => rows?.length > 0 && h("section", {}, h("h3", {}, title), h("p", { class: "note" }, note), h("ol", { class: "plain" }, rows.map((row) => h("li", {}, line(row)))));
  const value = (text, title) => h("span", { class: "figure", title }, text);
  const largest = Math.max(1e-9, ...(found.parts ?? []).map((part) => Math.abs(part.adds)));
  const sections = [
    section("What each part adds", "To the score; and the rank without it.", found.parts, (part) => [
      h("span", { class: "fact" }, capital(part.part)),
      h("span", { class: "value" }, h("span", { class: "meter" }, h("span", { style: { "--p": Math.abs(part.adds) / largest }, class: part.adds < 0 ? "less" : null })), number(part.adds)),
      value(`rank ${count(part.rank_without)}`, "rank without it"),
    ]),
    section("Similar and known", "Triples of train with the same relation, whose entity is similar.", found.similar, (row) => [of(row), value(`${row.by} ${number(row.similarity)}`, "similarity")]),
    section("The other way round", "Triples of train whose relation implies this one.", found.inverse, (row) => [of(row), value(percent(row.confidence, 0), `in ${count(row.support)} cases of train`)]),
    section("Paths of two steps", "How often such a path ends in this relation, in train.", found.paths, (row) => [h("span", { class: "path" }, row.triples.map(of)), value(percent(row.confidence, 0), `in ${count(row.support)} cases of train`)]),
    section("What it rests on", "How the score would change without one triple of train, to first order.", found.influence, (row) => [of(row), value(number(row.change, 3), "change of the score")]),
  ].filter(Boolean);
  return h("div", { class: "evidence" }, sections.length ? sections : h("p", { class: "state" }, "Train holds nothing that speaks for it."));
}
