"""Which replica a request goes to: the one that has the beginning of its conversation in its prefix cache.

In: the path and body of a request, replicas with how much each has under way. Out: replicas, the best first. Needs no Ray
(router.py hands it to Ray Serve). Deliberately absent: sending anything, and any judgement of a body: one that is not
understood goes wherever there is least to do.
"""

import collections
import hashlib
import json

# Characters of a text between two keys, and keys of a text at most.
BLOCK, BLOCKS = 64, 128
# Conversations that begin with a message of one of these roles alone are not yet the same conversation.
COMMON = ("system", "developer")


def keys(path, body):
    """Names of the beginnings of a request, the shortest first: two that share one begin alike up to there."""
    try:
        asked = json.loads(body)
        if path.endswith("/chat/completions"):
            return _of_parts(asked["messages"], _is_common)
        if path.endswith("/completions"):
            return _of_parts(_blocks(_text(asked["prompt"])), lambda part: False)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return []


def _is_common(message):
    return message.get("role") in COMMON


def _of_parts(parts, skip):
    """A key after every part, but for those at the beginning that are skipped."""
    digest, found, begun = hashlib.blake2b(digest_size=16), [], False
    for part in parts[:BLOCKS]:
        digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
        begun = begun or not skip(part)
        if begun:
            found.append(digest.hexdigest())
    return found


def _text(prompt):
    """A prompt, or the first of several, as characters; ids of tokens as their numbers."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompt = prompt[0]
    return prompt if isinstance(prompt, str) else ",".join(str(int(token)) for token in prompt)


def _blocks(text):
    return [text[at : at + BLOCK] for at in range(0, min(len(text), BLOCK * BLOCKS), BLOCK)]


class Prefixes:
    """What was sent where: the keys of requests with the replica that got them, the least recent forgotten first."""

    def __init__(self, slack=4, capacity=65536):
        """A replica is overloaded where it has more than `slack` requests above the one with the fewest."""
        self.slack, self.capacity = slack, capacity
        self.homes = collections.OrderedDict()

    def order(self, names, loads, avoid=()):
        """Every replica of `loads`, the best for a request with the keys `names` first; those to avoid come last."""
        if not loads:
            return []
        trusted = [replica for replica in loads if replica not in avoid] or list(loads)
        fewest = min(loads[replica] for replica in trusted)
        first = names[0] if names else ""
        ordered = sorted(loads, key=lambda replica: (replica not in trusted, loads[replica], _rank(first, replica)))
        for name in reversed(names):
            home = self.homes.get(name)
            if home in trusted and loads[home] <= fewest + self.slack:
                return [home] + [replica for replica in ordered if replica != home]
        return ordered

    def remember(self, names, replica):
        # Single steps, each of which is whole: the front and Serve's router are two threads.
        for name in names:
            self.homes.pop(name, None)
            self.homes[name] = replica
        while len(self.homes) > self.capacity:
            self.homes.popitem(last=False)


def _rank(key, replica):
    """Several routers that know nothing of each other agree on it."""
    return hashlib.blake2b(f"{key} {replica}".encode(), digest_size=8).digest()
