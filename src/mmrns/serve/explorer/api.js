// Questions to the service.

import { h } from "./dom.js";

const BASE = "/api/v1/";
let token = sessionStorage.getItem("token");

export class Failure extends Error {
  constructor(status, body) {
    const error = body?.error ?? {};
    super(error.message ?? `the service answered ${status}`);
    this.status = status;
    this.field = error.field;
    this.alike = error.did_you_mean;
  }
}

async function ask(path, options = {}) {
  for (;;) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let response;
    try {
      response = await fetch(BASE + path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure(0, { error: { message: "the service does not answer; is it running?" } });
    }
    if (response.ok) return response;
    if (response.status !== 401) throw new Failure(response.status, await response.json().catch(() => null));
    token = await askToken(Boolean(token));
    sessionStorage.setItem("token", token);
  }
}

const query = (parameters) => {
  const found = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== null && one !== undefined && one !== "") found.append(key, one);
  }
  return found.size ? `?${found}` : "";
};

export async function get(path, parameters = {}, signal = undefined) {
  return (await ask(path + query(parameters), { signal })).json();
}

// A picture of an entity. With a token it is fetched, since a browser sends none for pictures.
export function picture(entity, { run, number = 0, size = "small", label = "", kind = "small" }) {
  const path = `picture${query({ entity, run, number, size })}`;
  const image = h("img", { class: `picture ${kind}`, alt: label, loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.remove());
  if (!token) image.src = BASE + path;
  else
    ask(path).then(async (response) => {
      image.src = URL.createObjectURL(await response.blob());
      image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
    }, () => image.remove());
  return image;
}

let dialog = null;
function askToken(wrong) {
  dialog ??= new Promise((resolve) => {
    const input = h("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
    const box = h(
      "dialog",
      { class: "token", "aria-labelledby": "token-title", oncancel: (event) => event.preventDefault() },
      h(
        "form",
        {
          method: "dialog",
          onsubmit: () => {
            box.remove();
            dialog = null;
            resolve(input.value.trim());
          },
        },
        h("h2", { id: "token-title" }, "This service asks for a token"),
        h("p", {}, wrong ? "That was not it. " : "", "Who started the service has it. It is kept until this tab is closed."),
        h("label", { for: "token" }, "Token"),
        input,
        h("button", { class: "main" }, "Go on"),
      ),
    );
    document.body.append(box);
    box.showModal();
  });
  return dialog;
}
