"""Does the shards of a plan on the nodes of a Ray cluster, each until it is answered once.

Usage: dispatch.py ADDRESS PLAN.json ANSWERS.json. A shard whose worker or node is lost is done again elsewhere; a program that fails by
itself ends everything, since it would fail again. Lines for people go to stderr. Exits with 1 where a shard has no answer,
with the program's own code where that failed. Deliberately absent: what shards mean.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import loopback
import ray

import node
import shards

TAIL = 4000


@ray.remote(max_retries=0)
def work(shard, files, root, seconds):
    """Runs one shard here; its answer."""
    places = {name: node.place(file) for name, file in files.items()}
    if root and not os.path.isdir(root):
        raise RuntimeError(f"this node has no checkout at {root}")
    with tempfile.TemporaryDirectory(prefix="bitforge-shard-") as out:
        command = shards.words(shard["argv"], places, out)
        environment = os.environ | {name: shards.words([value], places, out)[0] for name, value in shard["env"].items()}
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = node.start(command, cwd=root or out, env=environment, **both)
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        finally:
            process.kill()
        written = {path.name: path.read_text() for path in pathlib.Path(out).glob("receipts/*.json")}
    return {
        "id": shard["id"],
        "node": ray.get_runtime_context().get_node_id()[:12],
        "processor": node.processor(),
        "code": process.returncode,
        "stdout": stdout.decode(errors="replace"),
        "stderr": stderr.decode(errors="replace")[-TAIL:],
        "written": written,
    }


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(plan, local):
    files, deadline = node.offer(plan["files"], local), time.monotonic() + plan["seconds"]
    collected, pending = shards.Collected(plan["shards"], plan["attempts"]), {}

    def submit(shard):
        options = {"num_cpus": shard["cpus"], "scheduling_strategy": "SPREAD"}
        pending[work.options(**options).remote(shard, files, plan["root"], plan["seconds"])] = shard

    for shard in plan["shards"]:
        submit(shard)
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RuntimeError(f"{len(pending)} shards are not done after {plan['seconds']} s")
        shard = pending.pop(ready[0])
        name = shard["id"]
        try:
            answer = ray.get(ready[0])
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            answer, lost = None, (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        if answer:
            lost = f"the program ended with {answer['code']}" if shards.is_lost(answer["code"]) else None
        if lost:
            say(f"shard {name} was lost and is done again: {lost}")
            collected.lose(name, lost)
            submit(shard)
        elif answer["code"] not in shard["accept"]:
            say(f"shard {name} failed on node {answer['node']}:\n{answer['stderr']}")
            raise SystemExit(answer["code"])
        else:
            collected.take(answer)
            say(f"{len(collected.answers)} of {len(plan['shards'])}: shard {name} on node {answer['node']}")
    return collected.whole()


def main():
    address, plan, answers = sys.argv[1:]
    plan = json.loads(pathlib.Path(plan).read_text())
    loopback.connect(address)
    pathlib.Path(answers).write_text(json.dumps({"shards": run(plan, loopback.is_local(address))}))


if __name__ == "__main__":
    main()
