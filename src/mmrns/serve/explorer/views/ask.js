// A question and its ranked answers; each can be asked why.

import { get } from "../api.js";
import { capital, count, empty, h, link, number, percent, show } from "../dom.js";
import { evidence } from "../evidence.js";
import { bar, called, entity, nameOf, triple } from "../parts.js";

export async function ask(state, given) {
  const run = state.run;
  const relations = await state.relationsOf(run);
  const asked = { head: given.h, relation: given.r, tail: given.t };
  const [headName, tailName] = await Promise.all([nameOf(state, given.h), nameOf(state, given.t)]);
  const form = triple({
    state,
    relations,
    given: { ...asked, headName, tailName },
    button: "Answer",
    submit: (wanted) => (location.hash = link("ask", { h: wanted.head, r: wanted.relation, t: wanted.tail, known: given.known, top: given.top })),
  });
  const parts = Object.values(asked).filter(Boolean).length;
  const body = h("div", {}, h("header", { class: "lead" }, h("h1", {}, "Ask")), h("section", { class: "card" }, form));
  if (parts !== 2) {
    const text = parts > 2 ? "All three parts are given: leave out the one that you ask for." : "Give two of head, relation and tail; the third is what you ask for.";
    body.append(empty(text));
    return { body, title: "Ask" };
  }
  const known = given.known ?? "flag";
  const top = Number(given.top ?? 10);
  const answer = await get("predict", { ...asked, run, known, top });
  const relationName = relations.find((one) => one.relation === given.r)?.name ?? given.r;
  const side = !given.h ? "head" : !given.t ? "tail" : "relation";
  const words = { head: headName ?? given.h ?? "?", relation: relationName ?? "?", tail: tailName ?? given.t ?? "?" };
  const title = `${words.head} · ${words.relation} · ${words.tail}`;
  body.querySelector("h1").replaceChildren(...Object.entries(words).flatMap(([part, text], i) => [i ? " " : "", h("span", { class: part === side ? "asked" : part }, text)]));
  body.append(
    h(
      "section",
      { class: "card", "aria-labelledby": "answers" },
      h(
        "div",
        { class: "heading" },
        h("h2", { id: "answers" }, `${capital(side)}s, the most plausible first`),
        h(
          "div",
          { class: "tabs", role: "group", "aria-label": "Known triples" },
          [
            ["flag", "all"],
            ["drop", "new only"],
          ].map(([value, text]) => h("a", { href: link("ask", { ...given, known: value }), "aria-current": value === known ? "true" : null }, text)),
        ),
      ),
      answer.notes.map((note) => h("p", { class: "note" }, capital(note))),
      answer.answers.length ? table(answer.answers, side, state) : empty("Nothing is left: every candidate is known already."),
      answer.answers.length === top && top < 200 && h("p", {}, h("a", { class: "button", href: link("ask", { ...given, top: Math.min(200, top * 3) }) }, `Show ${Math.min(200, top * 3)}`)),
      h("p", { class: "note" }, `Scores of ${state.served().title}; larger is more plausible, and comparable within this run only. Bars run from the lowest score that is listed to the highest.`),
    ),
  );
  return {
    body,
    title,
    after: () => given.why && document.getElementById(`why-${given.why}`)?.click(),
  };
}

function table(answers, side, state) {
  const scores = answers.map((one) => one.score);
  const low = Math.min(...scores);
  const span = Math.max(...scores) - low;
  const probable = answers.some((one) => one.probability !== undefined && one.probability !== null);
  const columns = 3 + probable + 1;
  return h(
    "table",
    { class: "answers" },
    h("caption", { class: "hidden" }, "Ranked answers"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "hidden" }, "rank")), h("th", { scope: "col" }, side === "relation" ? "relation" : "entity"), h("th", { scope: "col", class: "right" }, "score"), probable && h("th", { scope: "col", class: "right" }, "probability"), h("th", {}, h("span", { class: "hidden" }, "more")))),
    h(
      "tbody",
      {},
      answers.map((one) => {
        const what = side === "relation" ? { relation: one.relation, name: one.relation_name } : { entity: one[side], name: one[`${side}_name`], pictures: one.pictures };
        const row = h("tr", { class: "answer" });
        const why = side !== "relation" && h("button", { type: "button", class: "link", id: `why-${one.rank}`, "aria-expanded": "false", onclick: (event) => toggle(event.target, row, one, side, state, columns) }, "why");
        const inspect = link("relations", { h: one.head, r: one.relation, t: one.tail, side: side === "relation" ? "tail" : side });
        row.append(
          h("td", { class: "rank" }, count(one.rank)),
          h(
            "th",
            { scope: "row" },
            side === "relation" ? h("span", { class: "words" }, h("span", { class: "name" }, called(what)), what.name && what.name !== what.relation && h("span", { class: "id" }, what.relation)) : entity(what, { run: state.run }),
            one.known && h("span", { class: "tag known" }, "known"),
            !one.seen && h("span", { class: "tag warn" }, "not seen in training"),
          ),
          h("td", { class: "right" }, h("span", { class: "value" }, bar(span > 0 ? 0.04 + 0.96 * ((one.score - low) / span) : 1), number(one.score))),
          // What is known needs no probability: it is that of an answer which the dataset lacks.
          ...(probable ? [h("td", { class: "right" }, one.known ? h("span", { class: "hidden" }, "known") : percent(one.probability))] : []),
          h("td", { class: "right actions" }, why, h("a", { href: inspect, "aria-label": `Negatives for ${called(what)}` }, "negatives")),
        );
        return row;
      }),
    ),
  );
}

async function toggle(button, row, one, side, state, columns) {
  const open = row.nextElementSibling?.classList.contains("why") ? row.nextElementSibling : null;
  button.setAttribute("aria-expanded", String(!open));
  if (open) return open.remove();
  const place = h("td", { colspan: columns });
  row.after(h("tr", { class: "why" }, place));
  await evidence(place, one, side, state);
}
