"""The float64 oracle as an engine: `python3 tools/oracle/evaluate.py evaluate --model FILE`.

In: the engine protocol on stdin. Out: logits and taps in files, as little-endian f32. It neither tokenizes nor
measures: asked for either it answers with an error. Needs numpy (tools/requirements-oracle.txt).
"""

import argparse

import numpy as np

import forward
import protocol


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["evaluate"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--activation-quant", choices=["token", "block256"], default="token")
    parser.add_argument("--variant", choices=sorted(forward.VARIANTS), help="compute this wrong graph instead")
    parser.add_argument("--exact", action="store_true", help="no f16 roundings in attention")
    args = parser.parse_args()
    model = forward.Model(args.model, args.activation_quant, args.variant, args.exact)
    hello = {
        "engine": "oracle",
        "version": f"numpy {np.__version__}",
        "system": f"float64, variant {args.variant}: {forward.VARIANTS[args.variant]}" if args.variant else "float64",
        "threads": 1,
        "model": {
            "architecture": model.architecture,
            "layers": model.layers,
            "hidden": model.hidden,
            "vocabulary": model.vocabulary,
        },
        "activation_quant": args.activation_quant if model.ternary else None,
    }
    protocol.serve(hello, lambda request: answer(model, request))


def answer(model, request):
    if request["op"] != "evaluate":
        return {"result": "error", "message": f"the oracle does not {request['op']}"}
    taps, values = [], []

    def tap(point, layer, value):
        if request.get("taps"):
            offset = sum(value.nbytes for value in values)
            taps.append({"point": point, "layer": layer, "width": value.shape[1], "offset": offset})
            values.append(value.astype("<f4"))

    logits = model.forward(request["tokens"], tap, read(request.get("given"), len(request["tokens"])))
    logits.astype("<f4").tofile(request["logits"])
    if request.get("taps"):
        with open(request["taps"], "wb") as file:
            for value in values:
                value.tofile(file)
    return {"result": "evaluated", "positions": len(logits), "vocabulary": logits.shape[1], "taps": taps}


def read(given, positions):
    """Another engine's taps by (point, layer)."""
    if not given:
        return {}
    data = np.fromfile(given["path"], "<f4").astype(np.float64)
    rows = lambda tap: data[tap["offset"] // 4 :][: positions * tap["width"]].reshape(positions, -1)
    return {(tap["point"], tap["layer"]): rows(tap) for tap in given["taps"]}


if __name__ == "__main__":
    main()
