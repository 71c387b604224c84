"""Answers of many clients at once against those of one at a time, with nothing but Python: for machines without wrk.

Usage: same_answers.py BINARY MODEL [--clients 64] [--rounds 4] [--json FILE] [-- more arguments of `bitnet serve`].
Prints throughput, what was selected, and the receipt; exits with 1 where an answer differs.
"""

import argparse
import concurrent.futures
import json
import pathlib
import sys
import time

from drive import serving
from load_requests import get, requests


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=pathlib.Path)
    own, more = sys.argv[1:], []
    if "--" in own:
        own, more = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    with serving(args.binary, args.model, more) as (url, _):
        asked = list(requests(512))

        def answer(body):
            reply = json.loads(get(f"{url}/v1/completions", body))
            return reply["choices"][0]["text"], reply["usage"]["completion_tokens"]

        def run(bodies, clients):
            start = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                answers = list(pool.map(answer, bodies))
            seconds = time.perf_counter() - start
            return answers, sum(tokens for _, tokens in answers) / seconds

        alone, one = run(asked, 1)
        _, eight = run(asked, 8)
        answers, rate = run(asked * args.rounds, args.clients)
        wrong = sum(text != alone[i % len(asked)][0] for i, (text, _) in enumerate(answers))
        props = json.loads(get(f"{url}/props"))
    result = {
        "answers": len(answers),
        "wrong": wrong,
        "tokens_per_second": {"1": one, "8": eight, str(args.clients): rate},
        "backend": props["backend_line"],
        "kernels": props["selection_line"],
        "receipt": props["receipt"],
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    raise SystemExit(bool(wrong))


main()
