// The form of settings: the system prompt of the conversation, how tokens are chosen, the theme, the key. An empty field
// is left to the server, whose defaults stand in the placeholders.

import { $, h } from "./dom.js";
import { key, setKey } from "./stream.js";

// name, label, least, most, step, placeholder without a server's word, explanation
const SAMPLING = [
  ["temperature", "Temperature", 0, 2, 0.05, "0.8", "0 always takes the likeliest token"],
  ["top_p", "Top p", 0, 1, 0.01, "0.95", "fewest tokens that are together this likely"],
  ["top_k", "Top k", 0, 1000, 1, "40", "best tokens to choose from, 0 for all"],
  ["min_p", "Min p", 0, 1, 0.01, "0.05", "as a part of the likeliest token’s chance"],
  ["repetition_penalty", "Repetition penalty", 0.5, 2, 0.05, "1", "above 1 avoids what was said"],
  ["max_tokens", "Longest answer", 1, 1_000_000, 1, "default", "in tokens"],
  ["seed", "Seed", 0, Number.MAX_SAFE_INTEGER, 1, "random", "the same seed, the same answer"],
];

// `kept` is changed in place and `changed` called; `setSystem` gets the text of the system prompt.
export function init(kept, { changed, setSystem, exportChat }) {
  const system = h("textarea", {
    id: "system",
    rows: "4",
    placeholder: "Nothing: the model’s own manner",
    oninput: (event) => setSystem(event.target.value),
  });
  const fields = SAMPLING.map((row) => field(kept, changed, row));
  const clear = h("button", { type: "button", onclick: () => reset(kept, changed) }, "Back to the server’s defaults");
  const secret = h("input", {
    id: "key",
    type: "password",
    autocomplete: "off",
    value: key(),
    oninput: (event) => {
      setKey(event.target.value.trim());
      changed("key");
    },
  });
  $("settings").append(
    group("System prompt", h("label", { class: "hidden", for: "system" }, "System prompt"), system,
      h("p", { class: "hint" }, "Of this conversation, and of those that you start next.")),
    group("Choosing tokens", h("div", { class: "fields" }, fields), clear),
    group("Appearance", themes(kept, changed)),
    group("This conversation",
      h("button", { type: "button", onclick: () => exportChat("json") }, "Export"),
      h("button", { type: "button", onclick: () => exportChat("md") }, "Save as Markdown")),
    group("API key", h("label", { class: "hidden", for: "key" }, "API key"), secret,
      h("p", { class: "hint" }, "Only where the server asks for one. Forgotten when this tab closes.")),
    group("Keys", keys()),
  );
}

function group(title, ...content) {
  return h("section", { class: "group" }, h("h2", null, title), content);
}

function field(kept, changed, [name, label, min, max, step, placeholder, hint]) {
  const id = `set-${name}`;
  const input = h("input", {
    id, type: "number", min, max, step, placeholder, value: kept[name] ?? "", inputmode: "decimal",
    "aria-describedby": `${id}-hint`,
    oninput: () => {
      const good = input.value === "" || input.checkValidity();
      input.setAttribute("aria-invalid", !good);
      if (!good) return;
      if (input.value === "") delete kept[name];
      else kept[name] = Number(input.value);
      changed(name);
    },
  });
  return h("div", { class: "field" }, h("label", { for: id }, label), input, h("span", { class: "hint", id: `${id}-hint` }, hint));
}

function themes(kept, changed) {
  const choice = ([value, label]) => {
    const input = h("input", { type: "radio", name: "theme", value, onchange: () => {
      kept.theme = value;
      applyTheme(value);
      changed("theme");
    } });
    input.checked = (kept.theme ?? "auto") === value;
    return h("label", { class: "choice" }, input, h("span", null, label));
  };
  const choices = [["auto", "System"], ["light", "Light"], ["dark", "Dark"]].map(choice);
  return h("fieldset", { class: "choices" }, h("legend", { class: "hidden" }, "Theme"), choices);
}

function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function keys() {
  const rows = [["Enter", "send"], ["Shift Enter", "new line"], ["Esc", "stop the answer"], ["↑", "edit the last question, where nothing is written"], ["Ctrl Shift O", "new conversation"]];
  const row = ([key, what]) => [h("dt", null, key.split(" ").map((part) => h("kbd", null, part))), h("dd", null, what)];
  return h("dl", { class: "keys-list" }, rows.flatMap(row));
}

function reset(kept, changed) {
  for (const [name] of SAMPLING) {
    delete kept[name];
    const input = $(`set-${name}`);
    input.value = "";
    input.setAttribute("aria-invalid", false);
  }
  changed("sampling");
}

// What goes into a request.
export function sampling(kept) {
  const set = SAMPLING.map(([name]) => [name, kept[name]]).filter(([, value]) => Number.isFinite(value));
  return Object.fromEntries(set);
}

export function showSystem(text) {
  $("system").value = text;
}

// What the server does where a field is empty.
export function showDefaults(defaults) {
  for (const [name] of SAMPLING) {
    if (Number.isFinite(defaults?.[name])) $(`set-${name}`).placeholder = String(+defaults[name].toPrecision(6));
  }
}
