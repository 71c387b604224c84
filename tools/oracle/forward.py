"""The float64 forward pass that judges every engine: `llama`, `bitnet`, `bitnet-b1.58` (and its name
`bitnet-25`), `qwen3`.

In: a gguf.File and token ids. Out: logits [positions, vocabulary] and every intermediate result, in float64. Written
from the definitions: RMSNorm (Zhang and Sennrich 2019), RoPE (Su et al. 2021), SwiGLU (Shazeer 2020), grouped queries
(Ainslie et al. 2023), BitNet b1.58 (Ma et al. 2024; sub-norms and squared ReLU of the 2B4T report, 2025).

What is rounded, because it is part of what the engines define and not noise: activations before a packed matrix, in
the type that the weight's type meets (ggml), or int8 per token for ternary layers (BitNet); queries, keys, values and
softmax weights to f16, as every engine's cache holds them. `--exact` leaves the f16 roundings out. Everything else is
float64. Deliberately absent: speed, batching, text.

VARIANTS are graphs that are wrong on purpose, so that an engine that errs can be told what it does.
"""

import numpy as np

import gguf

VARIANTS = {
    "silu": "SiLU in the FFN where the model needs squared ReLU",
    "relu2": "squared ReLU in the FFN where the model needs SiLU",
    "no-attn-sub-norm": "no norm between attention and its output projection",
    "no-ffn-sub-norm": "no norm before the down projection",
    "rope-neox": "RoPE over the two halves of a head where the model needs adjacent pairs",
    "rope-adjacent": "RoPE over adjacent pairs where the model needs the two halves of a head",
    "position-plus-one": "RoPE angles one position late",
}


def to_half(x):
    return x.astype(np.float16).astype(np.float64)


def to_bfloat(x):
    """Round to nearest even at 8 significant bits."""
    bits = x.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def int8_per_token(x):
    """BitNet: scale 127 / max(absmax, 1e-5), nearest even, -128 to 127; the values that the integers stand for."""
    scale = 127 / np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-5)
    return np.clip(np.rint(x * scale), -128, 127) / scale


def q8_blocks(x):
    """ggml Q8_0 and Q8_1 (AVX2): per 32, quants x * 127 / absmax to nearest even, scale d = absmax / 127."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    absmax = np.abs(blocks).max(axis=-1, keepdims=True)
    quants = np.rint(blocks * np.divide(127, absmax, out=np.zeros_like(absmax), where=absmax > 0))
    return quants, absmax / 127


def q8_k(x):
    """ggml Q8_K: per 256, the first entry of largest magnitude becomes -127."""
    blocks = x.reshape(*x.shape[:-1], -1, 256)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)
    inverse = np.divide(-127, largest, out=np.zeros_like(largest), where=largest != 0)
    quants = np.minimum(np.rint(blocks * inverse), 127)
    return np.divide(quants, inverse, out=np.zeros_like(quants), where=inverse != 0).reshape(x.shape)


def product(x, packed, activation_quant):
    """x [positions, columns] times the packed rows, activations quantized as the weight's type asks."""
    kind, data, scale = packed
    if kind == "Q4_1":
        weights, minima = gguf.q4_1(data)
        quants, d = q8_blocks(x)
        sums = to_half(d[..., 0] * quants.sum(axis=-1))
        return (quants * to_half(d)).reshape(x.shape) @ weights.T + sums @ minima.T
    weights = gguf.decode(kind, data, scale)
    if kind in gguf.TERNARY and activation_quant == "token":
        x = int8_per_token(x)
    elif kind in gguf.TERNARY and kind != "Q2_0":
        x = q8_k(x)
    elif kind in ("Q4_K", "Q6_K"):
        x = q8_k(x)
    elif kind in ("Q4_0", "Q8_0", "Q2_0"):
        quants, d = q8_blocks(x)
        x = (quants * to_half(d)).reshape(x.shape)
    elif kind == "F16":
        x = to_half(x)
    elif kind == "BF16":
        x = to_bfloat(x)
    return x @ weights.T


