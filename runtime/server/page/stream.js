// The server's API: the list of models, what it says of itself, and answers as they are made.

export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const KEY = "bitforge.key";

export function key() {
  try {
    return sessionStorage.getItem(KEY) || "";
  } catch {
    return "";
  }
}

// The key is forgotten with the tab.
export function setKey(value) {
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Then it is asked for again.
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("the server does not answer; is `bitnet serve` still running?", 0);
  }
  if (!response.ok) throw new ServerError(await problem(response), response.status);
  return response;
}

async function problem(response) {
  const text = await response.text().catch(() => "");
  try {
    const error = JSON.parse(text).error;
    const message = typeof error === "string" ? error : error?.message;
    if (message) return message;
  } catch {
    // Not JSON: the status says what there is to say.
  }
  return `the server answered ${response.status} ${response.statusText}`;
}

export const getJson = async (path) => (await request(path)).json();

// The events of a text/event-stream body, one `data` string each.
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      for (;;) {
        const end = /\r\n\r\n|\n\n|\r\r/.exec(text);
        if (!end) break;
        const lines = text.slice(0, end.index).split(/\r\n|\n|\r/);
        text = text.slice(end.index + end[0].length);
        const data = lines.filter((line) => line.startsWith("data:"));
        if (data.length) yield data.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Asks for an answer. `on.text(piece)` as words come; resolves to { end, usage } where `end` is OpenAI's finish_reason.
export async function answer(body, signal, on) {
  const options = { method: "POST", signal, headers: { "Content-Type": "application/json" } };
  const stream = { stream: true, stream_options: { include_usage: true } };
  const response = await request("v1/chat/completions", { ...options, body: JSON.stringify({ ...body, ...stream }) });
  const result = { end: null, usage: null };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return result;
    const event = JSON.parse(data);
    if (event.error) throw new ServerError(event.error.message || String(event.error), 500);
    if (event.usage) result.usage = event.usage;
    const choice = event.choices?.[0];
    if (choice?.delta?.content) on.text(choice.delta.content);
    if (choice?.finish_reason) result.end = choice.finish_reason;
  }
  if (!result.end) throw new ServerError("the connection ended in the middle of the answer", 0);
  return result;
}
