#!/usr/bin/env python3
"""Walks a tutorial word for word: runs what it says to run and compares what it says to see.

Blocks of `sh` are run by bash in the checkout; a `text` block that follows holds what they print (stdout and stderr
together). Blocks of `chat` are typed on a pseudo-terminal: `$ ` starts a program, `> ` is a line to type, ^C and ^D are
keys, anything else is what is seen. In expected text `…` stands for any characters and a line of `...` for any lines. `sh background` keeps
running until the end; `sh network` and `sh elsewhere` are skipped and counted, the first unless --network is given.

Usage: ci/tutorial.py [--network] [docs/tutorial/first-ten-minutes.md]
"""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LONGEST = 1800
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])|\r")
ERASED = re.compile(r"[^\n]*\r\x1b\[2K")


def clean(text):
    return ESCAPES.sub("", ERASED.sub("", text))


def blocks(text):
    """(line, words after the fence, body) of every fenced block."""
    found, start, kind, body = [], 0, None, []
    for number, line in enumerate(text.splitlines(), 1):
        if kind is None and line.startswith("```"):
            start, kind, body = number, line[3:].split(), []
        elif kind is not None and line.startswith("```"):
            found.append((start, kind, "\n".join(body)))
            kind = None
        elif kind is not None:
            body.append(line)
    return found


def pattern(expected):
    parts = []
    for line in expected.strip("\n").splitlines():
        if line.strip() == "...":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append(".*?".join(re.escape(piece) for piece in line.rstrip().split("…")) + r"[ \t]*\n")
    return re.compile("".join(parts))


def check(where, expected, seen):
    seen = seen.strip("\n") + "\n" if seen.strip() else ""
    if not pattern(expected).fullmatch(seen):
        sys.exit(f"tutorial: line {where}: expected\n{expected}\n--- but saw\n{seen}")


class Typed:
    """A program on a pseudo-terminal."""

    def __init__(self, command):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ["TERM"] = "xterm"
            os.execvp("bash", ["bash", "-c", "stty cols 100 rows 40; exec " + command])
        self.seen = ""

    def until(self, where, prompt):
        """What is seen before the next prompt, or (None) the end."""
        end = time.monotonic() + LONGEST
        raw = b""
        while time.monotonic() < end:
            ready, _, _ = select.select([self.fd], [], [], 1)
            try:
                more = os.read(self.fd, 65536) if ready else None
            except OSError:
                more = b""
            if more == b"":
                return clean(raw.decode(errors="replace"))
            raw += more or b""
            text = clean(raw.decode(errors="replace"))
            if prompt and text.endswith("> ") and (text == "> " or text.endswith("\n> ")):
                return text[:-2]
        sys.exit(f"tutorial: line {where}: it took too long; seen: {raw!r}")

    def type(self, line):
        keys = line.replace("^C", "\x03").replace("^D", "\x04")
        os.write(self.fd, keys.encode() if keys != line else (line + "\r").encode())

    def end(self):
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


def chat(where, body):
    lines = body.splitlines()
    program = Typed(lines[0].removeprefix("$ "))
    seen, expected, steps = program.until(where, True), [], 0
    for line in lines[1:] + [None]:
        if line is not None and not line.startswith("> "):
            expected.append(line)
            continue
        check(where, "\n".join(expected), seen)
        if line is None:
            break
        typed, expected, steps = line[2:], [], steps + 1
        program.type(typed)
        seen = program.until(where, typed != "^D" and typed != "/quit")
        # The editor shows what is typed.
        seen = seen.split("\n", 1)[1] if "\n" in seen else ""
    code = program.end()
    if code != 0:
        sys.exit(f"tutorial: line {where}: the program ended with {code}")
    return steps


def main():
    network = "--network" in sys.argv
    path = ([arg for arg in sys.argv[1:] if arg != "--network"] or ["docs/tutorial/first-ten-minutes.md"])[0]
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        all_blocks = blocks(file.read())
    ran, typed, compared, skipped, background = 0, 0, 0, 0, []
    try:
        for index, (where, kind, body) in enumerate(all_blocks):
            following = all_blocks[index + 1] if index + 1 < len(all_blocks) else (0, [], "")
            expected = following[2] if following[1] == ["text"] else None
            if kind == ["chat"]:
                typed += chat(where, body)
            elif kind[:1] != ["sh"]:
                continue
            elif "elsewhere" in kind or ("network" in kind and not network):
                skipped += 1
            elif "background" in kind:
                process = subprocess.Popen(
                    ["bash", "-c", "exec " + body], cwd=ROOT, text=True, start_new_session=True,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )
                background.append(process)
                seen = [process.stdout.readline() for _ in (expected or "").strip().splitlines()]
                check(where, expected or "", "".join(seen))
                ran, compared = ran + 1, compared + (expected is not None)
            else:
                print(f"tutorial: line {where}: {body.splitlines()[0]}", file=sys.stderr)
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", body], cwd=ROOT, text=True, timeout=LONGEST,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )
                if done.returncode != 0:
                    sys.exit(f"tutorial: line {where}: exit code {done.returncode}\n{done.stdout}")
                ran += 1
                if expected is not None:
                    check(where, expected, clean(done.stdout))
                    compared += 1
    finally:
        for process in background:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    print(f"tutorial: {ran} blocks ran, {compared} outputs compared, {typed} lines typed, {skipped} blocks skipped")


main()
