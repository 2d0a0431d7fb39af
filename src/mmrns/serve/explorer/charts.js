// Lines over steps, as SVG: axes with round numbers, a mark and a name for each line.

import { count, h } from "./dom.js";

const WIDTH = 640;
const HEIGHT = 280;
const EDGE = { left: 52, right: 16, top: 14, bottom: 34 };

function ticks(low, high, most = 5) {
  const rough = (high - low || Math.abs(high) || 1) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(Number(value.toPrecision(10)));
  return found;
}

export function lines({ title, unit, series, format }) {
  const points = series.flatMap((one) => one.points);
  if (!points.length) return null;
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [x0, x1] = [Math.min(0, ...xs), Math.max(...xs, 1)];
  const [low, high] = [Math.min(0, ...ys), Math.max(...ys)];
  const y1 = high > low ? high + 0.04 * (high - low) : low + 1;
  const x = (value) => EDGE.left + ((value - x0) / (x1 - x0)) * (WIDTH - EDGE.left - EDGE.right);
  const y = (value) => HEIGHT - EDGE.bottom - ((value - low) / (y1 - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const svg = h(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": `${title}: ${series.map((one) => `${one.name} ends at ${format(one.points.at(-1)[1])}`).join(", ")}` },
    ticks(low, y1, 4).map((value) => h("g", {}, h("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }), h("text", { x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, format(value)))),
    ticks(x0, x1, 5).map((value) => h("text", { x: x(value), y: HEIGHT - 12, "text-anchor": "middle" }, count(value))),
    h("text", { x: WIDTH - EDGE.right, y: HEIGHT - 12, "text-anchor": "end", class: "unit" }, ""),
    series.map((one, i) =>
      h(
        "g",
        { class: "line", style: { "--c": one.colour } },
        h("polyline", { points: one.points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "), "stroke-dasharray": i % 2 && one.dashed ? "6 4" : null }),
        one.points.length <= 40 && one.points.map(([a, b]) => h("circle", { cx: x(a).toFixed(1), cy: y(b).toFixed(1), r: 3.5 }, h("title", {}, `${one.name}, step ${count(a)}: ${format(b)}`))),
      ),
    ),
  );
  return h(
    "figure",
    { class: "plot" },
    h("figcaption", {}, h("strong", {}, title), h("span", { class: "note" }, unit)),
    svg,
    h("ul", { class: "legend-list" }, series.map((one) => h("li", { style: { "--c": one.colour } }, h("span", { class: "dot", style: { "--c": one.colour } }), one.name, h("span", { class: "count" }, format(one.points.at(-1)[1]))))),
  );
}
