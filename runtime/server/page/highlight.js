// Colours for code: comments, strings, numbers and the keywords that most languages share. Guesses, and never wrong about
// the text itself: the pieces joined are the code.

import { h } from "./dom.js";

const WORDS = new Set(
  ("abstract and as assert async await bool boolean break case catch char class const continue def default del do double " +
    "elif else enum except export extends extern false False final finally float fn for from func function go if impl " +
    "import in int interface is lambda let long loop match mod module move mut new nil None not null object or package " +
    "pass priv private protected pub public raise return select self Self short static string struct super switch this " +
    "throw trait true True try type typedef union unsafe unsigned use using val var virtual void where while with yield " +
    "SELECT FROM WHERE INSERT UPDATE DELETE CREATE TABLE JOIN ON GROUP BY ORDER echo fi then esac done").split(" "),
);
// Languages whose comments start with a hash; in the others a hash is something else.
const HASH = /^(py|python|sh|bash|zsh|shell|rb|ruby|yaml|yml|toml|r|perl|make|makefile|dockerfile|ini|conf|)$/i;
// Longer code stays plain: an open quote or comment is looked for to the end, again and again.
const LONGEST = 20_000;

export function highlight(text, language) {
  if (/^(text|txt|plain|output|console|markdown|md)$/i.test(language) || text.length > LONGEST) return [text];
  const hash = HASH.test(language) ? "#[^\\n]*|" : "";
  const dashes = /^(sql|lua|haskell|hs|elm|ada)$/i.test(language) ? "--[^\\n]*|" : "";
  const token = new RegExp(
    `(${hash}${dashes}\\/\\/[^\\n]*|\\/\\*[^]*?\\*\\/|<!--[^]*?-->)` +
      `|("(?:\\\\.|[^"\\\\\\n])*"|'(?:\\\\.|[^'\\\\\\n])*'|\`(?:\\\\.|[^\`\\\\])*\`)` +
      `|(\\b\\d[\\w.]*\\b)|([A-Za-z_][\\w]*)`,
    "g",
  );
  const nodes = [];
  let from = 0;
  for (const found of text.matchAll(token)) {
    const kind = found[1] ? "c" : found[2] ? "s" : found[3] ? "n" : WORDS.has(found[0]) ? "k" : null;
    if (!kind) continue;
    nodes.push(text.slice(from, found.index), h("span", { class: `hl-${kind}` }, found[0]));
    from = found.index + found[0].length;
  }
  nodes.push(text.slice(from));
  return nodes;
}
