"""The requests that load is made of, and how they are sent."""

import json
import pathlib
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


def get(url, body=None):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body and json.dumps(body).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=600) as reply:
        return reply.read().decode()


def requests(context):
    """Short questions and long ones that begin alike; the long ones are most of a context of 512."""
    words = (ROOT / "fixtures/trained/held-out.txt").read_text().split()
    room = min(context // 4, 300)
    for i in range(48):
        start, length = 211 * i, [6, 20, 60, room][i % 4]
        beginning = " ".join(words[:40]) + " " if i % 3 == 0 and length + 60 < context // 2 else ""
        prompt = beginning + " ".join(words[start : start + length])
        yield {"prompt": prompt, "max_tokens": 16 + i % 17, "temperature": 0, "echo": True}


def short_requests():
    """Short questions with long answers: what is measured is decoding."""
    words = (ROOT / "fixtures/trained/held-out.txt").read_text().split()
    for i in range(16):
        prompt = " ".join(words[307 * i : 307 * i + 5])
        yield {"prompt": prompt, "max_tokens": 64, "temperature": 0, "echo": True, "ignore_eos": True}
