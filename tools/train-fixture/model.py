"""A small BitNet b1.58 in PyTorch, trained with quantization in the loop.

In: token ids [batch, length]. Out: logits [batch, length, vocabulary]. Every linear is a `BitLinear`: ternary weights
under one scale (the mean magnitude, rounded to f16 so that every format can hold it) times activations in int8, one
scale per token; gradients pass straight through both roundings. The graph is that of Microsoft's `bitnet-b1.58`
(squared ReLU) or of 1bitLLM's `bitnet` (SiLU): sub-norms before the output and the down projection, NeoX rotary
embedding, grouped queries, tied f16 head. Source of the arithmetic: "The Era of 1-bit LLMs" (arXiv 2402.17764) and its
training tips. Deliberately absent: a KV cache; the runtime has one.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    architecture: str = "bitnet-b1.58"
    vocabulary: int = 2048
    hidden: int = 256
    feed_forward: int = 768
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    context: int = 512
    rope_base: float = 10000.0
    eps: float = 1e-5
    dropout: float = 0.1

    def to_dict(self):
        return asdict(self)


def ternary(weight):
    """Codes (-1, 0, 1) and the scale they stand for: absmean quantization, with an f16 scale."""
    scale = weight.abs().mean().clamp(min=1e-4).half().float()
    return (weight / scale).round().clamp(-1, 1), scale


class BitLinear(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * inputs**-0.5)
        self.fixed = None  # (codes, scale) of a finished model

    def forward(self, x):
        if self.fixed:
            codes, weight_scale = self.fixed
        else:
            codes, weight_scale = self.trained()
        scale = 127 / x.float().abs().amax(-1, keepdim=True).clamp(min=1e-5)
        scaled = x.float() * scale
        quants = scaled + (scaled.round().clamp(-128, 127) - scaled).detach()
        # Integers up to 128 are exact in bf16, so autocast loses nothing but the rounding of the sums.
        return F.linear(quants, codes).float() * (weight_scale / scale)

    def trained(self):
        codes, weight_scale = ternary(self.weight)
        return self.weight / weight_scale + (codes - self.weight / weight_scale).detach(), weight_scale


class Norm(nn.Module):
    def __init__(self, length, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(length)), eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, hidden, wide = config, config.hidden, config.feed_forward
        self.head = hidden // config.heads
        keys = self.head * config.kv_heads
        self.attn_norm, self.ffn_norm = Norm(hidden, config.eps), Norm(hidden, config.eps)
        self.attn_sub_norm, self.ffn_sub_norm = Norm(hidden, config.eps), Norm(wide, config.eps)
        self.attn_q, self.attn_output = BitLinear(hidden, hidden), BitLinear(hidden, hidden)
        self.attn_k, self.attn_v = BitLinear(hidden, keys), BitLinear(hidden, keys)
        self.ffn_gate, self.ffn_up, self.ffn_down = BitLinear(hidden, wide), BitLinear(hidden, wide), BitLinear(wide, hidden)

    def forward(self, x, rope):
        batch, length, _ = x.shape
        split = lambda y, heads: y.view(batch, length, heads, self.head).transpose(1, 2)
        y = self.attn_norm(x)
        q, k, v = split(self.attn_q(y), self.config.heads), split(self.attn_k(y), self.config.kv_heads), split(self.attn_v(y), self.config.kv_heads)
        q, k = rotate(q, rope), rotate(k, rope)
        k, v = (t.repeat_interleave(self.config.heads // self.config.kv_heads, dim=1) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, -1)
        x = x + self.drop(self.attn_output(self.attn_sub_norm(mixed)))
        y = self.ffn_norm(x)
        gate = self.ffn_gate(y)
        gate = F.relu(gate).square() if self.config.architecture == "bitnet-b1.58" else F.silu(gate)
        return x + self.drop(self.ffn_down(self.ffn_sub_norm(gate * self.ffn_up(y))))

    def drop(self, x):
        return F.dropout(x, self.config.dropout, self.training)


def rotate(x, rope):
    """NeoX pairing: element i turns with element i + half."""
    cos, sin = rope
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class BitNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_embd = nn.Parameter(torch.randn(config.vocabulary, config.hidden) * 0.02)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.output_norm = Norm(config.hidden, config.eps)
        half = config.hidden // config.heads // 2
        angles = torch.outer(torch.arange(config.context).float(), config.rope_base ** (-torch.arange(half).float() / half))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens):
        length = tokens.shape[1]
        rope = self.cos[:length], self.sin[:length]
        table = self.token_embd + (self.token_embd.half().float() - self.token_embd).detach()
        x = F.dropout(F.embedding(tokens, table), self.config.dropout, self.training)
        for layer in self.layers:
            x = layer(x, rope)
        return F.linear(self.output_norm(x), table)


def load(path):
    """The finished model in a file of train.py, on the CPU in float32."""
    saved = torch.load(path, weights_only=True)
    model = BitNet(Config(**saved["config"])).eval()
    model.token_embd.data = saved["tensors"]["token_embd"].float()
    model.output_norm.weight.data = saved["tensors"]["output_norm"].float()
    for n, layer in enumerate(model.layers):
        for name, module in layer.named_children():
            value = saved["tensors"][f"blk.{n}.{name}"]
            if isinstance(module, BitLinear):
                module.fixed = value[0].float(), value[1]
            else:
                module.weight.data = value.float()
    return model, saved
