"""Measures inputs that were slow or large before there were limits, and prints a table for docs/reference/assurance.md.

In: `fuzz-targets` of a release build. Out: a line per input with what one run of its target took, each in a process of its
own. Exits with 1 where one takes over a second or 2 GB. Usage, in the repository's root:

    cargo build --locked --release --workspace --bin fuzz-targets
    python3 tools/fuzz/slow.py
"""

import json
import subprocess
import sys
import tempfile

TOOL = "target/release/fuzz-targets"
MIB = 1 << 20
MOST_SECONDS, MOST_BYTES = 1.0, 2 << 30


def padded(schema):
    """The schema as a megabyte of JSON: a comment fills it."""
    text = json.dumps(schema)
    return json.dumps(schema | {"$comment": "x" * max(0, MIB - len(text) - 20)}).encode() + b"\xff" + bytes(64)


def properties(count):
    return {f"name-{number:05}": {"type": "string"} for number in range(count)}


def chain(count):
    definitions = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(count)} | {f"d{count}": {"type": "null"}}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


def patterns(count):
    return {"type": "object", "patternProperties": {f"^key{n}-": {"type": "integer"} for n in range(count)}}


def alternatives(count):
    return {"anyOf": [{"const": n} for n in range(count)]}


def required(count):
    return {"type": "object", "properties": properties(count), "required": list(properties(count))}


def enum(count):
    return {"enum": [f"value {number}" for number in range(count)]}


SCHEMAS = [
    ("`patternProperties` x 200", patterns(200)),
    ("`patternProperties` x 50 (the limit)", patterns(50)),
    ("`anyOf` of 5,000", alternatives(5000)),
    ("`anyOf` of 2,000 (the limit)", alternatives(2000)),
    ("3,000 `required`", required(3000)),
    ("500 `required` properties (the limit)", required(500)),
    ("`enum` of 60,000", enum(60000)),
    ("`enum` of 50,000 (the limit)", enum(50000)),
    ("a chain of 2,000 `$ref`", chain(2000)),
    ("a chain of 9,000 `$ref`", chain(9000)),
]

NEST = (
    "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(30) %}"
    "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}"
)
TEMPLATES = [
    ("lists of twice a list, compared", NEST + "{{ ns.a == ns.b }}"),
    ("lists of twice a list, as JSON", NEST + "{{ ns.a|tojson }}"),
    ("lists of twice a list, sorted", NEST + "{{ [ns.a, ns.b]|sort|length }}"),
    ("lists in lists, 99,999 deep", "{% set ns = namespace(a=[1]) %}{% for i in range(99999) %}"
     "{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}"),
    ("text of twice a text", "{% set ns = namespace(s='xxxxxxxxxx') %}"
     "{% for i in range(9999) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"),
    ("a million steps", "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"),
    ("constant lists of 10,000,000, compared", "{% if [1] * 10000000 == [1] * 10000000 %}{% endif %}"),
    ("a constant list of 10^14, as text", "{{ [1] * 10000000 * 10000000 ~ '' }}"),
    ("60,000 minus signs", "{{ " + "-" * 60000 + "x }}"),
    ("30,000 additions", "{{ a" + "+a" * 30000 + " }}"),
    ("1,300 additions (within the limit)", "{{ 1" + "+a" * 1300 + " }}"),
    ("30,000 attributes", "{{ a" + ".b" * 30000 + " }}"),
    ("`tojson` with an indent of 999,999,999", "{{ [[1]]|tojson(indent=999999999) }}"),
]

TEXTS = [
    (f"1 MB of {what}, {name}", bytes([kind]) + (text * MIB)[:MIB])
    for kind, name in [(4, "byte-level BPE"), (5, "SentencePiece")]
    for what, text in [
        ("one letter", b"a"),
        ("blanks", b" "),
        ("line ends", b"\n"),
        ("a letter and a blank", b"a "),
        ("`</s>`", b"</s>"),
        ("0xf0", b"\xf0"),
    ]
]

INPUTS = (
    [("json-schema", name, padded(schema)) for name, schema in SCHEMAS]
    + [("chat-template", name, b"\0" + text.encode() + b"\xff") for name, text in TEMPLATES]
    + [("tokenizer-encode", name, data) for name, data in TEXTS]
)


def main():
    worst = 0
    print("| target | input | s | peak memory, MB |\n|---|---|---|---|")
    for target, name, data in INPUTS:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            run = subprocess.run([TOOL, "replay", target, file.name], stdout=subprocess.PIPE, check=True)
        result = json.loads(run.stdout)
        print(f"| `{target}` | {name} | {result['seconds']:.2f} | {result['peak_rss'] // 10**6:,} |", flush=True)
        worst |= result["seconds"] > MOST_SECONDS or result["peak_rss"] > MOST_BYTES
    return worst


if __name__ == "__main__":
    sys.exit(main())
