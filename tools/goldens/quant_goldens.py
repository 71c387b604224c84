#!/usr/bin/env python3
"""Writes fixtures/quant/quant.{bin,json}: what ggml and bitnet.cpp make of fixed inputs.

In: the folder with libggml-base.so and libggml-cpu.so of a llama.cpp build on an AVX2 machine, and the
source tree of bitnet.cpp (two of its files are compiled here). Out: the input rows, and per tensor type the
packed rows, the decoded rows, the packed activations, and every dot product, as one blob with an index; and whole
tensors as bitnet.cpp's converter tiles them (TL1, TL2), which is what numpy is for. fixtures/quant/README.md has the command that made the committed files.
"""

import argparse
import array
import ast
import ctypes
import itertools
import json
import os
import pathlib
import subprocess
import tempfile

import numpy as np

ROWS, K = 3, 512
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12,
         "Q5_K": 13, "Q6_K": 14, "BF16": 30, "TQ1_0": 34, "TQ2_0": 35, "Q2_0": 42}
# Rows, columns and tile sizes (bm, bk, bmm): with and without columns that TL2 packs in pairs.
TILED = {"tl1": [(128, 128, 128, 64, 64), (64, 128, 64, 32, 32)], "tl2": [(64, 352, 32, 96, 32), (32, 384, 32, 192, 32)]}
TERNARY = ("TQ1_0", "TQ2_0", "Q2_0")
ACTIVATIONS = {0: "F32", 1: "F16", 8: "Q8_0", 9: "Q8_1", 15: "Q8_K", 30: "BF16"}
ACTIVATION_BYTES = {0: K * 4, 1: K * 2, 8: K // 32 * 34, 9: K // 32 * 36, 15: K // 256 * 292, 30: K * 2}

TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
VEC_DOT = ctypes.CFUNCTYPE(
    None, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t,
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Traits(ctypes.Structure):
    """ggml.h: struct ggml_type_traits."""
    _fields_ = [("name", ctypes.c_char_p), ("block", ctypes.c_int64), ("interleave", ctypes.c_int64),
                ("bytes", ctypes.c_size_t), ("quantized", ctypes.c_bool), ("to_float", TO_FLOAT),
                ("from_float_ref", TO_FLOAT)]


class CpuTraits(ctypes.Structure):
    """ggml-cpu.h: struct ggml_type_traits_cpu."""
    _fields_ = [("from_float", TO_FLOAT), ("vec_dot", VEC_DOT), ("vec_dot_type", ctypes.c_int),
                ("nrows", ctypes.c_int64)]


def numbers(seed):
    """An endless series of floats, roughly normal: sums of four 16-bit fields of a 64-bit LCG."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield sum((state >> shift) & 0xFFFF for shift in (0, 16, 32, 48)) / 65536 - 2.0


def inputs():
    """Weights (with zero, constant, one-signed and outlier blocks), ternary weights, activations (with ties)."""
    series = numbers(1)
    weights = [[next(series) * 0.1 for _ in range(K)] for _ in range(ROWS)]
    weights[0][64:96] = [0.0] * 32
    weights[1][0:32] = [-abs(v) - 0.01 for v in weights[1][0:32]]
    weights[1][32:64] = [0.25] * 32
    weights[1][300] = 9.0
    weights[2][:256] = [v * (1 + i // 16) for i, v in enumerate(weights[2][:256])]
    weights[2][256:] = [0.0] * 256
    ternary = [[(0.0, 0.8125, -0.8125)[int(abs(next(series)) * 1000) % 3] for _ in range(K)] for _ in range(ROWS)]
    ternary[2][256:] = [0.0] * 256
    activations = [[next(series) * 3 for _ in range(K)] for _ in range(ROWS)]
    activations[1][:256] = [((i * 37) % 509 - 254) / 2 for i in range(256)]
    activations[1][128] = 127.0
    activations[2][32:64] = [0.0] * 32
    activations[2][256:] = [0.0] * 256
    activations[2][100] = -40.0
    return {name: [array.array("f", row) for row in rows]
            for name, rows in (("weights", weights), ("ternary", ternary), ("activations", activations))}


def address(buffer):
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def ggml_parts(folder, rows):
    base = ctypes.CDLL(folder / "libggml-base.so")
    cpu = ctypes.CDLL(folder / "libggml-cpu.so")
    base.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    cpu.ggml_get_type_traits_cpu.restype = ctypes.POINTER(CpuTraits)
    base.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    cpu.ggml_cpu_init()
    packed_activations = {}
    for kind, name in ACTIVATIONS.items():
        packed_activations[kind] = [bytearray(ACTIVATION_BYTES[kind]) for _ in rows["activations"]]
        for row, out in zip(rows["activations"], packed_activations[kind]):
            if kind == 0:
                out[:] = row.tobytes()
            else:
                cpu.ggml_get_type_traits_cpu(kind).contents.from_float(address(row), address(out), K)
        yield f"activation/{name}", b"".join(packed_activations[kind])
    for name, kind in TYPES.items():
        traits = base.ggml_get_type_traits(kind).contents
        cpu_traits = cpu.ggml_get_type_traits_cpu(kind).contents
        row_bytes = K // traits.block * traits.bytes
        packed, decoded = [], []
        for row in rows["ternary" if name in TERNARY else "weights"]:
            packed.append(bytearray(row_bytes))
            decoded.append(array.array("f", bytes(4 * K)))
            assert base.ggml_quantize_chunk(kind, address(row), address(packed[-1]), 0, 1, K, None) == row_bytes
            if kind == 0:
                decoded[-1] = row
            else:
                traits.to_float(address(packed[-1]), address(decoded[-1]), K)
        yield f"packed/{name}", b"".join(packed)
        yield f"decoded/{name}", b"".join(row.tobytes() for row in decoded)
        dots = array.array("f")
        for weights in packed:
            for activations in packed_activations[cpu_traits.vec_dot_type]:
                result = ctypes.c_float()
                cpu_traits.vec_dot(K, ctypes.addressof(result), 0, address(weights), 0, address(activations), 0, 1)
                dots.append(result.value)
        yield f"dot/{name}.{ACTIVATIONS[cpu_traits.vec_dot_type]}", dots.tobytes()


def bitnet_parts(tree, rows):
    """Compiled without contraction of a * b + c, as clang (bitnet.cpp's compiler) treats these sources."""
    ggml = tree / "3rdparty/llama.cpp/ggml"
    flags = ["-fPIC", "-O2", "-mavx2", "-mfma", "-mf16c", "-ffp-contract=off", "-ffunction-sections", "-w"]
    flags += [f"-I{folder}" for folder in (tree / "include", ggml / "include", ggml / "src")]
    with tempfile.TemporaryDirectory() as folder:
        objects = [f"{folder}/quants.o", f"{folder}/mad.o"]
        subprocess.run(["gcc", *flags, "-c", ggml / "src/ggml-quants.c", "-o", objects[0]], check=True)
        subprocess.run(["g++", *flags, "-c", tree / "src/ggml-bitnet-mad.cpp", "-o", objects[1]], check=True)
        stubs = pathlib.Path(folder, "stubs.c")
        stubs.write_text("#include <stddef.h>\n#include <stdint.h>\nsize_t ggml_row_size(int t, int64_t n) { return n; }\n"
                         "const char *ggml_type_name(int t) { return 0; }\nsize_t ggml_type_size(int t) { return 0; }\n")
        library = f"{folder}/libbitnet.so"
        # The shims give the two C++ functions plain names.
        shim = pathlib.Path(folder, "shim.cpp")
        shim.write_text(
            '#include "ggml-bitnet.h"\n#include "ggml-quants.h"\n'
            'extern "C" size_t shim_quantize(const float *x, void *y, int64_t r, int64_t k) { return quantize_i2_s(x, y, r, k, nullptr); }\n'
            'extern "C" void shim_dot(int n, float *s, const void *x, const void *y) { ggml_vec_dot_i2_i8_s(n, s, 0, x, 0, y, 0, 1); }\n')
        subprocess.run(["g++", *flags, "-c", shim, "-o", f"{folder}/shim.o"], check=True)
        subprocess.run(["gcc", *flags, "-c", stubs, "-o", f"{folder}/stubs.o"], check=True)
        # Only the three functions are kept, so that the rest of ggml need not be linked.
        script = pathlib.Path(folder, "exports")
        script.write_text("{ global: shim_*; quantize_row_i8_s; local: *; };\n")
        keep = ["-Wl,--gc-sections", f"-Wl,--version-script={script}"]
        subprocess.run(["g++", "-shared", *keep, "-o", library, *objects, f"{folder}/shim.o", f"{folder}/stubs.o"], check=True)
        lib = ctypes.CDLL(library)
    lib.shim_quantize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    lib.shim_dot.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 3
    lib.quantize_row_i8_s.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    weights = array.array("f", [v for row in rows["ternary"] for v in row])
    packed = bytearray(ROWS * K // 4 + 32)
    lib.shim_quantize(address(weights), address(packed), ROWS, K)
    yield "packed/I2_S", bytes(packed)
    tensor_scale = array.array("f", packed[-32:-28])[0]
    quantized = []
    for row in rows["activations"]:
        quants, scale, total = bytearray(K), array.array("f", [0]), array.array("i", [0])
        lib.quantize_row_i8_s(address(row), address(quants), K, address(scale), address(total))
        quantized.append((quants, scale, total))
    yield "activation/I8Token", b"".join(s.tobytes() + t.tobytes() + q for q, s, t in quantized)
    dots = array.array("f")
    single = lambda value: array.array("f", [value])[0]
    for r in range(ROWS):
        row = bytearray(packed[r * K // 4:(r + 1) * K // 4])
        for quants, scale, total in quantized:
            result = ctypes.c_float()
            lib.shim_dot(K, ctypes.addressof(result), address(row), address(quants))
            # ggml.c of bitnet.cpp, each step in f32: (dot - sum) / activation scale * tensor scale.
            dots.append(single(single((result.value - total[0]) / scale[0]) * tensor_scale))
    yield "dot/I2_S.I8Token", dots.tobytes()


def tiled_parts(tree, rows):
    """What bitnet.cpp's converter makes of the ternary rows, repeated: the scale lies where its GGUF writer puts it."""
    source = ast.parse(tree.joinpath("utils/convert-hf-to-gguf-bitnet.py").read_text())
    names = ("process_tl1", "preprocess_weights_tl1", "preprocess_two_weights_tl2", "preprocess_three_weights_tl2",
             "preprocess_weights_tl2", "transform_to_tl1", "transform_to_tl2")
    source.body = [node for node in source.body if getattr(node, "name", None) in names]
    for node in source.body:
        node.returns = None
    functions = {"np": np}
    exec(compile(source, "convert-hf-to-gguf-bitnet.py", "exec"), functions)
    weights = itertools.cycle(v for row in rows["ternary"] for v in row)
    for kind, shapes in TILED.items():
        for m, k, bm, bk, bmm in shapes:
            x = np.fromiter(itertools.islice(weights, m * k), np.float32).reshape(m, k)
            with tempfile.TemporaryDirectory() as folder:
                # The converter reads the tile sizes of shapes from here.
                config = pathlib.Path(folder, "include/kernel_config.ini")
                config.parent.mkdir()
                config.write_text(f"[Kernels_0]\nm = {m}\nk = {k}\nbm = {bm}\nbk = {bk}\nbmm = {bmm}\n")
                before = os.getcwd()
                os.chdir(folder)
                packed, scale = functions[f"transform_to_{kind}"](x)
                os.chdir(before)
            packed, scale = packed.tobytes(), np.float32(scale).tobytes()
            packed += bytes(-len(packed) % 32) + scale + bytes(28)
            yield f"tiled/{kind.upper()}/{m}x{k}:{bm},{bk},{bmm}", packed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ggml", type=pathlib.Path, required=True, help="folder with libggml-base.so, libggml-cpu.so")
    parser.add_argument("--bitnet", type=pathlib.Path, required=True, help="bitnet.cpp source tree")
    parser.add_argument("out", type=pathlib.Path, help="folder for quant.bin and quant.json")
    args = parser.parse_args()
    rows = inputs()
    parts = [(name, b"".join(row.tobytes() for row in rows)) for name, rows in rows.items()]
    parts += ggml_parts(args.ggml, rows)
    parts += bitnet_parts(args.bitnet, rows)
    parts += tiled_parts(args.bitnet, rows)
    index, blob = {}, b""
    for name, data in parts:
        index[name] = [len(blob), len(data)]
        blob += data
    args.out.joinpath("quant.bin").write_bytes(blob)
    entries = ",\n".join(f"    {json.dumps(name)}: {json.dumps(span)}" for name, span in index.items())
    args.out.joinpath("quant.json").write_text(f'{{\n  "rows": {ROWS},\n  "k": {K},\n  "parts": {{\n{entries}\n  }}\n}}\n')


main()
