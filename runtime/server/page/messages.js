// The messages of the conversation that is shown. In: a conversation, and what the buttons do. Out: nodes in the log.
// Deliberately absent: storage and requests.

import { $, h, svg, button, copy } from "./dom.js";
import { update as markdown } from "./markdown.js";

const NEAR_THE_END = 80;

let actions = {};
let shown = [];

export function init(buttons) {
  actions = buttons;
  const scroll = $("scroll");
  scroll.addEventListener("scroll", () => ($("latest").hidden = atEnd()), { passive: true });
  $("latest").addEventListener("click", () => toEnd());
}

const atEnd = () => {
  const scroll = $("scroll");
  return scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_THE_END;
};

export function toEnd() {
  const scroll = $("scroll");
  scroll.scrollTop = scroll.scrollHeight;
  $("latest").hidden = true;
}

// Shows all messages; `welcome` is what an empty conversation shows.
export function show(chat, busy, welcome) {
  const log = $("log");
  log.replaceChildren();
  shown = [];
  if (!chat.messages.length) log.append(welcome());
  chat.messages.forEach((message, index) => add(chat, message, index, busy && index === chat.messages.length - 1));
  toEnd();
}

function add(chat, message, index, busy) {
  const last = index === chat.messages.length - 1;
  const node = message.role === "user" ? question(message, index) : reply(message, last);
  shown.push(node);
  $("log").append(node);
  if (message.role === "assistant") fill(node, message, busy);
}

function question(message, index) {
  const text = h("div", { class: "text" }, message.text);
  const tools = h("div", { class: "tools" }, [
    button("edit", "Edit this message", (event) => edit(event.currentTarget.closest("article"), message, index)),
    button("copy", "Copy this message", (event) => copy(message.text, event.currentTarget)),
  ]);
  return h("article", { class: "message user", "aria-label": "You" }, text, tools);
}

function reply(message, last) {
  const tools = h("div", { class: "tools" }, [
    button("copy", "Copy the answer", (event) => copy(message.text, event.currentTarget)),
    last && button("again", "Answer again", actions.again),
  ]);
  const foot = h("div", { class: "foot" }, tools, h("span", { class: "meta" }));
  return h("article", { class: "message answer", "aria-label": "Answer" }, bits(), h("div", { class: "text" }), foot);
}

// Minus one, zero, plus one: the mark beside an answer, which moves while there is something to wait for.
function bits() {
  const bar = (y, height, name) => svg("rect", { x: name * 7 + 2, y, width: 5, height, rx: 1.2, class: `bit-${name}` });
  return svg("svg", { class: "bits", viewBox: "0 0 24 20", "aria-hidden": "true" }, bar(11, 7, 0), bar(8.5, 3, 1), bar(2, 7, 2));
}

function fill(node, message, busy) {
  markdown(node.querySelector(".text"), message.text);
  node.classList.toggle("busy", busy);
  node.setAttribute("aria-busy", busy);
  node.querySelector(".tools").hidden = busy;
  node.querySelector(".meta").textContent = busy ? "" : facts(message);
  node.querySelector(".problem")?.remove();
  const note = busy ? null : message.error || NOTES[message.end];
  if (note) node.querySelector(".foot").before(h("p", { class: message.error ? "problem bad" : "problem" }, note));
}

const NOTES = {
  stopped: "You stopped this answer.",
  length: "The limit of tokens ended this answer: raise “Longest answer” in the settings, or start a new conversation where the context is full.",
  unfinished: "The page was closed before this answer ended.",
};

// Shows what the last message holds now.
export function update(message, busy) {
  const node = shown.at(-1);
  if (!node) return;
  const follow = atEnd();
  fill(node, message, busy);
  if (follow) toEnd();
}

export function facts(message) {
  const facts = [];
  const rate = speed(message);
  if (rate) facts.push(`${rate} tokens/s`);
  if (message.tokens) facts.push(`${message.tokens} tokens`);
  if (message.prompt) facts.push(`${message.prompt} in the prompt`);
  if (message.first) facts.push(`first after ${time(message.first)}`);
  return facts.join(" · ");
}

export const time = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`);

// Of the tokens after the first, whose time is the prompt's.
export function speed({ tokens, seconds }) {
  return tokens > 1 && seconds > 0 ? ((tokens - 1) / seconds).toFixed(1) : null;
}

function edit(node, message, index) {
  if (node.querySelector("textarea")) return;
  const area = h("textarea", { class: "editing", "aria-label": "Your message", rows: "3", value: message.text });
  const close = () => {
    form.remove();
    node.classList.remove("edited");
    node.querySelector(".tools button")?.focus();
  };
  const send = () => area.value.trim() && actions.edit(index, area.value.trim());
  const keys = (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  };
  area.addEventListener("keydown", keys);
  const row = h("div", { class: "row" }, [
    h("button", { type: "button", onclick: close }, "Cancel"),
    h("button", { type: "button", class: "primary", onclick: send }, "Ask again"),
  ]);
  const form = h("div", { class: "edit" }, area, row);
  node.classList.add("edited");
  node.append(form);
  area.focus();
  area.setSelectionRange(area.value.length, area.value.length);
}

// Opens the editor of the latest question.
export function editLast() {
  const node = shown.findLast((node) => node.classList.contains("user"));
  node?.querySelector(".tools button").click();
}
