// Two relations side by side: the negatives that each draws, and what each looks at.

import { get, picture } from "../api.js";
import { capital, count, empty, failed, h, link, loading, number, percent, plural, say, show } from "../dom.js";
import { bar, called, entity, nameOf, relationChoice, triple } from "../parts.js";

export async function relations(state, given) {
  const run = state.run;
  const every = await state.relationsOf(run);
  const [headName, tailName] = await Promise.all([nameOf(state, given.h), nameOf(state, given.t)]);
  const against = relationChoice(every, { label: "Beside it", value: given.a, blank: "nothing" });
  const side = h("select", { "aria-label": "Replaced" }, ["head", "tail"].map((one) => h("option", { value: one, selected: one === (given.side ?? "head") }, one)));
  const form = triple({
    state,
    relations: every,
    whole: true,
    given: { head: given.h, relation: given.r ?? every[0]?.relation, tail: given.t, headName, tailName },
    button: "Draw",
    more: [h("div", { class: "part small" }, h("span", { class: "label" }, "Beside it"), against), h("div", { class: "part small" }, h("span", { class: "label" }, "Replaced"), side)],
    submit: (asked) => (location.hash = link("relations", { h: asked.head, r: asked.relation, t: asked.tail, a: against.value, side: side.value })),
  });
  const place = h("div", {});
  const body = h(
    "div",
    {},
    h(
      "header",
      { class: "lead" },
      h("h1", {}, "Two relations, side by side"),
      h("p", {}, "One entity, two relations, different hard negatives. A negative is a triple with its head or tail replaced: training takes it for false, and learns to tell it from the true one."),
    ),
    h("section", { class: "card" }, form),
    place,
  );
  if (!(given.h && given.r && given.t)) {
    show(place, empty("Name a triple, and a second relation that its head, or its tail, has too."));
    return { body, title: "Relations" };
  }
  draw(place, given, state);
  return { body, title: "Relations side by side" };
}

async function draw(place, given, state) {
  show(place, loading("Drawing negatives, which takes some seconds…"));
  try {
    const found = await get("inspect", { head: given.h, relation: given.r, tail: given.t, against: given.a, side: given.side ?? "head", run: state.run });
    if (place.isConnected) show(place, result(found, state));
    say("Negatives drawn");
  } catch (error) {
    show(place, failed(error, () => draw(place, given, state)));
  }
}

function result(found, state) {
  const guides = new Guides();
  const largest = Math.max(...found.queries.flatMap((query) => query.samplers.flatMap((drawn) => drawn.negatives.map((one) => one.probability))), 1e-9);
  return [
    h("div", { class: `columns n${found.queries.length}` }, found.queries.map((query) => column(query, found, state, guides, largest))),
    h(
      "p",
      { class: "note foot" },
      `${found.scorer} with ${found.method}, at step ${count(found.selected_step)}; ${plural(found.steps, "draw")} as in training. On the pictures a cell is the clearer the more the relation makes of it, beside the text that is chosen: |gate × affinity|, in the same scale for both relations.`,
    ),
  ];
}

function column(query, found, state, guides, largest) {
  const name = (id) => found.names[id] ?? id;
  const one = (id) => ({ entity: id, name: found.names[id] ?? null });
  const shown = (id) => ({ run: state.run, pictures: found.images.includes(id) });
  const drawn = query.samplers[0];
  const relation = found.names[query.relation] ?? query.relation;
  return h(
    "section",
    { class: "card", "aria-label": relation },
    h(
      "h2",
      { class: "triple" },
      h("span", { class: query.side === "head" ? "asked" : null }, entity(one(query.head), shown(query.head))),
      h("span", { class: "relation" }, relation),
      h("span", { class: query.side === "tail" ? "asked" : null }, entity(one(query.tail), shown(query.tail))),
    ),
    h("p", { class: "note" }, `${name(query[query.side])} has rank ${count(query.rank)} of ${count(found.entities)} as ${query.side}. `, query.split ? `The triple is in ${query.split}.` : h("strong", {}, "No split holds this triple.")),
    drawn.maps.map((map) => attention(map, query, found, state, guides)),
    h("h3", {}, "Negatives ", h("span", { class: "tag quiet" }, drawn.method)),
    drawn.draws > 0 && h("p", { class: "note" }, `${count(drawn.distinct)} entities in ${count(drawn.draws)} draws; half of the draws have rank ${count(drawn.median_rank)} or better; ${percent(drawn.known.valid + drawn.known.test)} are true in valid or test.`),
    drawn.why_not && h("p", { class: "note" }, capital(drawn.why_not), "."),
    h(
      "ol",
      { class: "plain negatives" },
      drawn.negatives.map((negative) =>
        h(
          "li",
          {},
          entity(one(negative.entity), shown(negative.entity)),
          h("span", { class: "value" }, bar(negative.probability / largest), percent(negative.probability)),
          h("span", { class: "figure", title: "the model's rank" }, h("small", {}, "rank"), count(negative.rank)),
          negative.known && h("span", { class: "tag known" }, `true in ${negative.known}`),
        ),
      ),
    ),
  );
}

