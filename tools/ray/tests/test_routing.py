import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
import routing


def chat(*messages):
    body = {"messages": [{"role": role, "content": text} for role, text in messages]}
    return routing.keys("/v1/chat/completions", json.dumps(body).encode())


SYSTEM = ("system", "Be brief.")


class Routing(unittest.TestCase):
    def test_conversations_that_begin_alike_share_keys(self):
        first = chat(SYSTEM, ("user", "a"))
        second = chat(SYSTEM, ("user", "a"), ("assistant", "b"), ("user", "c"))
        self.assertEqual((len(first), second[:1]), (1, first))
        self.assertEqual(len(second), 3)
        self.assertFalse(set(first) & set(chat(SYSTEM, ("user", "x"))), "a system prompt alone is no conversation")
        self.assertEqual(chat(SYSTEM), [])

    def test_texts_share_the_keys_of_whole_blocks(self):
        key = lambda prompt: routing.keys("/v1/completions", json.dumps({"prompt": prompt}).encode())
        text = "x" * 3 * routing.BLOCK
        self.assertEqual(key(text), key(text + "y")[:3])
        self.assertEqual(key([text, "z"]), key(text))
        self.assertEqual(len(key("x" * 10**6)), routing.BLOCKS)
        self.assertTrue(key([1, 2, 3]))

    def test_what_is_not_understood_has_no_keys(self):
        for body in (b"", b"[]", b'{"messages": 1}', b'{"messages": [1]}', b'{"prompt": {}}', b"[" * 100_000, b"\xff"):
            for path in ("/v1/chat/completions", "/v1/completions", "/v1/models"):
                self.assertEqual(routing.keys(path, body), [], (path, body[:20]))

    def test_a_conversation_returns_to_its_replica_unless_that_is_overloaded(self):
        prefixes = routing.Prefixes(slack=2)
        names = chat(("user", "a"))
        prefixes.remember(names, "one")
        longer = chat(("user", "a"), ("assistant", "b"), ("user", "c"))
        self.assertEqual(prefixes.order(longer, {"two": 0, "one": 2}), ["one", "two"])
        self.assertEqual(prefixes.order(longer, {"two": 0, "one": 3}), ["two", "one"])
        self.assertEqual(prefixes.order(longer, {"two": 9, "one": 0}, avoid=["one"]), ["two", "one"])
        self.assertEqual(prefixes.order(longer, {"one": 0}, avoid=["one"]), ["one"], "the only one there is")
        self.assertEqual(prefixes.order(longer, {"two": 0}), ["two"], "its home is gone")
        self.assertEqual(prefixes.order(longer, {}), [])

    def test_new_conversations_go_where_least_is_to_do(self):
        prefixes = routing.Prefixes()
        self.assertEqual(prefixes.order([], {"a": 2, "b": 1, "c": 3}), ["b", "a", "c"])
        first = {prefixes.order(chat(("user", str(n))), {"a": 0, "b": 0})[0] for n in range(20)}
        self.assertEqual(first, {"a", "b"}, "equal loads are shared out")

    def test_the_least_recent_is_forgotten(self):
        prefixes = routing.Prefixes(slack=9, capacity=2)
        for name in ("x", "y", "x", "z"):
            prefixes.remember([name], name)
        self.assertEqual(sorted(prefixes.homes), ["x", "z"])


if __name__ == "__main__":
    unittest.main()
