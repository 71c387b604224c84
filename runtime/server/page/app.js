// The page of `bitnet serve`: wires conversations, messages, settings and the engine's panel together.
//
// All state that lasts is in `store`; a running answer lives in `running`, by conversation, so that another conversation can
// be read or asked meanwhile. Deliberately absent: any request to another host.

import { $, h, svg, icon, ask, download, say } from "./dom.js";
import * as store from "./store.js";
import * as stream from "./stream.js";
import * as messages from "./messages.js";
import * as panel from "./panel.js";
import * as settings from "./settings.js";

const KEEP_EVERY = 1000;
const SPEED_WINDOW = 2000;
const NARROW = matchMedia("(max-width: 760px)");
const MEDIUM = matchMedia("(max-width: 1180px)");

const kept = store.settings();
let chat = store.create(kept.system ?? "");
let model = null;
// Conversation id -> { stop, message, chat }.
const running = new Map();

// ---- Conversations

function open(next) {
  chat = next;
  settings.showSystem(chat.system);
  messages.show(chat, running.has(chat.id), welcome);
  refresh();
  history.replaceState(null, "", chat.messages.length ? `#${chat.id}` : location.pathname + location.search);
}

function refresh() {
  const wanted = $("filter").value.trim().toLowerCase();
  const rows = store.list().filter((row) => row.title.toLowerCase().includes(wanted));
  $("chat-list").replaceChildren(...rows.map(entry));
  $("chat-none").hidden = rows.length > 0 || !wanted;
  const title = store.titleOf(chat);
  $("title").textContent = title;
  document.title = chat.messages.length ? `${title} · bitforge` : "bitforge";
  $("rename").hidden = !chat.messages.length;
  const busy = running.has(chat.id);
  $("send").classList.toggle("stopping", busy);
  $("send").setAttribute("aria-label", busy ? "Stop the answer" : "Send");
  $("send").replaceChildren(icon(busy ? "stop" : "send"));
  const refusal = store.takeRefusal();
  if (refusal) banner(refusal);
}

function entry({ id, title }) {
  const current = id === chat.id;
  const go = h("button", { class: "entry", "aria-current": current ? "page" : null, onclick: () => select(id) }, title);
  const remove = h("button", { class: "icon small", "aria-label": `Delete “${title}”`, onclick: () => drop(id, title) }, icon("bin"));
  return h("li", { class: running.has(id) ? "running" : null }, go, remove);
}

function select(id) {
  drawer("chats", false);
  // What is being answered is in memory, not in the store.
  const next = running.get(id)?.chat ?? store.load(id);
  if (next) open(next);
  $("question").focus();
}

function startNew() {
  drawer("chats", false);
  open(store.create(kept.system ?? ""));
  $("question").focus();
}

async function drop(id, title) {
  const sure = await ask({ title: "Delete this conversation?", label: `“${title}” is kept nowhere else.`, yes: "Delete" });
  if (!sure) return;
  running.get(id)?.stop();
  running.delete(id);
  store.remove(id);
  if (id === chat.id) startNew();
  else refresh();
}

async function rename() {
  const title = await ask({ title: "Rename", label: "Name of this conversation", text: store.titleOf(chat), yes: "Rename" });
  if (title === null) return;
  chat.title = title.slice(0, 120);
  store.save(chat, false);
  refresh();
}

async function importFile(file) {
  try {
    const { found, added } = store.imported(await file.text());
    banner(`${added} of ${found} conversations were added; the others were here already.`, "good");
  } catch (error) {
    banner(`${file.name}: ${error.message}`);
  }
  refresh();
}

function exportChat(kind) {
  if (!chat.messages.length) return banner("This conversation has no messages yet.");
  const name = store.titleOf(chat).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").toLowerCase() || "conversation";
  if (kind === "md") return download(`${name}.md`, "text/markdown", store.markdown(chat));
  const text = JSON.stringify({ format: "bitforge-conversations-1", conversations: [chat] }, null, 2);
  return download(`${name}.json`, "application/json", text);
}

// ---- Answers

function send(text) {
  if (running.has(chat.id)) return;
  chat.messages.push({ role: "user", text });
  reply();
}

function answerAgain() {
  if (running.has(chat.id)) return;
  if (chat.messages.at(-1)?.role === "assistant") chat.messages.pop();
  if (chat.messages.length) reply();
}

function editAt(index, text) {
  if (running.has(chat.id)) return;
  chat.messages.length = index;
  send(text);
}