// Which guiding token is chosen, the same in all pictures that have it.
class Guides {
  constructor() {
    this.listeners = [];
    this.chosen = 0;
  }
  choose(place) {
    this.chosen = place;
    for (const listener of this.listeners) listener(place);
  }
}

function attention(map, query, found, state, guides) {
  const who = found.names[query[query.side]] ?? query[query.side];
  if (map.absent.length) return h("p", { class: "note" }, `${who} has no ${map.absent[0]}.`);
  const title = h("h3", {}, `${capital(map.reads)}${map.guide === map.reads ? "" : `, beside ${map.guide}`}`);
  const details = h("details", {}, h("summary", {}, "Numbers"), [map.guided, ...map.others].map(heat));
  if (!map.spotlights.length) return h("details", { class: "attention" }, h("summary", {}, title.textContent), map.remark && h("p", { class: "note" }, map.remark), words(map.words), [map.guided, ...map.others].map(heat));
  const labels = [...new Set(map.spotlights.map((light) => light.label))];
  const stage = h("div", { class: "stage" });
  const buttons = labels.map((label, i) => h("button", { type: "button", "aria-pressed": "false", onclick: () => guides.choose(i), onmouseenter: () => guides.choose(i), onfocus: () => guides.choose(i) }, label));
  const light = (chosen) => {
    const at = Math.min(chosen, labels.length - 1);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === at)));
    const lights = map.spotlights.filter((one) => one.label === labels[at]);
    if (stage.children.length !== lights.length) show(stage, lights.map((one) => spotlight(one, who, state)));
    else lights.forEach((one, i) => shade(stage.children[i], one));
  };
  guides.listeners.push(light);
  light(guides.chosen);
  return h("div", { class: "attention" }, title, h("div", { class: "beside" }, stage, h("div", { class: "tabs", role: "group", "aria-label": "Beside which text" }, buttons)), details);
}

function spotlight(light, who, state) {
  const veils = h("div", { class: "veils", "aria-hidden": "true", style: { "--columns": light.columns, inset: light.inset.map((edge) => `${edge.toFixed(2)}%`).join(" ") } }, light.shades.map(() => h("i")));
  const figure = h("div", { class: "spotlight" }, picture(light.picture.entity, { run: state.run, number: light.picture.number, size: "large", kind: "lit", label: `Picture of ${who}, its cells as bright as they count` }), veils);
  shade(figure, light);
  return figure;
}

function shade(figure, light) {
  const cells = figure.querySelectorAll("i");
  light.shades.forEach((value, i) => cells[i].style.setProperty("--v", value.toFixed(3)));
}

const words = (texts) => h("ol", { class: "texts" }, Object.entries(texts).map(([place, text]) => h("li", { value: place }, text)));

function heat(table) {
  const cell = (value, shadeOf, row, column) =>
    h("td", { class: shadeOf === null ? "absent" : shadeOf < 0 ? "cold" : "hot", style: shadeOf === null ? {} : { "--v": Math.abs(shadeOf).toFixed(3) }, title: `${row} · ${column}: ${shadeOf === null ? "absent" : number(value, 3)}` }, h("span", { class: "hidden" }, shadeOf === null ? "absent" : number(value, 3)));
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": table.title },
    h(
      "table",
      { class: "heat" },
      h("caption", {}, capital(table.title), h("span", { class: "legend" }, number(table.low), h("span", { class: `ramp${table.signed ? " signed" : ""}`, "aria-hidden": "true" }), number(table.high))),
      h("thead", { class: "hidden" }, h("tr", {}, h("td"), table.columns.map((column) => h("th", { scope: "col" }, column)))),
      h("tbody", {}, table.rows.map((row) => h("tr", {}, h("th", { scope: "row", title: row.label }, row.label), row.values.map((value, i) => cell(value, row.shades[i], row.label, table.columns[i]))))),
    ),
  );
}
