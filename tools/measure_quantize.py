#!/usr/bin/env python3
"""Time and peak memory of `bitnet quantize` (F16 to I2_S) against llama.cpp's `llama_model_quantize` (F16 to TQ2_0).

Both read the same file and write next to it, on the same number of threads, in turns, each in a process of its own;
llama.cpp keeps the embedding in F16 as ours does. Each output is removed before the next run. Prints the medians and
every sample as Markdown; docs/explanation/performance.md keeps one such run. A file of the right shape:
`cargo xtask models synth 2b4t --arch bitnet --type f16`; the library: `cargo xtask reference path llama`.
Usage: measure_quantize.py BITNET LIBLLAMA.so MODEL-F16.gguf [--threads N] [--rounds N]
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import time

GGML_TYPE_F16 = 1
LLAMA_FTYPE_MOSTLY_TQ2_0 = 37


class QuantizeParams(ctypes.Structure):
    """`llama_model_quantize_params` of the pinned llama.h; the defaults come from the library."""

    _fields_ = [
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("imatrix", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("tt_overrides", ctypes.c_void_p),
        ("prune_layers", ctypes.c_void_p),
        ("max_buf_size", ctypes.c_size_t),
    ]


def llama_quantize(library, model, out, threads):
    """What llama-quantize does, in this process."""
    llama = ctypes.CDLL(library)
    llama.llama_model_quantize_default_params.restype = QuantizeParams
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(QuantizeParams)]
    llama.llama_model_quantize.restype = ctypes.c_uint32
    params = llama.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.token_embedding_type = threads, LLAMA_FTYPE_MOSTLY_TQ2_0, GGML_TYPE_F16
    if llama.llama_model_quantize(model.encode(), out.encode(), ctypes.byref(params)) != 0:
        raise SystemExit("llama_model_quantize failed")


def sample(command, out):
    """Seconds and peak MiB of one run; its output must be there afterwards, and is removed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not os.path.exists(out):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    size = os.path.getsize(out)
    os.remove(out)
    return seconds, usage.ru_maxrss / 1024, size


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bitnet")
    parser.add_argument("library")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--llama-out", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.llama_out:
        return llama_quantize(args.library, args.model, args.llama_out, args.threads)
    threads, out = str(args.threads), args.model + ".measured"
    ours = [args.bitnet, "quantize", args.model, out, "--type", "i2_s", "--threads", threads]
    again = [sys.executable, os.path.realpath(__file__), args.bitnet, args.library, args.model]
    theirs = [*again, "--threads", threads, "--llama-out", out]
    pairs = []
    for round_ in range(args.rounds + 1):
        # Whoever goes first changes each round; the first round only fills the page cache.
        first, second = (ours, theirs) if round_ % 2 else (theirs, ours)
        a, b = sample(first, out), sample(second, out)
        if round_ > 0:
            pairs.append((a, b) if round_ % 2 else (b, a))
    print(f"{os.path.getsize(args.model) / 1e9:.2f} GB of F16, {threads} threads, {args.rounds} rounds\n")
    print("| | median s | peak MiB | output GB |\n|---|---:|---:|---:|")
    for name, runs in zip(("bitnet quantize, I2_S", "llama_model_quantize, TQ2_0"), zip(*pairs)):
        median, peak = statistics.median(run[0] for run in runs), max(run[1] for run in runs)
        print(f"| {name} | {median:.2f} | {peak:.0f} | {runs[0][2] / 1e9:.3f} |")
    ratio = statistics.median(b[0] / a[0] for a, b in pairs)
    print(f"\nllama.cpp's time over ours, median of the rounds: {ratio:.2f}\n\nSeconds, in order\n")
    for name, runs in zip(("bitnet", "llama "), zip(*pairs)):
        print(f"    {name} " + " ".join(f"{run[0]:.2f}" for run in runs))


if __name__ == "__main__":
    main()
