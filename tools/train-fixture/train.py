"""Trains a fixture model: BitNet b1.58 with quantization in the loop, on the corpus of corpus.py.

In: the folder that corpus.py filled. Out, in OUT: NAME.pt (codes, scales, norms, embedding), NAME.json (settings, curve,
perplexities). AdamW, warm-up and cosine, weight decay in the first half only (the schedule of the BitNet training tips),
dropout. The weights kept are those with the lowest validation perplexity; the test split decides nothing. The length is
`--steps`, or `--seconds` of wall clock with the same schedule stretched over them. `--device cpu` takes hours.
Usage: train.py CORPUS OUT [--architecture bitnet] [--device cpu] [--steps 7000]
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from model import BitLinear, BitNet, Config, ternary

WINDOW, WARM_UP = 512, 200


@torch.no_grad()
def perplexity(model, ids, device, context=512, batch=16):
    """As llama.cpp measures it: chunks of `context`, the first token of each replaced by BOS, the second half scored."""
    model.eval()
    chunks = torch.from_numpy(ids[: len(ids) // context * context].astype(np.int64)).view(-1, context)
    chunks[:, 0] = int(ids[0])
    nll, count = 0.0, 0
    for part in chunks.split(batch):
        part = part.to(device)
        logits = model(part)[:, context // 2 : -1].double()
        nll += F.cross_entropy(logits.flatten(0, 1), part[:, context // 2 + 1 :].flatten(), reduction="sum").item()
        count += logits.shape[0] * logits.shape[1]
    model.train()
    return math.exp(nll / count)


def state(model):
    """What a file keeps: name to array; linears as int8 codes and an f16-exact scale, norms and embedding in f16."""
    kept = {"token_embd": model.token_embd.detach().half().cpu(), "output_norm": model.output_norm.weight.detach().half().cpu()}
    for n, layer in enumerate(model.layers):
        for name, module in layer.named_children():
            if isinstance(module, BitLinear):
                codes, scale = ternary(module.weight.detach())
                kept[f"blk.{n}.{name}"] = (codes.to(torch.int8).cpu(), scale.cpu())
            else:
                kept[f"blk.{n}.{name}"] = module.weight.detach().half().cpu()
    return kept


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--name")
    parser.add_argument("--architecture", default="bitnet-b1.58", choices=["bitnet-b1.58", "bitnet"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--check-every", type=int, default=500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--feed-forward", type=int, default=768)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=158)
    args = parser.parse_args()
    name = args.name or args.architecture

    torch.manual_seed(args.seed)
    device, cuda = args.device, args.device == "cuda"
    config = Config(
        architecture=args.architecture, feed_forward=args.feed_forward, layers=args.layers, kv_heads=args.kv_heads, dropout=args.dropout
    )
    model = BitNet(config).to(device)
    ids = {part: np.load(args.corpus / f"{part}.npy") for part in ("train", "valid", "test")}
    train = torch.from_numpy(ids["train"].astype(np.int64)).to(device)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": matrices, "weight_decay": args.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.95), fused=cuda)
    starts = torch.Generator().manual_seed(args.seed)
    bf16 = torch.autocast(device, torch.bfloat16, enabled=cuda)
    run = torch.compile(model) if cuda else model
    curve, best, kept, begun, step = [], math.inf, None, time.time(), 0
    model.train()
    while True:
        if step == 3:
            since = time.time()  # after the compiler
        done = step / args.steps if not args.seconds else 0.0 if step < 3 else (time.time() - since) / (args.seconds - (since - begun))
        last = done >= 1
        if last or step % args.check_every == 0 and step:
            held = perplexity(model, ids["valid"], device)
            curve.append({"step": step, "loss": round(loss.item(), 4), "valid": round(held, 4)})
            print(name, curve[-1], f"{time.time() - begun:.0f} s", flush=True)
            if held < best and done > 0.3:
                best, kept = held, state(model)
        if last:
            break
        rate = args.rate * min(1, (step + 1) / WARM_UP) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.param_groups[0]["weight_decay"] = args.decay if done < 0.5 else 0.0
        at = torch.randint(len(train) - WINDOW - 1, (args.batch, 1), generator=starts).to(device)
        window = train[at + torch.arange(WINDOW + 1, device=device)]
        window[:, 0] = train[0]
        with bf16:
            logits = run(window[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save({"config": config.to_dict(), "tensors": kept}, args.out / f"{name}.pt")
    facts = {
        "config": config.to_dict(), "seed": args.seed, "steps": step, "batch": args.batch, "window": WINDOW, "rate": args.rate,
        "decay": args.decay, "epochs": round(step * args.batch * WINDOW / len(train), 1), "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if cuda else "cpu", "seconds": round(time.time() - begun), "valid": best, "curve": curve,
    }
    (args.out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(name, "kept", best, f"{facts['epochs']} epochs", flush=True)


if __name__ == "__main__":
    main()
