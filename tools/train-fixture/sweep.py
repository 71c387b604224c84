"""Trains the variants of the table below at once on one GPU, a process each, and says which is best on the validation split.

In: the folder that corpus.py filled. Out, in OUT: what train.py writes for each variant, VARIANT.log, sweep.json. How the
committed settings were chosen; the test split plays no part. Usage: sweep.py CORPUS OUT SECONDS
"""

import json
import os
import subprocess
import sys
from pathlib import Path

B158, BITNET = ["--architecture", "bitnet-b1.58", "--kv-heads", "2"], ["--architecture", "bitnet", "--kv-heads", "4"]
VARIANTS = {
    "b158-a": [*B158, "--dropout", "0.1", "--rate", "2e-3"],
    "b158-b": [*B158, "--dropout", "0.2", "--rate", "2e-3"],
    "b158-c": [*B158, "--dropout", "0.3", "--rate", "2e-3"],
    "b158-d": [*B158, "--dropout", "0.2", "--rate", "4e-3"],
    "b158-e": [*B158, "--dropout", "0.25", "--rate", "2e-3", "--layers", "5", "--feed-forward", "1024", "--decay", "0.2"],
    "bitnet-a": [*BITNET, "--dropout", "0.15", "--rate", "2e-3"],
    "bitnet-b": [*BITNET, "--dropout", "0.25", "--rate", "2e-3"],
    "bitnet-c": [*BITNET, "--dropout", "0.2", "--rate", "3e-3", "--decay", "0.2"],
}


def main():
    corpus, out, seconds = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    out.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("train.py")
    running = {}
    # A few threads each: the processes share the cores.
    env = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "2", "OMP_NUM_THREADS": "2"}
    for name, settings in VARIANTS.items():
        command = [sys.executable, "-u", script, corpus, out, "--name", name, "--seconds", seconds, *settings, *sys.argv[4:]]
        running[name] = subprocess.Popen(command, stdout=(out / f"{name}.log").open("w"), stderr=subprocess.STDOUT, env=env)
    table = {}
    for name, process in running.items():
        if process.wait():
            print(name, "failed:", (out / f"{name}.log").read_text()[-1500:])
        else:
            facts = json.loads((out / f"{name}.json").read_text())
            table[name] = {"settings": " ".join(VARIANTS[name]), **{k: facts[k] for k in ("steps", "epochs", "seconds", "valid")}}
    table = dict(sorted(table.items(), key=lambda row: row[1]["valid"]))
    (out / "sweep.json").write_text(json.dumps(table, indent=1) + "\n")
    for name, row in table.items():
        print(f"{name:9} valid {row['valid']:.3f} {row['steps']} steps, {row['epochs']} epochs, {row['seconds']} s: {row['settings']}")
    return len(table) != len(VARIANTS)


if __name__ == "__main__":
    sys.exit(main())