async function reply() {
  const own = chat;
  const message = { role: "assistant", text: "", end: "unfinished", model };
  const turns = own.messages.map(({ role, text }) => ({ role, content: text }));
  const system = own.system.trim() ? [{ role: "system", content: own.system.trim() }] : [];
  const controller = new AbortController();
  own.messages.push(message);
  running.set(own.id, { stop: () => controller.abort(), message, chat: own });
  banner(null);
  open(own);
  store.save(own);
  refresh();
  say("Answering");
  const meter = new Meter(message);
  let frame = 0;
  let keptAt = performance.now();
  const draw = () => {
    frame = 0;
    if (chat.id === own.id) messages.update(message, true);
  };
  try {
    const body = { model, messages: [...system, ...turns], ...settings.sampling(kept) };
    const result = await stream.answer(body, controller.signal, {
      text: (piece) => {
        message.text += piece;
        meter.piece();
        if (chat.id === own.id) status(meter.line());
        frame ||= requestAnimationFrame(draw);
        if (performance.now() - keptAt > KEEP_EVERY) {
          keptAt = performance.now();
          store.save(own);
        }
      },
    });
    message.end = result.end;
    meter.done(result.usage);
  } catch (error) {
    meter.done(null);
    if (error.name === "AbortError") {
      message.end = "stopped";
    } else {
      message.end = "error";
      message.error = explain(error);
    }
  }
  cancelAnimationFrame(frame);
  message.text = message.text.trim();
  const removed = !running.has(own.id);
  running.delete(own.id);
  if (removed) return;
  store.save(own);
  if (chat.id === own.id) {
    // What is new on the last message: its buttons.
    messages.update(message, false);
    status(null);
    panel.live([]);
  }
  refresh();
  say(message.error ? `No answer: ${message.error}` : message.end === "stopped" ? "Stopped" : "The answer is complete");
  if (!message.error) loadProps();
}

function explain(error) {
  if (error.status === 401 || error.status === 403) {
    drawer("panel", true, "settings");
    $("key").focus();
    return `${error.message}. Give the server’s API key in the settings.`;
  }
  return error.message.charAt(0).toUpperCase() + error.message.slice(1);
}

// Speed as it is seen here. A piece of text is about a token; the server's own count replaces the guess at the end.
class Meter {
  constructor(message) {
    this.message = message;
    this.started = performance.now();
    this.times = [];
    this.samples = [];
    this.count = 0;
  }

  piece() {
    const now = performance.now();
    this.count += 1;
    this.firstAt ??= now;
    this.lastAt = now;
    this.times.push(now);
    while (this.times[0] < now - SPEED_WINDOW) this.times.shift();
    if (!this.sampledAt || now - this.sampledAt > 200) {
      this.sampledAt = now;
      const rate = this.rate();
      if (rate) this.samples.push(rate);
      if (this.samples.length > 60) this.samples.shift();
      panel.live(this.samples);
    }
  }

  rate() {
    const span = this.times.at(-1) - this.times[0];
    return span > 0 ? ((this.times.length - 1) * 1000) / span : 0;
  }

  line() {
    const rate = this.rate();
    const first = messages.time((this.firstAt - this.started) / 1000);
    return [rate && `${rate.toFixed(1)} tokens/s`, `${this.count} tokens`, `first after ${first}`].filter(Boolean).join(" · ");
  }

  done(usage) {
    const message = this.message;
    if (!this.firstAt) return;
    message.tokens = usage?.completion_tokens ?? this.count;
    if (usage?.prompt_tokens) message.prompt = usage.prompt_tokens;
    message.first = (this.firstAt - this.started) / 1000;
    message.seconds = (this.lastAt - this.firstAt) / 1000;
  }
}

// ---- The server

async function loadProps() {
  try {
    const props = await stream.getJson("props");
    panel.show(props);
    settings.showDefaults(props.default_sampling ?? props.sampling);
    return props;
  } catch (error) {
    panel.showProblem(error.message, connect);
    return null;
  }
}

async function connect() {
  try {
    const models = await stream.getJson("v1/models");
    model = models.data?.[0]?.id ?? null;
    $("model").textContent = model ?? "no model";
    banner(null);
  } catch (error) {
    if (error.status === 503) {
      $("model").textContent = "loading the model …";
      setTimeout(connect, 1000);
      return;
    }
    $("model").textContent = "not connected";
    banner(explain(error), "bad", connect);
  }
  const props = await loadProps();
  const selected = props?.selection?.selected;
  if (model && selected) $("model").textContent = `${model} · ${selected}`;
}

// ---- What is around the conversation

function banner(text, kind = "bad", retry = null) {
  const place = $("banner");
  place.hidden = !text;
  place.className = `banner ${kind}`;
  if (!text) return place.replaceChildren();
  const again = retry && h("button", { type: "button", onclick: retry }, "Try again");
  const close = h("button", { type: "button", class: "icon small", "aria-label": "Dismiss", onclick: () => banner(null) }, icon("close"));
  return place.replaceChildren(...[h("span", null, text), again, close].filter(Boolean));
}

function status(text) {
  const keys = h("span", { class: "keys" }, "Enter sends, Shift+Enter starts a new line");
  $("status").replaceChildren(text ? h("span", { class: "speed" }, text) : keys);
}

function welcome() {
  const ideas = [
    "Explain how a model with weights of only −1, 0 and 1 can work.",
    "Write a short story about a blacksmith and her apprentice.",
    "Give me a table of three rivers, their lengths and where they end.",
  ];
  const idea = (text) => h("button", { type: "button", onclick: () => send(text) }, text);
  return h("div", { class: "welcome" }, weave(), h("h2", null, "What would you like to know?"), h("p", { class: "hint" }, "Everything stays on this server and in this browser."), h("div", { class: "ideas" }, ideas.map(idea)));
}

