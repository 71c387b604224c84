// Conversations and settings, kept in this browser and nowhere else.
//
// `bitforge.chats` lists { id, title, updated }, `bitforge.chat.ID` holds one conversation { id, title, system,
// created, updated, messages }, a message being { role, text, and what is known of an answer }. What is read is checked:
// storage and imported files may hold anything.

const LIST = "bitforge.chats";
const CHAT = "bitforge.chat.";
const SETTINGS = "bitforge.settings";
const FORMAT = "bitforge-conversations-1";
const LONGEST_TITLE = 60;

// Where the browser refuses storage, conversations last as long as the page.
const memory = new Map();
let refused = null;

function read(key) {
  try {
    const text = memory.has(key) ? memory.get(key) : localStorage.getItem(key);
    return text === null ? null : JSON.parse(text);
  } catch {
    return null;
  }
}

function write(key, value) {
  const text = JSON.stringify(value);
  try {
    localStorage.setItem(key, text);
    memory.delete(key);
  } catch (error) {
    memory.set(key, text);
    if (!refused) {
      refused = `This browser keeps no more (${error.name}): export conversations, or delete some.`;
    }
  }
}

// Why something could not be kept, once.
export function takeRefusal() {
  const why = refused;
  if (why) refused = "";
  return why || null;
}

const isText = (value) => typeof value === "string";
const number = (value) => (Number.isFinite(value) ? value : 0);

function cleanMessage(raw) {
  if (!raw || !["user", "assistant"].includes(raw.role) || !isText(raw.text)) return null;
  const message = { role: raw.role, text: raw.text };
  if (raw.role === "assistant") {
    if (isText(raw.end)) message.end = raw.end;
    if (isText(raw.error)) message.error = raw.error;
    if (isText(raw.model)) message.model = raw.model;
    for (const key of ["tokens", "prompt", "seconds", "first"]) {
      if (Number.isFinite(raw[key])) message[key] = raw[key];
    }
  }
  return message;
}

function cleanChat(raw) {
  if (!raw || !isText(raw.id) || !/^[\w-]{1,64}$/.test(raw.id) || !Array.isArray(raw.messages)) return null;
  return {
    id: raw.id,
    title: isText(raw.title) ? raw.title.slice(0, LONGEST_TITLE * 2) : "",
    system: isText(raw.system) ? raw.system : "",
    created: number(raw.created),
    updated: number(raw.updated),
    messages: raw.messages.map(cleanMessage).filter(Boolean),
  };
}

export function list() {
  const rows = read(LIST);
  const good = (row) => row && isText(row.id) && isText(row.title) && Number.isFinite(row.updated);
  return (Array.isArray(rows) ? rows.filter(good) : []).sort((a, b) => b.updated - a.updated);
}

export const load = (id) => cleanChat(read(CHAT + id));

export function create(system) {
  const id = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("");
  return { id, title: "", system, created: Date.now(), updated: Date.now(), messages: [] };
}

export function titleOf(chat) {
  if (chat.title) return chat.title;
  const asked = chat.messages.find((message) => message.role === "user");
  const line = (asked?.text || "").trim().split("\n")[0];
  return line.length > LONGEST_TITLE ? `${line.slice(0, LONGEST_TITLE - 1)}…` : line || "New conversation";
}

// Keeps a conversation; one without messages is not worth a place.
export function save(chat, touch = true) {
  if (!chat.messages.length) return;
  if (touch) chat.updated = Date.now();
  write(CHAT + chat.id, chat);
  const rows = list().filter((row) => row.id !== chat.id);
  rows.push({ id: chat.id, title: titleOf(chat), updated: chat.updated });
  write(LIST, rows);
}

export function remove(id) {
  memory.delete(CHAT + id);
  try {
    localStorage.removeItem(CHAT + id);
  } catch {
    // It was never kept.
  }
  write(LIST, list().filter((row) => row.id !== id));
}

export function exported() {
  const chats = list().map((row) => load(row.id)).filter(Boolean);
  return JSON.stringify({ format: FORMAT, conversations: chats }, null, 2);
}

// Adds the conversations of an exported file. One that is here already is replaced where the file's is newer.
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("the file is not JSON; choose one that this page exported");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error(`the file is not of the format ${FORMAT}; choose one that this page exported`);
  }
  const chats = file.conversations.map(cleanChat).filter((chat) => chat?.messages.length);
  const newer = chats.filter((chat) => chat.updated > (load(chat.id)?.updated ?? -1));
  newer.forEach((chat) => save(chat, false));
  return { found: chats.length, added: newer.length };
}

export function markdown(chat) {
  const parts = [`# ${titleOf(chat)}`];
  if (chat.system) parts.push(`*${chat.system}*`);
  for (const message of chat.messages) {
    parts.push(message.role === "user" ? `**You:** ${message.text}` : message.text);
  }
  return parts.join("\n\n") + "\n";
}

export function settings() {
  const raw = read(SETTINGS);
  return raw && typeof raw === "object" && !Array.isArray(raw) ? raw : {};
}

export const saveSettings = (settings) => write(SETTINGS, settings);

// Calls back with the id of a conversation that another tab changed, or with null for the list.
export function onChange(changed) {
  addEventListener("storage", (event) => {
    if (event.key?.startsWith(CHAT)) changed(event.key.slice(CHAT.length));
    else if (event.key === LIST) changed(null);
  });
}
