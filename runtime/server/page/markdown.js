// Markdown to DOM nodes: the part of it that models write.
//
// In: text, perhaps unfinished. Out: nodes. Everything that is not markup stays text, HTML included; an image becomes a link,
// so that showing an answer never sends a request. `update` keeps the nodes of blocks that did not change, so a long
// answer does not flicker while it grows, and a selection in it lives. Deliberately absent: reference links, footnotes, HTML.

import { h, button, copy } from "./dom.js";
import { highlight } from "./highlight.js";

const DEEPEST = 12;

// Replaces what `place` shows by `text`, block by block.
export function update(place, text) {
  const blocks = split(text.replace(/\r\n?/g, "\n").split("\n"));
  const shown = Array.from(place.children);
  blocks.forEach((block, index) => {
    const old = shown[index];
    if (old && old.source === block.source) return;
    const node = block.node(0);
    node.source = block.source;
    if (old) old.replaceWith(node);
    else place.append(node);
  });
  shown.slice(blocks.length).forEach((node) => node.remove());
}

function render(lines, depth) {
  if (depth > DEEPEST) return [h("p", null, lines.join("\n"))];
  return split(lines).map((block) => block.node(depth));
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(\s+|$)/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

// Blocks as { source, node }: `source` names what a node was made of.
function split(lines) {
  const blocks = [];
  let at = 0;
  let above = 1;
  const take = (until) => lines.slice(at, (at = until));
  const add = (kind, from, node) => blocks.push({ source: `${kind}\n${from.join("\n")}`, node });
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    const heading = HEADING.exec(line);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      const close = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},}\\s*$`);
      let end = at + 1;
      while (end < lines.length && !close.test(lines[end])) end += 1;
      const body = take(Math.min(end + 1, lines.length)).slice(1);
      if (end < lines.length) body.pop();
      add(`code ${fence[2]}`, body, () => code(body.join("\n"), fence[2]));
    } else if (heading) {
      // The page has the first level; whatever a model writes, no level is left out on the way down.
      const level = (above = Math.min(heading[1].length + 1, above + 1, 6));
      add(`heading ${level}`, take(at + 1), (depth) => h(`h${level}`, null, inline(heading[2], depth)));
    } else if (RULE.test(line)) {
      add("rule", take(at + 1), () => h("hr"));
    } else if (QUOTE.test(line)) {
      let end = at + 1;
      while (end < lines.length && QUOTE.test(lines[end])) end += 1;
      const body = take(end).map((quoted) => quoted.replace(QUOTE, ""));
      add("quote", body, (depth) => h("blockquote", null, render(body, depth + 1)));
    } else if (ITEM.test(line)) {
      const body = take(listEnd(lines, at));
      add("list", body, (depth) => listOf(body, depth));
    } else if (line.includes("|") && at + 1 < lines.length && DIVIDER.test(lines[at + 1]) && lines[at + 1].includes("-")) {
      let end = at + 2;
      while (end < lines.length && lines[end].includes("|") && lines[end].trim()) end += 1;
      const body = take(end);
      add("table", body, (depth) => table(body, depth));
    } else {
      let end = at + 1;
      while (end < lines.length && lines[end].trim() && !starts(lines[end])) end += 1;
      const body = take(end);
      add("text", body, (depth) => h("p", null, inline(body.join("\n").trimStart(), depth)));
    }
  }
  return blocks;
}

const starts = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((start) => start.test(line));
const indent = (line) => line.length - line.trimStart().length;

function listEnd(lines, start) {
  let end = start + 1;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    if (line.trim() ? indent(line) < 2 && !ITEM.test(line) && !lines[end - 1].trim() : false) break;
    if (line.trim() && indent(line) < 2 && !ITEM.test(line) && starts(line)) break;
  }
  while (end > start + 1 && !lines[end - 1].trim()) end -= 1;
  return end;
}

function listOf(lines, depth) {
  const first = ITEM.exec(lines[0]);
  const ordered = /\d/.test(first[2]);
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    const outer = item && item[1].length < (items.at(-1)?.inner ?? 4);
    if (item && outer) items.push({ inner: item[0].length, lines: [line.slice(item[0].length)] });
    else items.at(-1).lines.push(line.slice(Math.min(indent(line), items.at(-1).inner)));
  }
  const start = ordered && parseInt(first[2], 10);
  const props = ordered && start !== 1 ? { start } : null;
  return h(ordered ? "ol" : "ul", props, items.map(({ lines }) => item(lines, depth)));
}

function item(lines, depth) {
  const task = /^\[([ xX])\]\s+/.exec(lines[0]);
  const body = task ? [lines[0].slice(task[0].length), ...lines.slice(1)] : lines;
  const nodes = render(body, depth + 1);
  // A tight item is text, not a paragraph.
  const content = nodes.flatMap((node) => (node.tagName === "P" && nodes[0] === node ? Array.from(node.childNodes) : [node]));
  const mark = task && (task[1] === " " ? "☐ " : "☑ ");
  return h("li", task ? { class: "task" } : null, mark, content);
}

function cells(line) {
  const text = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return text.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function table(lines, depth) {
  const align = cells(lines[1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "middle" : "end") : "start"));
  const row = (tag, line) => {
    const values = cells(line).slice(0, align.length);
    return h("tr", null, values.map((cell, i) => h(tag, { class: `to-${align[i]}` }, inline(cell, depth))));
  };
  const body = h("tbody", null, lines.slice(2).map((line) => row("td", line)));
  const whole = h("table", null, h("thead", null, row("th", lines[0])), body);
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table" }, whole);
}

function code(text, language) {
  const place = h("code", null, highlight(text, language));
  const label = h("span", null, language || "text");
  const head = h("div", { class: "code-head" }, label, button("copy", "Copy the code", (event) => copy(text, event.currentTarget)));
  const pre = h("pre", { tabindex: "0", role: "region", "aria-label": `Code, ${language || "text"}` }, place);
  return h("div", { class: "code" }, head, pre);
}

const MARKS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];
const PLAIN = /[\\`*_~[!<h\n]/g;
const URL_HERE = /^https?:\/\/[^\s<>"']+/;

// Nodes of one run of text. `absent` keeps what was looked for in vain, so that a hostile text costs no more than its length.
function inline(text, depth) {
  if (depth > DEEPEST) return [text];
  const nodes = [];
  const absent = new Set();
  let from = 0;
  let at = 0;
  const flush = (until) => until > from && nodes.push(text.slice(from, until));
  const put = (node, end) => {
    flush(at);
    nodes.push(node);
    from = at = end;
  };
  const find = (what, start) => {
    if (absent.has(what)) return -1;
    const found = text.indexOf(what, start);
    if (found < 0) absent.add(what);
    return found;
  };
  for (;;) {
    PLAIN.lastIndex = at;
    const next = PLAIN.exec(text);
    if (!next) break;
    at = next.index;
    const c = text[at];
    if (c === "\n") {
      const hard = text.slice(from, at).endsWith("  ");
      if (hard) put(h("br"), at + 1);
      else at += 1;
    } else if (c === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      put(text[at + 1], at + 2);
    } else if (c === "`") {
      const ticks = /^`+/.exec(text.slice(at, at + 64))[0];
      const end = find(ticks, at + ticks.length);
      if (end < 0) at += ticks.length;
      else put(h("code", null, text.slice(at + ticks.length, end).replace(/^ (.*) $/s, "$1")), end + ticks.length);
    } else if (c === "[" || (c === "!" && text[at + 1] === "[")) {
      const link = linkAt(text, at + (c === "!" ? 1 : 0), find);
      if (link) put(anchor(link.href, inline(link.label || link.href, depth + 1)), link.end);
      else at += 1;
    } else if (c === "<" || c === "h") {
      const found = URL_HERE.exec(text.slice(c === "<" ? at + 1 : at, at + 2048));
      const closed = c === "h" || text[at + 1 + (found?.[0].length ?? 0)] === ">";
      const before = text[at - 1] ?? " ";
      if (found && closed && (c === "<" || /[\s(*_~"']/.test(before))) {
        const href = c === "<" ? found[0] : found[0].replace(/[.,;:!?)*_~]+$/, "");
        put(anchor(href, [href]), at + href.length + (c === "<" ? 2 : 0));
      } else {
        at += 1;
      }
    } else {
      const mark = MARKS.find(([open]) => text.startsWith(open, at));
      const span = mark && spanAt(text, at, mark[0], find);
      if (span) put(h(mark[1], null, inline(span.text, depth + 1)), span.end);
      else at += mark ? mark[0].length : 1;
    }
  }
  flush(text.length);
  return nodes;
}

// What an emphasis mark at `at` encloses: no space inside the marks, and no underscore within a word.
function spanAt(text, at, mark, find) {
  const start = at + mark.length;
  if (/\s/.test(text[start] ?? " ")) return null;
  if (mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[at - 1] ?? "")) return null;
  let end = find(mark, start + 1);
  for (let tries = 0; end >= 0 && tries < 64; tries += 1) {
    const within = mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[end + mark.length] ?? "");
    const longer = mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark);
    if (!/\s/.test(text[end - 1]) && !within && !longer) return { text: text.slice(start, end), end: end + mark.length };
    end = text.indexOf(mark, end + (longer && text[end + 1] === mark ? 2 : 1));
  }
  return null;
}

function linkAt(text, at, find) {
  const middle = find("](", at);
  if (middle < 0 || middle - at > 1000 || text.slice(at, middle).includes("\n\n")) return null;
  // Parentheses within an address come in pairs.
  let end = middle + 2;
  for (let open = 1; open > 0; end += 1) {
    if (end >= text.length || end - middle > 2048) return null;
    open += (text[end] === "(") - (text[end] === ")");
  }
  end -= 1;
  const target = text.slice(middle + 2, end).trim().split(/\s+/)[0] ?? "";
  return { label: text.slice(at + 1, middle), href: target, end: end + 1 };
}

// Only addresses that open a page or a letter are links; others stay what they say.
function anchor(href, label) {
  if (!/^(https?:\/\/|mailto:)/i.test(href)) return h("span", { title: href }, label);
  return h("a", { href, target: "_blank", rel: "noopener noreferrer" }, label);
}
