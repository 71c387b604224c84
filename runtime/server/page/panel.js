// The engine's panel: which backend and kernels compute here, why, and the receipt, as `/props` tells.
//
// In: the JSON of `/props`. Out: nodes; a part that the server does not tell is left out, never invented.

import { $, h, svg, button, copy } from "./dom.js";

export function show(props) {
  const place = $("engine");
  const parts = [
    modelPart(props),
    selectionPart("Backend", props.backend, props.backend_line),
    selectionPart("Kernel set", props.selection, props.selection_line),
    kernelsPart(props),
    receiptPart(props),
  ].filter(Boolean);
  place.replaceChildren(h("div", { class: "live", id: "live", hidden: true }), ...parts, rawPart(props));
}

export function showProblem(message, retry) {
  const again = h("button", { type: "button", onclick: retry }, "Ask again");
  $("engine").replaceChildren(h("p", { class: "hint" }, `The server does not say what it is: ${message}`), again);
}

const group = (title, ...content) => h("section", { class: "group" }, h("h2", null, title), content);

function facts(rows) {
  const kept = rows.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return h("dl", { class: "facts" }, kept.flatMap(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
}

const list = (value) => (Array.isArray(value) ? value.join(", ") : value);

export function bytes(n) {
  if (!Number.isFinite(n)) return null;
  const unit = ["B", "KiB", "MiB", "GiB"].findLastIndex((_, i) => n >= 1024 ** i);
  const value = n / 1024 ** Math.max(unit, 0);
  return `${unit > 0 && value < 100 ? value.toFixed(1) : Math.round(value)} ${["B", "KiB", "MiB", "GiB"][Math.max(unit, 0)]}`;
}

function count(n) {
  if (!Number.isFinite(n)) return null;
  if (n >= 1e9) return `${(n / 1e9).toFixed(2)} billion`;
  return n >= 1e6 ? `${(n / 1e6).toFixed(1)} million` : String(n);
}

function modelPart({ model, engine }) {
  if (!model) return null;
  const bits = model.bits_per_weight;
  return group("Model", facts([
    ["name", model.id ?? model.name],
    ["architecture", model.architecture],
    ["parameters", count(model.parameters)],
    ["weights", [model.weight_type, bits && `${bits.toFixed(2)} bits each`].filter(Boolean).join(", ")],
    ["file", bytes(model.file_bytes)],
    ["context", engine?.context_size && `${engine.context_size} tokens`],
    ["KV cache", engine && [engine.kv_type, bytes(engine.kv_cache_bytes)].filter(Boolean).join(", ")],
    ["output head", engine?.head],
    ["threads", engine?.threads],
    ["device", engine?.device],
  ]));
}

function selectionPart(title, selection, line) {
  if (!selection && !line) return null;
  const parts = [];
  if (selection) {
    const detected = new Set(selection.detected);
    const chips = (selection.compiled ?? []).map((name) => {
      const state = name === selection.selected ? "selected" : detected.has(name) ? "detected" : "not on this machine";
      return h("li", { class: `chip ${state.split(" ")[0]}` }, name, h("span", { class: "hidden" }, `, ${state}`));
    });
    const asked = selection.requested === "auto" ? "the best that there is" : selection.requested;
    parts.push(h("p", { class: "big" }, selection.selected), h("p", { class: "hint" }, selection.reason));
    if (chips.length) parts.push(h("ul", { class: "chips", "aria-label": `What this build has, ${title}` }, chips));
    parts.push(facts([["asked for", asked], ["detected", list(selection.detected)]]));
  }
  if (line) parts.push(h("pre", { class: "line", tabindex: "0", role: "region", "aria-label": `Selection line, ${title}` }, line));
  return group(title, parts);
}

function kernelsPart({ kernels }) {
  if (!Array.isArray(kernels) || !kernels.length) return null;
  const types = (row) => [row.weight, row.activation].filter(Boolean).join(" × ");
  const more = (row) => [types(row), row.matrices > 1 && `${row.matrices} matrices`].filter(Boolean).join(", ");
  const row = (kernel) =>
    h("tr", null, h("th", { scope: "row" }, kernel.operation, h("span", { class: "hint" }, more(kernel))), h("td", null, kernel.kernel));
  const head = h("thead", null, h("tr", null, h("th", { scope: "col" }, "operation"), h("th", { scope: "col" }, "kernel")));
  return group("Kernel of each operation", h("table", { class: "kernels" }, head, h("tbody", null, kernels.map(row))));
}

function receiptPart({ receipt }) {
  if (!receipt) return null;
  const run = receipt.body ?? receipt;
  const short = (file) => file?.sha256 && h("code", { title: file.sha256 }, file.sha256.slice(0, 16));
  const bandwidth = run.peak_bandwidth && `${(run.peak_bandwidth / 1e9).toFixed(1)} GB/s`;
  const text = JSON.stringify(receipt, null, 2);
  return group("Receipt",
    facts([
      ["binary", short(run.binary)],
      ["version", run.binary_version],
      ["model", short(run.model?.file ?? run.model)],
      ["tokenizer", short(run.tokenizer)],
      ["machine", run.machine?.cpu],
      ["activations", run.activation_quant],
      ["read bandwidth", bandwidth],
      ["strict", run.strict === undefined ? null : run.strict ? "yes" : "no"],
    ]),
    countsPart(run.kernels),
    h("div", { class: "row start" }, button("copy", "Copy the receipt", (event) => copy(text, event.currentTarget)), h("span", { class: "hint" }, "the whole receipt as JSON")));
}

// What the kernels counted, longest first.
function countsPart(kernels) {
  if (!Array.isArray(kernels) || !kernels.length) return null;
  const most = Math.max(...kernels.map((kernel) => kernel.bytes || 0), 1);
  const bar = (part) => svg("svg", { class: "meter", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width: 100 * part, height: 4, rx: 1 }));
  const row = (kernel) => h("tr", null, h("th", { scope: "row" }, kernel.id, bar((kernel.bytes || 0) / most)), h("td", null, `${kernel.calls} calls`), h("td", null, bytes(kernel.bytes)));
  const rows = kernels.toSorted((a, b) => (b.bytes || 0) - (a.bytes || 0)).map(row);
  return h("table", { class: "kernels" }, h("caption", null, "What the kernels counted"), h("tbody", null, rows));
}

function rawPart(props) {
  const text = JSON.stringify(props, null, 2);
  return h("details", { class: "group" }, h("summary", null, "Everything the server says"), h("pre", { class: "raw", tabindex: "0", role: "region", "aria-label": "JSON of /props" }, text));
}

// A line of the speed of this answer: tokens per second of the last samples.
export function live(samples) {
  const place = $("live");
  if (!place) return;
  place.hidden = samples.length < 2;
  if (place.hidden) return;
  const most = Math.max(...samples, 1e-9);
  const step = 100 / (samples.length - 1);
  const points = samples.map((value, i) => `${(i * step).toFixed(2)},${(30 - (28 * value) / most).toFixed(2)}`).join(" ");
  const line = svg("polyline", { points, class: "live-line" });
  const area = svg("polygon", { points: `0,30 ${points} 100,30`, class: "live-area" });
  place.replaceChildren(
    h("p", { class: "big" }, samples.at(-1).toFixed(1), h("span", { class: "unit" }, " tokens/s")),
    svg("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" }, area, line),
  );
}
