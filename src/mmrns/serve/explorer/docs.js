// The reference of the API, from its own description.

import { failed, h, show } from "./dom.js";

const main = document.getElementById("main");
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "auto";

const resolved = (schema, every) => (schema?.$ref ? every[schema.$ref.split("/").pop()] : schema);

function type(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((one) => `“${one}”`).join(" | ");
  if (schema.const !== undefined) return `“${schema.const}”`;
  if (schema.anyOf) return schema.anyOf.map(type).join(" | ");
  if (schema.type === "array") return `list of ${type(schema.items)}`;
  if (schema.type === "object" && schema.additionalProperties) return `object of ${type(schema.additionalProperties) || "anything"}`;
  const bounds = [schema.minimum !== undefined && `≥ ${schema.minimum}`, schema.maximum !== undefined && `≤ ${schema.maximum}`].filter(Boolean).join(", ");
  return [schema.type, bounds].filter(Boolean).join(" ");
}

// What a text marks as code is shown as such.
const marked = (text) => text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));

const table = (label, rows) =>
  rows.length > 0 &&
  h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, h("table", { class: "reference" }, h("caption", { class: "note" }, label), h("tbody", {}, rows.map(([name, kind, text]) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, name)), h("td", { class: "type" }, kind), h("td", {}, marked(text ?? "")))))));

function fields(schema, every) {
  const found = resolved(schema, every);
  const needed = new Set(found?.required ?? []);
  return Object.entries(found?.properties ?? {}).map(([name, one]) => [name, type(one), [one.description, needed.has(name) || one.default === undefined || one.default === null ? "" : `By default ${one.default}.`].filter(Boolean).join(" ")]);
}

function operation(path, method, one, every) {
  const parameters = (one.parameters ?? []).map((p) => [p.name + (p.required ? " *" : ""), type(p.schema), [p.description ?? p.schema.description, p.schema.default === undefined || p.schema.default === null ? "" : `By default ${p.schema.default}.`].filter(Boolean).join(" ")]);
  const body = one.requestBody?.content?.["application/json"]?.schema;
  const answer = one.responses?.["200"]?.content?.["application/json"]?.schema;
  const id = one.operationId;
  return h(
    "article",
    { class: "card operation", id },
    h("h3", {}, h("span", { class: `method ${method}` }, method.toUpperCase()), " ", h("code", {}, path)),
    h("p", {}, marked(one.description ?? one.summary ?? "")),
    table("Parameters", parameters),
    body && table("Body (JSON)", fields(body, every)),
    answer && h("details", {}, h("summary", {}, `Answer: ${type(answer)}`), table("Keys", fields(answer, every))),
  );
}

async function reference() {
  const response = await fetch("/api/v1/openapi.json");
  if (!response.ok) throw new Error(`the service answered ${response.status}`);
  const found = await response.json();
  const every = found.components?.schemas ?? {};
  const operations = Object.entries(found.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, one]) => [path, method, one]));
  const groups = [...new Set(operations.map(([, , one]) => one.tags?.[0] ?? "other"))];
  const titles = { runs: "Runs", graph: "The graph", model: "The model" };
  show(
    main,
    h("header", { class: "lead" }, h("h1", {}, "API"), found.info.description.split("\n\n").map((text) => h("p", {}, marked(text)))),
    h("pre", { class: "card" }, `curl '${location.origin}/api/v1/predict?head=…&relation=…&top=3'\ncurl -H 'Authorization: Bearer TOKEN' '${location.origin}/api/v1/runs'    # where a token is asked for`),
    groups.map((group) => h("section", {}, h("h2", {}, titles[group] ?? group), operations.filter(([, , one]) => (one.tags?.[0] ?? "other") === group).map(([path, method, one]) => operation(path, method, one, every)))),
    h("section", {}, h("h2", {}, "Parts of answers"), Object.entries(every).filter(([name]) => !/^(Body_|HTTPValidation|Validation)/.test(name)).map(([name, schema]) => h("details", { class: "card part-of", id: `schema-${name}` }, h("summary", {}, name), h("p", {}, schema.description ?? ""), table("Keys", fields(schema, every))))),
  );
}

reference().catch((error) => show(main, failed(error)));
