#!/usr/bin/env python3
"""Render the templates of fixtures/chat with Python's jinja2, in the environment that transformers sets up.

  chat_goldens.py > fixtures/chat/goldens.json

`rendered` is null where the template refuses the messages; then `refusal` is its message.
"""

import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

FIXTURES = pathlib.Path(__file__).resolve().parent.parent.parent / "fixtures" / "chat"
NOW = 1_732_360_000
CONVERSATIONS = [
    [("user", "Hi")],
    [("system", "Be brief. "), ("user", "Hi <b>\"you\"</b> & co")],
    [("system", "S"), ("user", "Why?\n"), ("assistant", " Because {{ 1 }}.\n"), ("user", "日本 🦙\n\n")],
    [("user", "a"), ("system", "b")],
    [("user", ""), ("assistant", "")],
]


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def strftime_now(format):
    return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(format)


def main():
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    cases = []
    for path in sorted(FIXTURES.glob("*.jinja")):
        template = environment.from_string(path.read_text(encoding="utf-8"))
        for conversation in CONVERSATIONS:
            for prompt in [True, False]:
                messages = [{"role": role, "content": content} for role, content in conversation]
                case = {"template": path.name, "messages": messages, "add_generation_prompt": prompt}
                try:
                    case["rendered"] = template.render(
                        messages=messages,
                        add_generation_prompt=prompt,
                        bos_token="<|begin_of_text|>",
                        eos_token="<|eot_id|>",
                        tools=None,
                        documents=None,
                    )
                except jinja2.exceptions.TemplateError as error:
                    case |= {"rendered": None, "refusal": str(error)}
                cases.append(case)
    document = {"jinja2": jinja2.__version__, "now": NOW, "cases": cases}
    json.dump(document, sys.stdout, ensure_ascii=False, indent=1)
    sys.stdout.write("\n")


main()
