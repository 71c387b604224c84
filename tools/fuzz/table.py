"""Puts the results of a long run of the fuzz targets into docs/reference/assurance.md.

In: a file of JSON lines, one per target. Out: the table between the page's markers; rows of targets that the file lacks
stay as they are. Usage, in the repository's root: `python3 tools/fuzz/table.py fuzz.jsonl "where and when it ran"`.
"""

import json
import sys

PAGE = "docs/reference/assurance.md"
BEGIN, END = "<!-- results: written by tools/fuzz/table.py -->\n", "<!-- end of results -->\n"


def row(line):
    slowest = line.get("corpus_slowest_seconds_without_sanitizer")
    problems = len(line["distinct_crashes"])
    return "| `{}` | {:,} | {:.1f} | {:,} | {} | {} | {} | {} |\n".format(
        line["target"],
        line["executions"],
        line["cpu_minutes"],
        line["edges"],
        line["peak_rss_mb_with_sanitizer"],
        line["slowest_seconds_with_sanitizer"],
        "not measured" if slowest is None else f"{slowest:.2f}",
        (f"{problems}" + (", stopped early" if line["stopped"] else "")) if problems else "none",
    )


def main(path, where):
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    head = (
        "| target | executions | CPU minutes | edges | MB with sanitizer | slowest with sanitizer, s | slowest kept input in a release, s "
        "| distinct failures |\n|---|---|---|---|---|---|---|---|\n"
    )
    with open(PAGE, encoding="utf-8") as file:
        text = file.read()
    before, rest = text.split(BEGIN)
    old, after = rest.split(END)
    rows = {line.split("`")[1]: line for line in old.splitlines(keepends=True) if line.startswith("| `")}
    rows |= {line["target"]: row(line) for line in lines}
    table = f"{where}\n\n{head}" + "".join(rows.values())
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(before + BEGIN + table + END + after)


if __name__ == "__main__":
    main(*sys.argv[1:])
