"""Shards of a plan: what is asked, and that each is answered once.

A plan is what `cargo xtask cluster` writes: files with their digests, shards with a command line each. In: a plan, answers. Out: the
answers in the plan's order. Needs no Ray (dispatch.py has it). Deliberately absent: what commands mean, and merging what they printed, which is
`cargo xtask`'s.
"""

# A program's exit codes that another node may not have (docs/reference/exit-codes.md): unavailable, limit.
ELSEWHERE = (5, 8)


class Collected:
    """Answers by shard; a second answer for a shard is refused, as is one that nobody asked for."""

    def __init__(self, shards, attempts):
        self.attempts, self.answers = attempts, {}
        self.lost = {shard["id"]: [] for shard in shards}
        if len(self.lost) != len(shards) or not shards:
            raise ValueError("a plan has shards, each with an id of its own")

    def take(self, answer):
        name = answer["id"]
        if name not in self.lost:
            raise ValueError(f"nobody asked for shard {name!r}")
        if name in self.answers:
            raise ValueError(f"shard {name!r} was answered twice")
        self.answers[name] = answer | {"lost": self.lost[name]}

    def lose(self, name, why):
        """The shard is to be done again; raises where it was often enough."""
        self.lost[name].append(why)
        if len(self.lost[name]) >= self.attempts:
            raise RuntimeError(f"shard {name} was lost {len(self.lost[name])} times, the last time to: {why}")

    def whole(self):
        missing = [name for name in self.lost if name not in self.answers]
        if missing:
            raise RuntimeError(f"no answer of shards {', '.join(missing)}")
        return [self.answers[name] for name in self.lost]


def words(argv, files, out):
    """A command line with the places of files and of the folder for what it writes put in."""
    places = {"{out}": out} | {"{file:%s}" % name: path for name, path in files.items()}
    return [_put(word, places) for word in argv]


def _put(word, places):
    for name, path in places.items():
        word = word.replace(name, path)
    return word


def is_lost(code):
    """Whether another node may do what this one could not: a signal ended it, or it lacked something."""
    return code < 0 or code in ELSEWHERE
