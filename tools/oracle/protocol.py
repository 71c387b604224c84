"""The engine protocol (tools/schema/src/protocol.rs) from the engine's side, for engines written in Python.

In: a hello and a function that answers one request. Out: one JSON line per line of stdin, until stdin ends. A request
that fails is answered with an error; the process goes on.
"""

import json
import sys

PROTOCOL = 1


def serve(hello, answer):
    print(json.dumps({"protocol": PROTOCOL, **hello}), flush=True)
    for line in sys.stdin:
        try:
            response = answer(json.loads(line))
        except Exception as error:
            response = {"result": "error", "message": f"{type(error).__name__}: {error}"}
        print(json.dumps(response), flush=True)
