// The frame of the explorer: addresses, the run that answers, the theme, the search.

import { get } from "./api.js";
import { failed, h, link, loading, say, show } from "./dom.js";
import { finder } from "./search.js";
import { ask } from "./views/ask.js";
import { entityPage } from "./views/entity.js";
import { home } from "./views/home.js";
import { relations } from "./views/relations.js";
import { runs } from "./views/runs.js";

const VIEWS = { "": home, entity: entityPage, ask, relations, runs };
const main = document.getElementById("main");
const state = { runs: [], run: null, relations: new Map() };
let turn = 0;

// The relations of a run, asked for once.
state.relationsOf = async (run) => {
  if (!state.relations.has(run)) state.relations.set(run, (await get("relations", { run })).relations);
  return state.relations.get(run);
};
state.served = () => state.runs.find((one) => one.run === state.run);

async function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  if (location.hash === "#main") return;
  const parameters = Object.fromEntries(new URLSearchParams(query));
  const mine = ++turn;
  const view = VIEWS[path];
  for (const one of document.querySelectorAll("nav a[data-view]")) {
    one.toggleAttribute("aria-current", one.dataset.view === path);
    one.href = link(one.dataset.view);
  }
  if (!state.runs.length) {
    try {
      state.runs = (await get("runs")).runs;
    } catch (error) {
      return show(main, failed(error, route));
    }
  }
  state.run = state.runs.some((one) => one.run === parameters.run) ? parameters.run : state.runs[0].run;
  choices();
  if (!view) return show(main, failed(new Error("there is no such page")), h("p", { class: "state" }, h("a", { href: "#/" }, "To the start")));
  show(main, loading());
  try {
    const page = await view(state, parameters);
    if (mine !== turn) return;
    show(main, page.body);
    document.title = page.title ? `${page.title} · mmrns` : "mmrns explorer";
    say(page.title ?? "Start");
    page.after?.();
  } catch (error) {
    if (mine === turn) show(main, failed(error, route));
  }
  if (mine === turn && moved) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  moved = true;
}
let moved = false;

function choices() {
  const select = document.getElementById("run");
  if (select.children.length !== state.runs.length) show(select, state.runs.map((one) => h("option", { value: one.run }, one.run)));
  select.value = state.run;
  select.closest("label").hidden = state.runs.length < 2;
}

document.getElementById("run").addEventListener("change", (event) => {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  location.hash = link(path || "home", { ...Object.fromEntries(new URLSearchParams(query)), run: event.target.value });
});

const search = finder({
  label: "Search an entity",
  placeholder: "Search an entity",
  hint: "/",
  run: () => state.run,
  chosen: (one, input) => {
    input.value = "";
    input.blur();
    location.hash = link("entity", { e: one.entity });
  },
});
document.getElementById("find").append(search.box);

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, [contenteditable], dialog");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.input.focus();
  }
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

const THEMES = { auto: ["◐", "as the system"], light: ["○", "light"], dark: ["●", "dark"] };
function theme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
  const button = document.getElementById("theme");
  button.textContent = THEMES[name][0];
  button.setAttribute("aria-label", `Theme: ${THEMES[name][1]}`);
  button.title = `Theme: ${THEMES[name][1]}`;
}
theme(localStorage.getItem("theme") in THEMES ? localStorage.getItem("theme") : "auto");
document.getElementById("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  theme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
});

addEventListener("hashchange", route);
route();
