"""Stored logits as an engine: `python3 tools/oracle/golden.py evaluate --model FILE --golden GOLDEN.json`.

In: the engine protocol on stdin. Out: the logits that another program computed once (tools/goldens has the scripts),
for exactly the model file and the tokens that it computed them from; anything else is an error. Standard library only.
"""

import argparse
import hashlib
import json
import pathlib
import shutil

import protocol


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["evaluate"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--golden", required=True, type=pathlib.Path)
    parser.add_argument("--activation-quant", help="must be the golden's own mode")
    args = parser.parse_args()
    golden = json.loads(args.golden.read_text())
    if args.activation_quant not in (None, golden["activation_quant"]):
        raise SystemExit(f"{args.golden}: made with {golden['activation_quant']} activations, not {args.activation_quant}")
    for what, path in (("model_sha256", pathlib.Path(args.model)), ("logits_sha256", args.golden.parent / golden["logits"])):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != golden[what]:
            raise SystemExit(f"{path}: sha256 {digest}, but {args.golden} is for {golden[what]}")
    hello = {key: golden[key] for key in ("engine", "version", "system", "model", "activation_quant")}
    protocol.serve({**hello, "threads": 1}, lambda request: answer(golden, args.golden.parent, request))


def answer(golden, folder, request):
    if request["op"] != "evaluate":
        return {"result": "error", "message": f"stored logits cannot {request['op']}"}
    if request.get("taps") or request.get("given"):
        return {"result": "error", "message": "stored logits have no intermediate results"}
    if request["tokens"] != golden["tokens"]:
        return {"result": "error", "message": f"the stored logits are of {len(golden['tokens'])} other tokens"}
    shutil.copyfile(folder / golden["logits"], request["logits"])
    return {"result": "evaluated", "positions": len(golden["tokens"]), "vocabulary": golden["model"]["vocabulary"]}


if __name__ == "__main__":
    main()
