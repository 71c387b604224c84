import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
import loopback
import shards

PLAN = [{"id": "a"}, {"id": "b"}]


class Shards(unittest.TestCase):
    def test_every_shard_is_answered_once_in_the_plans_order(self):
        collected = shards.Collected(PLAN, 3)
        collected.take({"id": "b"})
        with self.assertRaises(RuntimeError):
            collected.whole()
        collected.lose("a", "node died")
        collected.take({"id": "a"})
        self.assertEqual(collected.whole(), [{"id": "a", "lost": ["node died"]}, {"id": "b", "lost": []}])
        for wrong in ("a", "c"):
            with self.assertRaises(ValueError):
                collected.take({"id": wrong})

    def test_a_shard_is_not_begun_for_ever(self):
        collected = shards.Collected(PLAN, 2)
        collected.lose("a", "x")
        with self.assertRaisesRegex(RuntimeError, "lost 2 times, the last time to: y"):
            collected.lose("a", "y")

    def test_ids_are_their_own(self):
        for plan in ([], PLAN + PLAN[:1]):
            with self.assertRaises(ValueError):
                shards.Collected(plan, 1)

    def test_places_are_put_into_words(self):
        argv = ["{file:x}", "-o{out}/y", "{file:z}"]
        self.assertEqual(shards.words(argv, {"x": "/bin/x"}, "/tmp/o"), ["/bin/x", "-o/tmp/o/y", "{file:z}"])

    def test_what_another_node_may_do(self):
        self.assertTrue(shards.is_lost(-9) and shards.is_lost(5) and shards.is_lost(8))
        self.assertFalse(shards.is_lost(0) or shards.is_lost(3) or shards.is_lost(9))


@unittest.skipUnless(sys.byteorder == "little", "addresses as a little-endian kernel prints them")
class Listeners(unittest.TestCase):
    def test_addresses_of_the_kernel(self):
        cases = {
            "0100007F:1F90": ("127.0.0.1", 8080, True),
            "00000000:0016": ("0.0.0.0", 22, False),
            "00000000000000000000000001000000:0050": ("::1", 80, True),
            "00000000000000000000000000000000:0050": ("::", 80, False),
            "0000000000000000FFFF00000100007F:0050": ("::ffff:127.0.0.1", 80, True),
        }
        for text, (host, port, local) in cases.items():
            self.assertEqual(loopback.address_of(text), (host, port))
            self.assertEqual(loopback.is_loopback(host), local)


class Requests(unittest.TestCase):
    def test_other_hosts_and_origins_are_not_ours(self):
        for host in ("localhost", "localhost:8000", "127.0.0.1:1"):
            self.assertTrue(loopback.is_asked({"Host": host}))
            self.assertTrue(loopback.is_asked({"Host": host, "Origin": f"http://{host}"}))
            self.assertFalse(loopback.is_asked({"Host": host, "Origin": "http://evil.example"}))
        for host in ("", "evil.example", "127.0.0.1.evil.example", "localhost:x", "10.0.0.1:8000", "localhost\n"):
            self.assertFalse(loopback.is_asked({"Host": host}), host)


if __name__ == "__main__":
    unittest.main()
