#!/usr/bin/env python3
"""Run the tokenizer's comparison with llama.cpp over whole vocabularies instead of the trimmed fixtures.

  tokenizer_check.py LLAMA_CPP/models SmolLM2-135M-Instruct.Q4_1.gguf

Writes every vocabulary that has a fixture, untrimmed, to a temporary directory beside the committed texts and
ids, and runs the test `ids_equal_llama_cpp` on it. Needs the `gguf` package and cargo.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def main(models, smollm):
    fixtures = ROOT / "fixtures" / "tokenizer"
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        for path in [*fixtures.glob("*.out"), *fixtures.glob("*.inp")]:
            shutil.copy(path, directory)
        for path in sorted(fixtures.glob("*.json")):
            name = path.stem
            model = smollm if name == "smollm" else f"{models}/ggml-vocab-{name}.gguf"
            with open(directory / path.name, "w", encoding="utf-8") as out:
                script = HERE / "tokenizer_fixtures.py"
                subprocess.run([sys.executable, script, "vocab", model], stdout=out, check=True)
        test = ["cargo", "test", "-p", "bitnet-runtime", "--lib", "ids_equal_llama_cpp", "--", "--nocapture"]
        subprocess.run(test, cwd=ROOT, env={**os.environ, "TOKENIZER_FIXTURES": str(directory)}, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