// A strip of ternary weights.
function weave() {
  const squares = [];
  let seed = 158;
  for (let column = 0; column < 24; column += 1) {
    for (let row = 0; row < 3; row += 1) {
      seed = (seed * 48271) % 2147483647;
      squares.push(svg("rect", { x: column * 10 + 1, y: row * 10 + 1, width: 8, height: 8, rx: 2, class: `bit-${seed % 3}` }));
    }
  }
  return svg("svg", { class: "weave", viewBox: "0 0 240 30", "aria-hidden": "true" }, ...squares);
}

// Opens or closes a drawer. On wide screens the panel stands beside the conversation, and so does the list.
function drawer(name, opened, tab) {
  const before = $("app").classList.contains(`${name}-open`);
  if (tab) showTab(tab);
  if (before === opened) return;
  const other = name === "chats" ? "panel" : "chats";
  if (opened && NARROW.matches) $("app").classList.remove(`${other}-open`);
  $("app").classList.toggle(`${name}-open`, opened);
  arrange();
  if (name === "panel") {
    kept.panel = opened && !MEDIUM.matches;
    store.saveSettings(kept);
  }
  const over = name === "chats" ? NARROW.matches : MEDIUM.matches;
  if (opened && over) $(`${name}-close`).focus();
  if (!opened && over) $(`${name}-open`).focus();
}

// A drawer that is closed is not there for the keyboard either; what an open one covers is not.
function arrange() {
  const open = (name) => $("app").classList.contains(`${name}-open`);
  $("chats").inert = NARROW.matches && !open("chats");
  $("panel").inert = !open("panel");
  document.querySelector("main").inert = (NARROW.matches && open("chats")) || (MEDIUM.matches && open("panel"));
  for (const name of ["chats", "panel"]) $(`${name}-open`).setAttribute("aria-expanded", open(name));
}

function showTab(name) {
  for (const tab of ["settings", "engine"]) {
    $(tab).hidden = tab !== name;
    $(`tab-${tab}`).setAttribute("aria-selected", tab === name);
    $(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
  }
}

function grow() {
  const area = $("question");
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight, innerHeight * 0.4)}px`;
}

function submit(event) {
  event?.preventDefault();
  const text = $("question").value.trim();
  if (running.has(chat.id)) {
    running.get(chat.id).stop();
  } else if (text) {
    $("question").value = "";
    grow();
    send(text);
  }
}

function wire() {
  messages.init({ again: answerAgain, edit: editAt });
  settings.init(kept, {
    changed: (name) => {
      store.saveSettings(kept);
      if (name === "key") connect();
    },
    setSystem: (text) => {
      chat.system = kept.system = text;
      store.saveSettings(kept);
      store.save(chat, false);
    },
    exportChat,
  });
  const on = (id, event, listener) => $(id).addEventListener(event, listener);
  on("composer", "submit", submit);
  on("question", "input", grow);
  on("question", "keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!running.has(chat.id)) submit();
    } else if (event.key === "ArrowUp" && !event.target.value && !running.has(chat.id)) {
      event.preventDefault();
      messages.editLast();
    }
  });
  on("send", "click", submit);
  on("new-chat", "click", startNew);
  on("filter", "input", refresh);
  on("rename", "click", rename);
  on("export", "click", () => download("bitforge-conversations.json", "application/json", store.exported()));
  on("import", "click", () => $("import-file").click());
  on("import-file", "change", (event) => {
    if (event.target.files[0]) importFile(event.target.files[0]);
    event.target.value = "";
  });
  on("chats-open", "click", () => drawer("chats", true));
  on("chats-close", "click", () => drawer("chats", false));
  on("panel-open", "click", () => drawer("panel", !$("app").classList.contains("panel-open")));
  on("panel-close", "click", () => drawer("panel", false));
  on("shade", "click", () => ["chats", "panel"].forEach((name) => drawer(name, false)));
  for (const [name, other] of [["settings", "engine"], ["engine", "settings"]]) {
    on(`tab-${name}`, "click", () => showTab(name));
    on(`tab-${name}`, "keydown", (event) => {
      if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      showTab(other);
      $(`tab-${other}`).focus();
    });
  }
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !$("ask").open) {
      if (document.querySelector("main").inert) ["chats", "panel"].forEach((name) => drawer(name, false));
      else running.get(chat.id)?.stop();
    } else if ((event.ctrlKey || event.metaKey) && event.shiftKey && event.key.toLowerCase() === "o") {
      event.preventDefault();
      startNew();
    }
  });
  for (const query of [NARROW, MEDIUM]) query.addEventListener("change", arrange);
  // What is being answered is kept as unfinished; that its request then fails is no news.
  addEventListener("pagehide", () => {
    running.forEach((run) => store.save(run.chat));
    running.clear();
  });
  store.onChange((id) => {
    const here = id === chat.id && !running.has(id) && store.load(id);
    if (here) open(here);
    else refresh();
  });
}

wire();
if (kept.panel && !MEDIUM.matches) $("app").classList.add("panel-open");
arrange();
open(store.load(location.hash.slice(1)) ?? chat);
connect();
