#!/usr/bin/env python3
"""Make the tokenizer fixtures: small vocabularies out of GGUF files, and ids that llama.cpp gives.

  tokenizer_fixtures.py vocab MODEL.gguf [TEXTS.inp ...] > NAME.json
      The tokenizer of a GGUF file as JSON. With texts, only what can occur in them: special, byte and
      single-character tokens, tokens whose spelling is part of a text's spelling, and all merges among these.
      No other token or merge can take part in encoding these texts, so ids are as with the whole vocabulary.
  tokenizer_fixtures.py ids [--pairs] LLAMA_TOKENIZE MODEL.gguf TEXTS.inp > NAME.out
      One line of ids for each text, from llama.cpp's llama-tokenize: BOS as the file asks and special tokens
      parsed, or with --pairs neither, as in llama.cpp's own .out files.

Needs the `gguf` package. Texts in an .inp file are separated by a line `__ggml_vocab_test__`.
"""

import ast
import json
import subprocess
import sys

SEPARATOR = "\n__ggml_vocab_test__\n"
NORMAL = 1
IDS = ["bos", "eos", "eot", "unknown", "padding"]
FLAGS = ["add_bos", "add_eos", "add_space_prefix"]


def texts_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        texts = file.read().split(SEPARATOR)
    return texts if texts[-1] else texts[:-1]


def byte_spelling():
    """GPT-2's printable character for each byte."""
    same = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in same]
    return {**{b: chr(b) for b in same}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def read_tokenizer(path):
    from gguf import GGUFReader

    fields = GGUFReader(path).fields

    def value(key, default=None):
        field = fields.get(key)
        return default if field is None else field.contents()

    arch = value("general.architecture")
    spec = {"model": value("tokenizer.ggml.model"), "pre": value("tokenizer.ggml.pre")}
    spec |= {name: value(f"tokenizer.ggml.{name}_token_id") for name in IDS}
    spec |= {name: value(f"tokenizer.ggml.{name}_token") for name in FLAGS[:2]}
    spec["add_space_prefix"] = value("tokenizer.ggml.add_space_prefix")
    spec["vocab_size"] = value(f"{arch}.vocab_size")
    spec["tokens"] = value("tokenizer.ggml.tokens")
    spec["token_types"] = value("tokenizer.ggml.token_type", [])
    spec["scores"] = value("tokenizer.ggml.scores", []) if spec["model"] == "llama" else []
    spec["merges"] = value("tokenizer.ggml.merges", [])
    spec["ids"] = list(range(len(spec["tokens"])))
    return spec


def trim(spec, texts):
    if spec["model"] == "gpt2":
        spelling = byte_spelling()
        corpus = "\0".join("".join(spelling[b] for b in text.encode()) for text in texts)
    else:
        corpus = "\0".join("\u2581" + text.replace(" ", "\u2581") for text in texts)
    named = {spec[name] for name in IDS}
    types = spec["token_types"] or [NORMAL] * len(spec["tokens"])
    keep = [
        id
        for id, token in enumerate(spec["tokens"])
        if types[id] != NORMAL or id in named or len(token) == 1 or token in corpus
    ]
    new = {id: i for i, id in enumerate(keep)}
    kept = {spec["tokens"][id] for id in keep}
    pairs = [(merge, merge.index(" ", 1)) for merge in spec["merges"]]
    merges = [
        merge for merge, at in pairs if {merge[:at], merge[at + 1 :], merge[:at] + merge[at + 1 :]} <= kept
    ]
    small = dict(spec, merges=merges, ids=keep, vocab_size=None)
    small |= {name: new.get(spec[name]) for name in IDS}
    for name in ["tokens", "token_types", "scores"]:
        small[name] = [spec[name][id] for id in keep] if spec[name] else []
    return small


def vocab(model, *inputs):
    spec = read_tokenizer(model)
    if inputs:
        spec = trim(spec, [text for path in inputs for text in texts_of(path)])
    json.dump(spec, sys.stdout, ensure_ascii=False, separators=(",", ":"))
    sys.stdout.write("\n")


def ids(*args):
    plain = ["--no-bos", "--no-parse-special"] if args[0] == "--pairs" else []
    tokenize, model, inputs = args[-3:]
    command = [tokenize, "-m", model, "--stdin", "--ids", "--no-escape", "--log-disable", *plain]
    for text in texts_of(inputs):
        out = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout
        print("".join(f" {id}" for id in ast.literal_eval(out.decode())))


if __name__ == "__main__":
    commands = {"vocab": vocab, "ids": ids}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
