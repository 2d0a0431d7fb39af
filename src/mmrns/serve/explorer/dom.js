// Elements from data: every text becomes a text, never markup.

export function h(tag, attributes = {}, ...children) {
  const svg = SVG.has(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, one] of Object.entries(value)) element.style.setProperty(name, one);
    else if (key === "value" && "value" in element) element.value = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
const SVG = new Set(["svg", "g", "path", "line", "circle", "rect", "text", "polyline", "title", "use"]);

export const show = (place, ...children) => place.replaceChildren(...children.flat(Infinity).filter(Boolean));

const minus = (text) => text.replace("-", "−");
export const number = (value, digits = 2) => (value === null || value === undefined ? "–" : minus(value.toFixed(digits)));
export const count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
export const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)}\u00a0%`);
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

// What is told to those who do not see the page change.
export function say(text) {
  document.getElementById("live").textContent = text;
}

export const loading = (text = "Loading…") => h("p", { class: "state loading" }, text);
export const empty = (text) => h("p", { class: "state" }, text);

export function failed(error, again) {
  const alike = error.alike ?? [];
  return h(
    "div",
    { class: "state failed", role: "alert" },
    h("p", {}, capital(error.message)),
    alike.length > 0 &&
      h("p", {}, "Meant: ", alike.map((one, i) => [i ? " · " : "", h("a", { href: link("entity", { e: one.entity }) }, one.name ?? one.entity)])),
    again && h("button", { type: "button", onclick: again }, "Try again"),
  );
}

// Addresses: what is shown is in the part behind #, so that it can be sent, and gone back to.
export function link(view, parameters = {}) {
  const query = new URLSearchParams();
  const all = { ...parameters, run: parameters.run ?? new URLSearchParams(location.hash.split("?")[1]).get("run") };
  for (const [key, value] of Object.entries(all)) if (value !== null && value !== undefined && value !== "") query.set(key, value);
  const text = query.toString();
  return `#/${view === "home" ? "" : view}${text ? `?${text}` : ""}`;
}
