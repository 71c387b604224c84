#!/usr/bin/env python3
"""fixtures/goldens/quantize.json: what the references' quantizers make of two fixtures, tensor by tensor.

Each fixture is first decoded to F32 by `bitnet quantize`, then quantized by `llama_model_quantize` of the pinned
llama.cpp, and to I2_S of the pinned bitnet.cpp; the golden holds type and sha256 of every tensor (of I2_S without the 28
bytes after the scale, which bitnet.cpp does not write). runtime/tests/it/rewrite.rs compares ours with it. TQ and Q2_0
are made of ternary weights only: of master weights llama.cpp rounds each block by its largest magnitude, we the tensor
by its mean. Usage, from the root of the checkout, after `cargo build -p bitnet-runtime` and
`cargo xtask reference build all`: tools/goldens/quantize_goldens.py target/debug/bitnet LIBLLAMA.so LIBLLAMA-OF-BITNET.so
"""

import ctypes
import hashlib
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from measure_quantize import GGML_TYPE_F16, QuantizeParams  # noqa: E402

LLAMA_FTYPE_MOSTLY_I2_S = 40


class OldQuantizeParams(ctypes.Structure):
    """`llama_model_quantize_params` of bitnet.cpp's fork."""

    _fields_ = QuantizeParams._fields_[:9] + [("imatrix", ctypes.c_void_p), ("kv_overrides", ctypes.c_void_p)]

# Values of llama_ftype, whether every matrix gets the type (`pure`), the type of the embedding (None: llama.cpp's choice).
RECIPES = {
    "q8_0": (7, False, None),
    "q4_0": (2, False, None),
    "q6_k": (18, False, None),
    "q4_k": (14, True, None),
    "tq1_0": (36, False, GGML_TYPE_F16),
    "tq2_0": (37, False, GGML_TYPE_F16),
    "q2_0": (41, False, GGML_TYPE_F16),
    "i2_s": (LLAMA_FTYPE_MOSTLY_I2_S, False, GGML_TYPE_F16),
}
FIXTURES = {"llama-q6_k": ["q8_0", "q4_0", "q6_k", "q4_k"], "bitnet-i2_s": ["tq1_0", "tq2_0", "q2_0", "i2_s"]}


def tensors(bitnet, path):
    shown = subprocess.run([bitnet, "inspect", "-m", path, "--json"], capture_output=True, check=True)
    with open(path, "rb") as file:
        data = file.read()
    listed = json.loads(shown.stdout)["tensors"]
    unwritten = lambda tensor: 28 if tensor["type"] == "I2_S" else 0
    digest = lambda tensor: hashlib.sha256(data[tensor["offset"] :][: tensor["bytes"] - unwritten(tensor)]).hexdigest()
    return {tensor["name"]: [tensor["type"], digest(tensor)] for tensor in listed}


def quantize(library, source, out, ftype, pure, embedding):
    """In this process; which generation of the API the library has is told by the file type."""
    old = ftype == LLAMA_FTYPE_MOSTLY_I2_S
    llama, params_type = ctypes.CDLL(library), OldQuantizeParams if old else QuantizeParams
    llama.llama_model_quantize_default_params.restype = params_type
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(params_type)]
    params = llama.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.pure = 1, ftype, pure
    if embedding is not None:
        params.token_embedding_type = embedding
    if llama.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"{source} to file type {ftype} failed")


def main():
    if sys.argv[1] == "--in-a-process":
        name, library, source, out = sys.argv[2:]
        return quantize(library, source, out, *RECIPES[name])
    bitnet, llama, fork = sys.argv[1:]
    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        source, out = os.path.join(folder, "f32.gguf"), os.path.join(folder, "out.gguf")
        for fixture, types in FIXTURES.items():
            decode = ["quantize", f"fixtures/gguf/ok/{fixture}.gguf", source, "--type", "f32", "--force"]
            subprocess.run([bitnet, *decode, "--embedding-type", "f32"], check=True, stdout=subprocess.DEVNULL)
            golden[fixture] = {}
            for name in types:
                library = os.path.realpath(fork if name == "i2_s" else llama)
                again = [sys.executable, __file__, "--in-a-process", name, library, source, out]
                path = {**os.environ, "LD_LIBRARY_PATH": os.path.dirname(library)}
                subprocess.run(again, check=True, env=path, stderr=subprocess.DEVNULL)
                golden[fixture][name] = tensors(bitnet, out)
    with open("fixtures/goldens/quantize.json", "w") as file:
        json.dump(golden, file, indent=1, sort_keys=True)
        file.write("\n")


if __name__ == "__main__":
    main()
