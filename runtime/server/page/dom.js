// Elements without markup: text only ever becomes text nodes, so nothing a model writes is parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

// h("button", { class: "icon", onclick: f }, "text", node, ...): properties that start with `on` are listeners,
// `data` fills the dataset, everything else is an attribute; null and false leave it out.
export function h(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export function icon(name) {
  return svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

export function button(name, label, onclick) {
  return h("button", { type: "button", class: "icon small", "aria-label": label, title: label, onclick }, icon(name));
}

// Tells people who listen.
export function say(text) {
  const place = $("said");
  place.textContent = "";
  requestAnimationFrame(() => (place.textContent = text));
}

// Puts text into the clipboard and shows it on the button. Off loopback without TLS there is no clipboard API.
export async function copy(text, on) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    on?.focus();
  }
  say(done ? "Copied" : "This browser did not let the page copy");
  if (done && on) {
    const use = on.querySelector("use");
    use?.setAttribute("href", "#i-check");
    setTimeout(() => use?.setAttribute("href", "#i-copy"), 1500);
  }
}

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// One question in a dialog: with `text`, an input that starts with it. Resolves to the text, true, or null.
export function ask({ title, label, text, yes }) {
  const dialog = $("ask");
  const input = $("ask-text");
  $("ask-title").textContent = title;
  $("ask-label").textContent = label;
  $("ask-yes").textContent = yes;
  input.hidden = text === undefined;
  input.value = text ?? "";
  dialog.returnValue = "no";
  $("ask-no").onclick = () => dialog.close("no");
  dialog.showModal();
  if (text === undefined) $("ask-yes").focus();
  else input.select();
  return new Promise((resolve) => {
    const closed = () => resolve(dialog.returnValue !== "yes" ? null : text === undefined ? true : input.value.trim());
    dialog.addEventListener("close", closed, { once: true });
  });
}
