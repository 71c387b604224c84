"""Ray on this machine alone: `loopback.py start --node-ip-address 127.0.0.1 ...` is `ray start` that listens on loopback.

Ray takes 127.0.0.1 for a mistake and puts an address in its place that other machines reach; by that it would let everybody who
reaches the machine run code on it. Here the address stays. The environment (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH) adds a token, since other
users of the machine reach loopback. `strangers` finds what listens elsewhere all the same. Deliberately absent: clusters of
several machines, whose addresses Ray takes as they are.
"""

import os
import pathlib
import re
import socket
import struct
import sys

HOST = "127.0.0.1"
LISTENS = "0A"


def is_local(address):
    return address.rsplit(":", 1)[0] == HOST


def keep():
    """From here on this process takes loopback at its word. Every worker of a local cluster calls it first."""
    from ray._common import tls_utils
    from ray._private import services

    services.resolve_ip_for_localhost = lambda host: host
    # Replicas of Ray Serve tell each other things over gRPC at [::]:0.
    original = tls_utils.add_port_to_grpc_server
    tls_utils.add_port_to_grpc_server = lambda server, address: original(server, address.replace("[::]", HOST))


def connect(address):
    """This process as a driver of the cluster at `address`; workers find the modules beside this one."""
    import ray

    more, environment = {}, {"working_dir": str(pathlib.Path(__file__).parent)}
    if is_local(address):
        keep()
        more["_node_ip_address"] = HOST
        environment["worker_process_setup_hook"] = "loopback.keep"
    environment["excludes"] = ["requirements.txt", "tests", "__pycache__"]
    ray.init(address, log_to_driver=False, logging_level="ERROR", runtime_env=environment, **more)


def members(session):
    """The processes of a session."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # After the name: state, parent, group, session.
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def strangers(pids):
    """Where these processes listen beyond loopback, as "address:port (pid)"."""
    sockets = {}
    for pid in pids:
        try:
            for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(link)
                if target.startswith("socket:["):
                    sockets[target[8:-1]] = pid
        except OSError:
            continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS and fields[9] in sockets:
                host, port = address_of(fields[1])
                if not is_loopback(host):
                    found.append(f"{host}:{port} ({sockets[fields[9]]})")
    return found


def address_of(text):
    """An address and a port of /proc/net/tcp or tcp6: hexadecimal, each four bytes in the machine's order."""
    host, port = text.split(":")
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed), int(port, 16)


def is_loopback(host):
    return host.removeprefix("::ffff:").startswith("127.") or host == "::1"


def is_asked(headers):
    """Whether a request is for this machine: what a page of another site makes a browser send names another host or origin."""
    host, origin = headers.get("Host", ""), headers.get("Origin")
    return re.fullmatch(r"(localhost|127\.0\.0\.1)(:\d+)?", host) is not None and origin in (None, f"http://{host}")


if __name__ == "__main__":
    keep()
    from ray.scripts.scripts import main

    sys.exit(main())
