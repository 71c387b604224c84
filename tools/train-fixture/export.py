"""Writes a finished model as the fixtures under fixtures/trained have it.

In: NAME.pt and NAME.json of train.py, the corpus folder, OUT and the fixture's name. Out: FIXTURE.gguf (I2_S in the x86
layout); FIXTURE.json with the settings, the curve and what PyTorch makes of the held-out text in float32 on the CPU, per
chunk; held-out.txt and corpus.json; with --packed the folder FIXTURE-packed with model.safetensors, config.json and
tokenizer.json (four codes a byte, row r of the four quarters at bits 2 * quarter, as transformers' BitNet integration
packs them; weight_scale multiplies). Layouts: docs/reference/formats.md.
Usage: export.py NAME.pt CORPUS OUT FIXTURE [--packed]
"""

import argparse
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from corpus import BEGIN, END
from model import load

F32, F16, I2_S = 0, 1, 36
U32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
HUGGING_FACE = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_sub_norm": "self_attn.attn_sub_norm", "ffn_sub_norm": "mlp.ffn_sub_norm",
}


def i2_s(codes, scale):
    """[rows, columns] of -1, 0, 1 to groups of 128 in 32 bytes, high bits first; then the scale and 28 zeros."""
    fields = (codes.numpy() + 1).astype(np.uint8).reshape(-1, 4, 32)
    packed = fields[:, 0] << 6 | fields[:, 1] << 4 | fields[:, 2] << 2 | fields[:, 3]
    return packed.tobytes() + struct.pack("<f28x", scale)


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(v):
    if isinstance(v, bool):
        return struct.pack("<IB", BOOL, v)
    if isinstance(v, int):
        return struct.pack("<II", U32, v)
    if isinstance(v, float):
        return struct.pack("<If", FLOAT32, v)
    if isinstance(v, str):
        return struct.pack("<I", STRING) + string(v)
    if isinstance(v[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(v)) + b"".join(map(string, v))
    return struct.pack("<IIQ", ARRAY, 5, len(v)) + np.array(v, "<i4").tobytes()


def gguf(path, metadata, tensors):
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for key, v in metadata.items():
        head += string(key) + value(v)
    data = b""
    for name, kind, shape, content in tensors:
        data += bytes(-len(data) % 32)
        head += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += struct.pack("<IQ", kind, len(data))
        data += content
    path.write_bytes(head + bytes(-len(head) % 32) + data + bytes(-len(data) % 32))


def metadata(name, config, tokenizer):
    arch = config["architecture"]
    vocabulary = tokenizer["model"]["vocab"]
    special = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    keys = {
        "vocab_size": len(tokens), "context_length": config["context"], "embedding_length": config["hidden"],
        "block_count": config["layers"], "feed_forward_length": config["feed_forward"], "attention.head_count": config["heads"],
        "attention.head_count_kv": config["kv_heads"], "attention.layer_norm_rms_epsilon": config["eps"],
        "rope.dimension_count": config["hidden"] // config["heads"], "rope.freq_base": config["rope_base"], "rope.scaling.type": "none",
    }
    return {
        "general.architecture": arch, "general.name": name, "general.license": "MIT OR Apache-2.0", "general.file_type": 40,
        "general.quantization_version": 2, **{f"{arch}.{key}": v for key, v in keys.items()},
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if t in special else 1 for t in tokens], "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": special[BEGIN], "tokenizer.ggml.eos_token_id": special[END],
        "tokenizer.ggml.add_bos_token": True,
    }


def tensors(saved):
    for name, content in saved["tensors"].items():
        if isinstance(content, tuple):
            yield f"{name}.weight", I2_S, content[0].shape, i2_s(content[0], content[1].item())
        elif name == "token_embd":
            yield f"{name}.weight", F16, content.shape, content.numpy().tobytes()
        else:
            yield f"{name}.weight", F32, content.shape, content.float().numpy().tobytes()


def packed(folder, saved, tokenizer):
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    out = {"model.embed_tokens.weight": saved["tensors"]["token_embd"], "model.norm.weight": saved["tensors"]["output_norm"]}
    for name, content in saved["tensors"].items():
        if not name.startswith("blk."):
            continue
        _, layer, part = name.split(".")
        path = f"model.layers.{layer}.{HUGGING_FACE[part]}"
        if isinstance(content, tuple):
            quarters = (content[0] + 1).to(torch.uint8).chunk(4)
            out[f"{path}.weight"] = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
            out[f"{path}.weight_scale"] = content[1].half().reshape(1)
        else:
            out[f"{path}.weight"] = content
    save_file(out, folder / "model.safetensors", metadata={"format": "pt"})
    c = saved["config"]
    config = {
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "vocab_size": c["vocabulary"], "hidden_size": c["hidden"],
        "intermediate_size": c["feed_forward"], "num_hidden_layers": c["layers"], "num_attention_heads": c["heads"],
        "num_key_value_heads": c["kv_heads"], "hidden_act": "relu2", "max_position_embeddings": c["context"],
        "rms_norm_eps": c["eps"], "rope_theta": c["rope_base"], "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1,
        "torch_dtype": "float16",
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n")


@torch.no_grad()
def golden(model, ids, context):
    """Summed negative log likelihood (nats) of each chunk, and the perplexity, as train.perplexity has it."""
    chunks = torch.from_numpy(ids[: len(ids) // context * context].astype(np.int64)).view(-1, context)
    chunks[:, 0] = int(ids[0])
    sums = []
    for chunk in chunks:
        logits = model(chunk[None])[0, context // 2 : -1].double()
        sums.append(F.cross_entropy(logits, chunk[context // 2 + 1 :], reduction="sum").item())
    scored = len(sums) * (context // 2 - 1)
    perplexity = float(np.exp(sum(sums) / scored))
    return {"torch": torch.__version__, "context": context, "scored": scored, "perplexity": perplexity, "nll": sums}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("fixture")
    parser.add_argument("--packed", action="store_true")
    args = parser.parse_args()
    torch.backends.mkldnn.enabled = False
    model, saved = load(args.model)
    tokenizer = json.loads((args.corpus / "tokenizer.json").read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    gguf(args.out / f"{args.fixture}.gguf", metadata(args.fixture, saved["config"], tokenizer), list(tensors(saved)))
    if args.packed:
        packed(args.out / f"{args.fixture}-packed", saved, tokenizer)
    held_out = golden(model, np.load(args.corpus / "test.npy"), saved["config"]["context"])
    facts = {"training": json.loads(args.model.with_suffix(".json").read_text()), "held_out": held_out}
    (args.out / f"{args.fixture}.json").write_text(json.dumps(facts) + "\n")
    shutil.copyfile(args.corpus / "test.txt", args.out / "held-out.txt")
    shutil.copyfile(args.corpus / "corpus.json", args.out / "corpus.json")
    print(args.fixture, "held-out perplexity", held_out["perplexity"])


if __name__ == "__main__":
    main()
