"""Reads GGUF files with numpy: metadata, and tensors as float64.

In: a path. Out: `File.metadata`, `File.rows(name)` (float64 [rows, columns]). Written from the format's specification
(ggml docs/gguf.md) and ggml's block definitions (ggml-common.h); independent of the Rust reader, so that one can
judge the other. I2_S is read in bitnet.cpp's x86 layout. Deliberately absent: writing, other types, recovery.
"""

import struct

import numpy as np

SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
STRING, ARRAY = 8, 9
# Type id: name, weights per block, bytes per block.
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144), 14: ("Q6_K", 256, 210), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 36: ("I2_S", 128, 32), 42: ("Q2_0", 64, 18),
}
TERNARY = ("TQ1_0", "TQ2_0", "I2_S", "Q2_0")


class Tensor:
    def __init__(self, kind, shape, data):
        self.kind, self.shape, self.data = kind, shape, data  # shape: [rows, columns] or [length]


class File:
    """`metadata`: key to value. `tensors`: name to Tensor, whose bytes stay in the file's mapping."""

    def __init__(self, path):
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self.at = 0
        magic, version, tensors, pairs = struct.unpack("<4sIQQ", self._take(24))
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"{path}: magic {magic!r} version {version}, not GGUF 2 or 3")
        self.metadata = {}
        for _ in range(pairs):
            key = self._string()
            self.metadata[key] = self._value(self._u("<I"))
        infos = []
        for _ in range(tensors):
            name = self._string()
            dims = [self._u("<Q") for _ in range(self._u("<I"))]
            infos.append((name, dims[::-1], self._u("<I"), self._u("<Q")))
        alignment = self.metadata.get("general.alignment", 32)
        start = -(-self.at // alignment) * alignment
        self.tensors = {}
        for name, shape, type_id, offset in infos:
            if type_id not in TYPES:
                raise ValueError(f"{path}: tensor {name} has type {type_id}, which the oracle does not read")
            kind, block, size = TYPES[type_id]
            count = int(np.prod(shape)) // block * size + (32 if kind == "I2_S" else 0)
            self.tensors[name] = Tensor(kind, shape, self.bytes[start + offset : start + offset + count])

    def _take(self, count):
        self.at += count
        return self.bytes[self.at - count : self.at].tobytes()

    def _u(self, form):
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _string(self):
        return self._take(self._u("<Q")).decode("utf-8")

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            kind, count = self._u("<I"), self._u("<Q")
            if kind in SCALARS:
                kind = np.dtype(SCALARS[kind])
                return np.frombuffer(self._take(count * kind.itemsize), kind).tolist()
            return [self._value(kind) for _ in range(count)]
        kind = np.dtype(SCALARS[kind])
        return np.frombuffer(self._take(kind.itemsize), kind)[0].item()

    def vector(self, name):
        """A one-dimensional tensor as float64, None where there is none."""
        tensor = self.tensors.get(name)
        return None if tensor is None else decode(tensor.kind, tensor.data[None, :], None)[0]

    def rows(self, name, first=0, count=None):
        """Rows of a matrix as float64 [count, columns]."""
        return decode(*self.packed(name, first, count))

    def packed(self, name, first=0, count=None):
        """(type, bytes [count, bytes per row], the scale of the whole tensor or None)."""
        tensor = self.tensors[name]
        _, block, size = next(entry for entry in TYPES.values() if entry[0] == tensor.kind)
        total, columns = tensor.shape
        row = columns // block * size
        scale = tensor.data[total * row :][:4].view("<f4")[0] if tensor.kind == "I2_S" else None
        count = total - first if count is None else count
        return tensor.kind, tensor.data[first * row : (first + count) * row].reshape(count, row), scale


def half(data):
    return np.ascontiguousarray(data).view("<f2").astype(np.float64)


def decode(kind, data, scale):
    """Packed rows [n, bytes] as float64 [n, columns]."""
    data = np.ascontiguousarray(data)
    n = len(data)
    if kind == "F32":
        return data.view("<f4").astype(np.float64)
    if kind == "F16":
        return half(data)
    if kind == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if kind == "I2_S":
        groups = data.reshape(n, -1, 1, 32)
        codes = groups >> np.array([6, 4, 2, 0], np.uint8)[:, None] & 3
        return (codes.reshape(n, -1).astype(np.float64) - 1) * float(scale)
    if kind == "Q4_1":
        quants, minima = q4_1(data)
        return quants + np.repeat(minima, 32, axis=1)
    blocks = data.reshape(n, -1, {"Q4_0": 18, "Q8_0": 34, "Q4_K": 144, "Q6_K": 210, "TQ1_0": 54, "TQ2_0": 66, "Q2_0": 18}[kind])
    values = {"Q4_0": _q4_0, "Q8_0": _q8_0, "Q4_K": _q4_k, "Q6_K": _q6_k, "TQ1_0": _tq1_0, "TQ2_0": _tq2_0, "Q2_0": _q2_0}[kind](blocks)
    return values.reshape(n, -1)


def _nibbles(qs):
    return np.concatenate([qs & 15, qs >> 4], axis=-1).astype(np.float64)


def q4_1(data):
    """Q4_1 rows apart: scaled quants [n, columns] and minima [n, columns / 32]; a weight is their sum."""
    blocks = np.ascontiguousarray(data).reshape(len(data), -1, 20)
    quants = _nibbles(blocks[..., 4:]) * half(blocks[..., :2])
    return quants.reshape(len(data), -1), half(blocks[..., 2:4])[..., 0]


def _q4_0(b):
    return (_nibbles(b[..., 2:]) - 8) * half(b[..., :2])


def _q8_0(b):
    return np.ascontiguousarray(b[..., 2:]).view(np.int8).astype(np.float64) * half(b[..., :2])


def _q4_k(b):
    s = b[..., 4:16]
    low, high, last = s[..., 0:4], s[..., 4:8], s[..., 8:12]
    scales = np.concatenate([low & 63, (last & 15) | (low >> 6) << 4], axis=-1).astype(np.float64)
    minima = np.concatenate([high & 63, (last >> 4) | (high >> 6) << 4], axis=-1).astype(np.float64)
    qs = b[..., 16:].reshape(*b.shape[:-1], 4, 32)
    quants = np.stack([qs & 15, qs >> 4], axis=-2).reshape(*b.shape[:-1], 8, 32).astype(np.float64)
    return quants * (half(b[..., :2]) * scales)[..., None] - (half(b[..., 2:4]) * minima)[..., None]


def _q6_k(b):
    ql = b[..., :128].reshape(*b.shape[:-1], 2, 1, 2, 32)
    qh = b[..., 128:192].reshape(*b.shape[:-1], 2, 1, 1, 32)
    # Quarters of a half in order: low nibbles of both 32s, then high nibbles of both.
    low = np.concatenate([ql & 15, ql >> 4], axis=-3)
    high = (qh >> np.array([[0, 2], [4, 6]], np.uint8)[..., None] & 3) << 4
    quants = (low | high).reshape(*b.shape[:-1], 16, 16).astype(np.float64) - 32
    scales = np.ascontiguousarray(b[..., 192:208]).view(np.int8).astype(np.float64)
    return quants * (half(b[..., 208:]) * scales)[..., None]


def _tq1_0(b):
    """Trits are the digits of a fraction of 256: times 3^n, modulo 256, the top trit is the n-th."""
    powers = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]
    trits = lambda part, count: ((part[..., None, :] * powers[:count]).astype(np.uint16) * 3 >> 8).reshape(*b.shape[:-1], -1)
    parts = [trits(b[..., :32], 5), trits(b[..., 32:48], 5), trits(b[..., 48:52], 4)]
    return (np.concatenate(parts, axis=-1).astype(np.float64) - 1) * half(b[..., 52:])


def _tq2_0(b):
    qs = b[..., :64].reshape(*b.shape[:-1], 2, 1, 32)
    codes = qs >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    return (codes.reshape(*b.shape[:-1], 256).astype(np.float64) - 1) * half(b[..., 64:])


def _q2_0(b):
    codes = b[..., 2:, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    return (codes.reshape(*b.shape[:-1], 64).astype(np.float64) - 1) * half(b[..., :2])