class Model:
    def __init__(self, path, activation_quant="token", variant=None, exact=False):
        self.file = gguf.File(path)
        meta = self.file.metadata
        self.architecture = meta["general.architecture"]
        if self.architecture not in ("llama", "bitnet", "bitnet-b1.58", "bitnet-25", "qwen3"):
            known = "llama, bitnet, bitnet-b1.58 and qwen3"
            raise ValueError(f"{path}: architecture {self.architecture}; the oracle knows {known}")
        get = lambda key, default=None: meta.get(f"{self.architecture}.{key}", default)
        self.layers, self.hidden = get("block_count"), get("embedding_length")
        self.heads = get("attention.head_count")
        self.kv_heads = get("attention.head_count_kv", self.heads)
        self.head_dim = get("attention.key_length", self.hidden // self.heads)
        self.eps = float(np.float32(get("attention.layer_norm_rms_epsilon")))
        self.sub_norms = self.architecture.startswith("bitnet")
        self.head_norms = self.architecture == "qwen3"
        self.neox = self.sub_norms or self.head_norms
        relu2 = self.architecture in ("bitnet-b1.58", "bitnet-25")
        self.activation = get("hidden_activation", "relu2" if relu2 else "silu")
        self.rope_dim = get("rope.dimension_count", self.head_dim)
        base = float(get("rope.freq_base", 10000.0))
        scaling = get("rope.scaling.type", "none")
        if scaling not in ("none", "linear"):
            raise ValueError(f"{path}: RoPE scaling {scaling}; the oracle knows none and linear")
        self.frequencies = base ** (-np.arange(0, self.rope_dim, 2) / self.rope_dim)
        if scaling == "linear":
            self.frequencies /= get("rope.scaling.factor", 1.0)
        divisors = self.file.vector("rope_freqs.weight")
        if divisors is not None:
            self.frequencies /= divisors
        self.head = "output.weight" if "output.weight" in self.file.tensors else "token_embd.weight"
        self.vocabulary = self.file.tensors[self.head].shape[0]
        self.ternary = self.file.tensors["blk.0.ffn_down.weight"].kind in gguf.TERNARY
        self.activation_quant, self.exact, self.shift = activation_quant, exact, 0
        self._apply(variant)

    def _apply(self, variant):
        self.attn_sub_norm = self.sub_norms and variant != "no-attn-sub-norm"
        self.ffn_sub_norm = self.sub_norms and variant != "no-ffn-sub-norm"
        if variant in ("silu", "relu2"):
            self.activation = variant
        if variant in ("rope-neox", "rope-adjacent"):
            self.neox = variant == "rope-neox"
        if variant == "position-plus-one":
            self.shift = 1

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * self.file.vector(name)

    def linear(self, x, name):
        out = product(x, self.file.packed(f"{name}.weight"), self.activation_quant)
        scale = self.file.vector(f"{name}.scale")
        return out if scale is None else out * scale[0]

    def rotate(self, x):
        """RoPE on x [positions, heads, head_dim]."""
        angles = (np.arange(len(x)) + self.shift)[:, None, None] * self.frequencies
        cos, sin = np.cos(angles), np.sin(angles)
        out, n = x.copy(), self.rope_dim
        first, second = (slice(0, n // 2), slice(n // 2, n)) if self.neox else (slice(0, n, 2), slice(1, n, 2))
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., first] * sin + x[..., second] * cos
        return out

    def attend(self, q, k, v):
        """Causal attention: q [positions, heads, d], k and v [positions, kv_heads, d]; [positions, heads * d]."""
        half = (lambda x: x) if self.exact else to_half
        q, k, v = half(q), half(k), half(v)
        positions = len(q)
        mask = np.where(np.tri(positions, dtype=bool), 0, -np.inf)
        out = np.empty_like(q)
        for head in range(self.heads):
            group = head * self.kv_heads // self.heads
            scores = q[:, head] @ k[:, group].T / np.sqrt(self.head_dim) + mask
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[:, head] = half(weights) @ v[:, group]
        return out.reshape(positions, -1)

    def forward(self, tokens, tap=lambda point, layer, value: None, given={}):
        """Logits of every position; `tap(point, layer, value)` sees every intermediate result in order.

        `given` maps (point, layer) to another engine's value, with which the computation goes on.
        """
        for token in tokens:
            if not 0 <= token < self.vocabulary:
                raise ValueError(f"token {token} is outside the vocabulary of {self.vocabulary}")
        positions = len(tokens)
        x = np.concatenate([self.file.rows("token_embd.weight", token, 1) for token in tokens])
        tap("embedding", None, x)
        x = given.get(("embedding", None), x)
        for layer in range(self.layers):
            name = f"blk.{layer}."

            def keep(point, value):
                tap(point, layer, value.reshape(positions, -1))
                return given.get((point, layer), value).reshape(value.shape)

            n = keep("attn-norm", self.norm(x, name + "attn_norm.weight"))
            project = lambda part, heads: self.linear(n, name + part).reshape(positions, heads, self.head_dim)
            q = keep("query", project("attn_q", self.heads))
            k = keep("key", project("attn_k", self.kv_heads))
            v = keep("value", project("attn_v", self.kv_heads))
            if self.head_norms:
                q, k = self.norm(q, name + "attn_q_norm.weight"), self.norm(k, name + "attn_k_norm.weight")
            q, k = keep("query-rope", self.rotate(q)), keep("key-rope", self.rotate(k))
            a = keep("attention", self.attend(q, k, v))
            if self.attn_sub_norm:
                a = keep("attn-sub-norm", self.norm(a, name + "attn_sub_norm.weight"))
            x = keep("attn-residual", x + keep("attn-output", self.linear(a, name + "attn_output")))
            n = keep("ffn-norm", self.norm(x, name + "ffn_norm.weight"))
            gate, up = keep("gate", self.linear(n, name + "ffn_gate")), keep("up", self.linear(n, name + "ffn_up"))
            active = gate / (1 + np.exp(-gate)) if self.activation == "silu" else np.maximum(gate, 0) ** 2
            f = keep("ffn-activation", active * up)
            if self.ffn_sub_norm:
                f = keep("ffn-sub-norm", self.norm(f, name + "ffn_sub_norm.weight"))
            x = keep("layer-output", x + keep("ffn-output", self.linear(f, name + "ffn_down")))
        x = self.norm(x, "output_norm.weight")
        tap("final-norm", None, x)
        x = given.get(("final-norm", None), x)
        # In parts: the head of a large vocabulary is gigabytes in float64.
        parts = range(0, self.vocabulary, 8192)
        rows = lambda first: self.file.packed(self.head, first, min(8192, self.vocabulary - first))
        return np.concatenate([product(x, rows(first), self.activation_quant) for first in parts], axis=1)
