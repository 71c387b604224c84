"""The nodes of a Ray cluster on this machine, for trying it; or which cluster elsewhere is meant.

Usage: nodes.py up STATE (--local N --cpus C | --address A), nodes.py status STATE, nodes.py down STATE. STATE is a JSON file: the address, the
environment for what talks to the cluster, and the session of each node's processes here. Prints one line of JSON. Exits with 7
where something is amiss. Every node is `ray start --block` in a session of its own, so all of its processes are found and ended.
"""

import argparse
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import loopback

# Seconds for the nodes to be there, and for them to end by themselves.
START, END = 90, 10
AMISS = 7
# A killed node is noticed after three seconds, not after fifteen.
NOTICE = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_timeout_ms": 1000}


class Amiss(Exception):
    pass


def free_port():
    with socket.socket() as one:
        one.bind((loopback.HOST, 0))
        return one.getsockname()[1]


def boot():
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def begun(pid):
    """When a process started, in ticks since boot; None without one."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


def start(folder, environment, cpus, number, more):
    words = ["start", "--node-ip-address", loopback.HOST, "--num-cpus", str(cpus), "--num-gpus", "0"]
    words += ["--object-store-memory", "100000000", "--disable-usage-stats", "--block"]
    with open(folder / f"node-{number}.log", "wb") as log:
        script = pathlib.Path(__file__).with_name("loopback.py")
        command = [sys.executable, str(script), *words, *more]
        both = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        process = subprocess.Popen(command, env=os.environ | environment, cwd=folder, start_new_session=True, **both)
    return {"session": process.pid, "begun": begun(process.pid), "name": f"node {number}"}


def up(state, local, cpus):
    # A short path: sockets of Unix have 107 bytes for theirs.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bitforge-ray-"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": str(folder)}
    environment |= {f"RAY_{name}": str(value) for name, value in NOTICE.items()} | {"RAY_health_check_failure_threshold": "3"}
    address = f"{loopback.HOST}:{free_port()}"
    known = {"address": address, "environment": environment, "folder": str(folder), "boot": boot(), "sessions": []}
    head = ["--head", "--port", address.split(":")[1], "--include-dashboard", "false", "--temp-dir", str(folder / "r")]
    head += ["--ray-client-server-port", str(free_port())]
    try:
        # One after the other: nodes of one machine that start side by side get in each other's way.
        for number in range(local):
            more = ["--address", address] if number else head
            known["sessions"].append(start(folder, environment, cpus, number, more))
            if not number:
                os.environ.update(environment)
                wait_for(known["sessions"][0], folder, lambda: is_open(address))
                loopback.connect(address)
            wait_for(known["sessions"][number], folder, lambda: alive() > number)
        if strange := strangers(known):
            raise Amiss(f"it listened beyond loopback and was ended: {', '.join(strange)}")
    except BaseException:
        end(known)
        raise
    write(state, known)
    return f"{local} nodes at {address}, each with {cpus} CPUs; `cargo xtask cluster down` ends them"


def wait_for(session, folder, come):
    deadline = time.monotonic() + START
    while not come():
        if begun(session["session"]) != session["begun"] or time.monotonic() > deadline:
            log = (folder / f"{session['name'].replace(' ', '-')}.log").read_text(errors="replace")
            raise Amiss(f"{session['name']} did not start: {''.join(log.splitlines(keepends=True)[-12:]).strip()}")
        time.sleep(0.2)


def is_open(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
        return True
    except OSError:
        return False


def alive():
    import ray

    return sum(node["Alive"] for node in ray.nodes())


def remember(state, address):
    loopback.connect(address)
    write(state, {"address": address, "environment": {}, "folder": None, "sessions": []})
    return f"{alive()} nodes at {address}"


def write(state, known):
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text(json.dumps(known))


def running(known):
    """The processes of every session that is still ours: an id may have been given to another since."""
    ours = [s for s in known["sessions"] if known["boot"] == boot() and begun(s["session"]) in (s["begun"], None)]
    return {s["name"]: loopback.members(s["session"]) for s in ours}


def strangers(known):
    return loopback.strangers([pid for pids in running(known).values() for pid in pids])


def status(known):
    # Ray reads it when it is imported.
    os.environ.update(known["environment"])
    import ray

    lines = [f"cluster at {known['address']}"]
    processes = running(known)
    lines += [f"{name}: {len(pids)} processes here" if pids else f"{name}: ended" for name, pids in processes.items()]
    loopback.connect(known["address"])
    nodes = [{"id": n["NodeID"][:12], "alive": n["Alive"], "resources": n["Resources"]} for n in ray.nodes()]
    ray.shutdown()
    lines.append(f"{sum(node['alive'] for node in nodes)} of {len(nodes)} nodes alive")
    strange = strangers(known)
    lines += [f"LISTENS BEYOND LOOPBACK: {one}" for one in strange]
    told = {"text": "\n".join(lines), "address": known["address"], "nodes": nodes, "processes": processes, "open": strange}
    return told, AMISS if strange else 0


def end(known):
    """Asks every node's first process to end the others, and kills what is left."""
    for name, pids in running(known).items():
        for pid in pids:
            session = next(s["session"] for s in known["sessions"] if s["name"] == name)
            if pid == session:
                signalled(pid, signal.SIGTERM)
    deadline = time.monotonic() + END
    while any(running(known).values()):
        if time.monotonic() > deadline:
            for pids in running(known).values():
                for pid in pids:
                    signalled(pid, signal.SIGKILL)
        time.sleep(0.1)
    if known["folder"]:
        shutil.rmtree(known["folder"], ignore_errors=True)


def signalled(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["up", "status", "down"])
    parser.add_argument("state", type=pathlib.Path)
    parser.add_argument("--local", type=int)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--address")
    args = parser.parse_args()
    # Ended in an orderly way, so that no node outlives an `up` that was interrupted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    known = json.loads(args.state.read_text()) if args.state.is_file() else None
    code = 0
    try:
        if args.what == "up":
            if known:
                raise Amiss(f"a cluster at {known['address']} is known; `cargo xtask cluster down` ends or forgets it")
            told = {"text": remember(args.state, args.address) if args.address else up(args.state, args.local, args.cpus)}
        elif known is None:
            told = {"text": "no cluster is known"}
        elif args.what == "status":
            told, code = status(known)
        else:
            end(known)
            args.state.unlink()
            told = {"text": f"the cluster at {known['address']} is {'ended' if known['sessions'] else 'forgotten'}"}
    except Amiss as error:
        told, code = {"text": str(error)}, AMISS
    print(json.dumps(told), flush=True)
    # Ray's threads may linger.
    os._exit(code)


if __name__ == "__main__":
    main()
