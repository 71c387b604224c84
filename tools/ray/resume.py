"""A stream of server-sent events that goes on when the replica that sent it is gone.

The same request gives the same answer on every replica, so a broken stream is asked for again and what the client has is left
out: every event of the new stream must equal, choice by choice, the one that was sent in its place; then the new ones follow,
under the identity that the first stream gave the answer. As long as nothing breaks, events pass unread. In: bytes of one stream after the
other. Out: bytes for the client. Needs no Ray. Deliberately absent: asking.
"""

import json

# Failures that say of the server, not of the request: another replica may answer.
ELSEWHERE = ("loading", "shutting_down")
# What names one replica's answer; the fingerprint has the level of its kernels.
IDENTITY = ("id", "created", "system_fingerprint")
DATA, ERROR, DONE = b"data: ", b'data: {"error"', b"data: [DONE]"


class Broken(Exception):
    """The stream cannot go on, another one may."""


class Differs(Exception):
    """The new stream is of another answer; nothing may follow."""


class Stream:
    """What a client was sent of an answer, and what is still to come."""

    def __init__(self):
        self.sent = []  # events as the client has them
        self.done = False
        self.again = None
        self.buffer = b""

    def begin(self):
        """A stream of the answer begins anew, from its first event on."""
        self.again, self.buffer = _Again(self.sent), b""

    def feed(self, data):
        """Takes bytes of the stream; gives those that the client does not have, whole events alone.

        Raises Broken where the server gives up, Differs where it has another answer.
        """
        *events, self.buffer = (self.buffer + data).split(b"\n\n")
        return b"".join(self._event(event) + b"\n\n" for event in events if not self._is_known(event))

    def end(self):
        """The stream ended. Raises Broken where the answer did not."""
        if not self.done:
            raise Broken("the stream ended before the answer")

    def _is_known(self, event):
        if event.startswith(ERROR):
            code = json.loads(event[len(DATA) :])["error"].get("code")
            if code in ELSEWHERE:
                raise Broken(code)
        elif event.startswith(DONE):
            if self.again:
                self.again.check_all_seen()
        else:
            return self.again is not None and event.startswith(DATA) and self.again.has(event)
        self.done = True
        return False

    def _event(self, event):
        if self.again and event.startswith(DATA) and not self.done:
            event = self.again.named(event)
        self.sent.append(event)
        return event


class _Again:
    """A stream beside the events that were sent before it, by the choices they are about."""

    def __init__(self, sent):
        self.sent, self.seen, self.identity = {}, {}, None
        for event in sent:
            if event.startswith(DATA):
                value = json.loads(event[len(DATA) :])
                self.identity = self.identity or _identity(value)
                self.sent.setdefault(_key(value), []).append(_plain(value))

    def has(self, event):
        """Whether the client was sent this event."""
        value = json.loads(event[len(DATA) :])
        key = _key(value)
        place, sent = self.seen.get(key, 0), self.sent.get(key, ())
        self.seen[key] = place + 1
        if place < len(sent) and sent[place] != _plain(value):
            raise Differs(f"event {place} of choices {key} is another one than was sent")
        return place < len(sent)

    def named(self, event):
        """The event under the identity that the client knows."""
        if self.identity is None:
            return event
        value = json.loads(event[len(DATA) :]) | self.identity
        return DATA + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

    def check_all_seen(self):
        for key, sent in self.sent.items():
            if self.seen.get(key, 0) < len(sent):
                raise Differs(f"the answer has {self.seen.get(key, 0)} events of choices {key}, and {len(sent)} were sent")


def _key(value):
    return tuple(choice["index"] for choice in value.get("choices", ()))


def _identity(value):
    return {name: value[name] for name in IDENTITY if name in value}


def _plain(value):
    """What replicas agree on: not the identity, nor how much of a prompt was cached."""
    plain = {name: part for name, part in value.items() if name not in IDENTITY}
    if plain.get("usage"):
        plain["usage"] = {name: part for name, part in plain["usage"].items() if name != "prompt_tokens_details"}
    return plain


def is_elsewhere(status, whole):
    """Whether a whole answer says that another replica should be asked."""
    if status != 503:
        return False
    try:
        return json.loads(whole)["error"]["code"] in ELSEWHERE
    except (ValueError, KeyError, TypeError):
        return False


def seeded(path, body, seed):
    """The body with a seed where it has none, so that a sampled answer is the same everywhere; else as it is."""
    if not path.endswith("/completions"):
        return body
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(asked, dict) or asked.get("seed") is not None:
        return body
    if "seed" in asked:
        return json.dumps(asked | {"seed": seed}).encode()
    text = body.decode().lstrip()[1:]
    return ('{"seed":%d%s%s' % (seed, "," if asked else "", text)).encode()
