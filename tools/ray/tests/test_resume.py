import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
import resume


def event(text, index=0, name="a", **more):
    choice = {"index": index, "text": text}
    value = {"id": name, "created": 1, "system_fingerprint": f"level-{name}", "choices": [choice]} | more
    return b"data: " + json.dumps(value).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def answer(name="a"):
    usage = {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0 if name == "a" else 2}}
    return [event(word, name=name) for word in ("one", " two", " two", " three")] + [event("", name=name, usage=usage), DONE]


def texts(data):
    values = [json.loads(part[6:]) for part in data.split(b"\n\n") if part.startswith(b"data: {")]
    return "".join(value["choices"][0]["text"] for value in values if "choices" in value)


class Resume(unittest.TestCase):
    def test_what_does_not_break_passes_as_it_is_in_whole_events(self):
        stream, whole = resume.Stream(), b": hello\n\n" + b"".join(answer())
        parts = [stream.feed(whole[at : at + 7]) for at in range(0, len(whole), 7)]
        self.assertEqual(b"".join(parts), whole)
        self.assertTrue(all(part.endswith(b"\n\n") for part in parts if part))
        stream.end()

    def test_a_stream_goes_on_with_no_token_twice_and_none_lost(self):
        whole, again = b"".join(answer()), b"".join(answer("b"))
        for first in range(0, len(whole) - len(DONE), 5):
            for second in range(0, len(again), 97):
                stream = resume.Stream()
                got = stream.feed(whole[:first])
                with self.assertRaises(resume.Broken):
                    stream.end()
                stream.begin()
                got += stream.feed(again[:second])
                stream.begin()
                got += stream.feed(again)
                stream.end()
                self.assertEqual(texts(got), "one two two three")
                self.assertEqual(got.count(b"[DONE]"), 1)
                names = {json.loads(part[6:])["id"] for part in got.split(b"\n\n") if part.startswith(b"data: {")}
                self.assertEqual(len(names), 1, "one answer has one name")

    def test_choices_may_come_in_another_order(self):
        stream = resume.Stream()
        got = stream.feed(event("a0") + event("b0", 1) + event("a1"))
        stream.begin()
        got += stream.feed(event("b0", 1, "b") + event("b1", 1, "b") + event("a0", 0, "b") + event("a1", 0, "b") + DONE)
        stream.end()
        self.assertEqual(texts(got), "a0b0a1b1")

    def test_another_answer_is_noticed(self):
        stream = resume.Stream()
        stream.feed(event("one") + event("two"))
        stream.begin()
        stream.feed(event("one", name="b"))
        with self.assertRaises(resume.Differs):
            stream.feed(event("too", name="b"))
        stream.begin()
        with self.assertRaises(resume.Differs):
            stream.feed(event("one", name="b") + DONE)

    def test_errors_of_the_server_are_another_replicas_chance(self):
        failure = lambda code: b'data: {"error": {"code": "%s"}}\n\n' % code.encode()
        with self.assertRaises(resume.Broken):
            resume.Stream().feed(event("one") + failure("shutting_down"))
        stream = resume.Stream()
        self.assertEqual(stream.feed(failure("engine_failed")), failure("engine_failed"))
        stream.end()
        refused = lambda status, body: resume.is_elsewhere(status, body)
        self.assertTrue(refused(503, b'{"error": {"code": "loading"}}'))
        self.assertFalse(refused(503, b'{"error": {"code": "else"}}') or refused(503, b"") or refused(503, b"[]"))
        self.assertFalse(refused(500, b'{"error": {"code": "loading"}}'))

    def test_sampled_answers_get_a_seed_once(self):
        path = "/v1/chat/completions"
        self.assertEqual(json.loads(resume.seeded(path, b' {"a": 1}', 5)), {"a": 1, "seed": 5})
        self.assertEqual(json.loads(resume.seeded(path, b"{}", 5)), {"seed": 5})
        self.assertEqual(json.loads(resume.seeded(path, b'{"seed": null}', 5)), {"seed": 5})
        for kept in (b'{"seed": 0}', b"[1]", b"no", b"", b"[" * 100_000):
            self.assertEqual(resume.seeded(path, kept, 5), kept)
        self.assertEqual(resume.seeded("/v1/embeddings", b"{}", 5), b"{}")


if __name__ == "__main__":
    unittest.main()
