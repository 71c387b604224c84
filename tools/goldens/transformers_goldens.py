#!/usr/bin/env python3
"""Writes fixtures/goldens/transformers-b158.{json,f32}: what transformers' BitNetForCausalLM makes of a fixture.

    python3 tools/goldens/transformers_goldens.py fixtures/gguf/ok/bitnet-b158-embedding.gguf \
        --tokens fixtures/goldens/transformers-b158.tokens.json --out fixtures/goldens

In: a GGUF file of architecture bitnet-b1.58 and token ids. Out: the logits of every position, f32 [positions,
vocabulary]. The weights go into the class as they are used offline (AutoBitLinear: ternary codes and a scale that
multiplies); the computation is in float32 on the CPU, attention in its eager form. Needs torch and transformers
(seen with torch 2.11.0 and transformers 5.17.0); run it where they are installed.
"""

import argparse
import hashlib
import json
import pathlib
import sys

import torch
import transformers
from transformers import BitNetConfig, BitNetForCausalLM
from transformers.integrations.bitnet import AutoBitLinear

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "oracle"))
import gguf  # noqa: E402

PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
NORMS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm",
}


def build(file):
    meta = file.metadata
    get = lambda key: meta["bitnet-b1.58." + key]
    config = BitNetConfig(
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=get("attention.head_count"),
        num_key_value_heads=get("attention.head_count_kv"),
        max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
        tie_word_embeddings="output.weight" not in file.tensors,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    model = BitNetForCausalLM(config).float().eval()
    tensor = lambda rows: torch.tensor(rows, dtype=torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(tensor(file.rows("token_embd.weight")))
        if not config.tie_word_embeddings:
            model.lm_head.weight.copy_(tensor(file.rows("output.weight")))
        model.model.norm.weight.copy_(tensor(file.vector("output_norm.weight")))
        for index, layer in enumerate(model.model.layers):
            for module, name in NORMS.items():
                layer.get_submodule(module).weight.copy_(tensor(file.vector(f"blk.{index}.{name}.weight")))
            for module, name in PARTS.items():
                kind, data, scale = file.packed(f"blk.{index}.{name}.weight")
                codes = tensor(gguf.decode(kind, data, 1.0))
                linear = AutoBitLinear(codes.shape[1], codes.shape[0], bias=False)
                linear.weight.copy_(codes)
                linear.weight_scale.copy_(torch.tensor([float(scale)]))
                layer.set_submodule(module, linear)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--tokens", required=True, type=pathlib.Path, help="a JSON array of ids")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    file = gguf.File(args.model)
    model = build(file)
    tokens = json.loads(args.tokens.read_text())
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()
    data = logits.astype("<f4").tobytes()
    (args.out / "transformers-b158.f32").write_bytes(data)
    golden = {
        "engine": "transformers",
        "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "system": "BitNetForCausalLM, AutoBitLinear offline, float32, CPU, eager attention",
        "command": "python3 tools/goldens/transformers_goldens.py fixtures/gguf/ok/bitnet-b158-embedding.gguf"
        " --tokens fixtures/goldens/transformers-b158.tokens.json --out fixtures/goldens",
        "model": {
            "architecture": file.metadata["general.architecture"],
            "layers": model.config.num_hidden_layers,
            "hidden": model.config.hidden_size,
            "vocabulary": logits.shape[1],
        },
        "activation_quant": "token",
        "model_sha256": hashlib.sha256(args.model.read_bytes()).hexdigest(),
        "logits": "transformers-b158.f32",
        "logits_sha256": hashlib.sha256(data).hexdigest(),
        "tokens": tokens,
    }
    (args.out / "transformers-b158.json").write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{len(tokens)} positions, vocabulary {logits.shape[1]}, logits {logits.min():.3f} to {logits.max():.3f}")


if __name__ == "__main__":
    main()
