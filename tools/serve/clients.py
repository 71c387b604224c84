"""The openai package for Python, unmodified, against a running server.

Usage: clients.py URL KEY [EMBEDDING-URL], where the second server has a model for embeddings. Ends with an AssertionError or an exception of the package where something is not as it should be.
"""

import json
import sys

import openai

url, key, *more = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120)
model = client.models.list().data[0].id
question = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Who made heaven?"}]
same = {"model": model, "messages": question, "temperature": 0, "max_completion_tokens": 24}

whole = client.chat.completions.create(**same)
text = whole.choices[0].message.content
assert text and whole.choices[0].finish_reason in ("stop", "length")
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

stream = client.chat.completions.create(**same, stream=True, stream_options={"include_usage": True})
chunks = list(stream)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

two = client.chat.completions.create(**{**same, "temperature": 1}, n=2, seed=5, logprobs=True, top_logprobs=3)
assert [choice.index for choice in two.choices] == [0, 1]
assert all(len(token.top_logprobs) == 3 for token in two.choices[0].logprobs.content)
again = client.chat.completions.create(**{**same, "temperature": 1}, n=2, seed=5)
assert [choice.message.content for choice in again.choices] == [choice.message.content for choice in two.choices]

stop = client.chat.completions.create(**same, stop=[text[3:6]])
assert stop.choices[0].message.content == text[: text.index(text[3:6])] and stop.choices[0].finish_reason == "stop"

schema = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 20}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}
form = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema}}
reply = client.chat.completions.create(**{**same, "max_completion_tokens": 120}, response_format=form)
value = json.loads(reply.choices[0].message.content)
assert set(value) == {"answer", "sure"} and isinstance(value["sure"], bool) and len(value["answer"]) <= 20

completion = client.completions.create(model=model, prompt=["In the", "And the"], max_tokens=4, temperature=0)
assert [choice.index for choice in completion.choices] == [0, 1]


def refused(error, code, call):
    try:
        call()
    except error as caught:
        assert caught.code == code, caught
        return caught
    raise AssertionError(f"{error.__name__} was expected")


bad = {**same, "temperature": -1}
assert refused(openai.BadRequestError, None, lambda: client.chat.completions.create(**bad)).param == "temperature"
missing = {**same, "model": "gpt-4"}
refused(openai.NotFoundError, "model_not_found", lambda: client.chat.completions.create(**missing))
refused(openai.BadRequestError, "unsupported_model", lambda: client.embeddings.create(model=model, input="x"))
wrong = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
refused(openai.AuthenticationError, "invalid_api_key", lambda: wrong.models.list())
long = {**same, "messages": [{"role": "user", "content": "word " * 20000}]}
refused(openai.BadRequestError, "context_length_exceeded", lambda: client.chat.completions.create(**long))
for embedding_url in more:
    embedder = openai.OpenAI(base_url=f"{embedding_url}/v1", api_key=key, max_retries=0, timeout=120)
    name = embedder.models.list().data[0].id
    texts = ["And God said", "Let there be light", "And God said"]
    # Without encoding_format the package asks for base64 and unpacks it.
    packed = embedder.embeddings.create(model=name, input=texts)
    plain = embedder.embeddings.create(model=name, input=texts, encoding_format="float")
    assert [one.index for one in packed.data] == [0, 1, 2] and packed.usage.total_tokens == packed.usage.prompt_tokens > 0
    for one, other in zip(packed.data, plain.data):
        assert all(abs(a - b) < 1e-7 for a, b in zip(one.embedding, other.embedding, strict=True))
        assert abs(sum(value * value for value in one.embedding) - 1) < 1e-5
    assert packed.data[0].embedding == packed.data[2].embedding != packed.data[1].embedding
    few = embedder.embeddings.create(model=name, input=[[1, 20, 34], [5]], dimensions=16)
    assert [len(one.embedding) for one in few.data] == [16, 16]
    refused(openai.BadRequestError, None, lambda: embedder.embeddings.create(model=name, input="x", dimensions=10**6))
print(f"openai for Python {openai.__version__}: chat, stream, choices, logprobs, seed, stop, schema, completions, errors{', embeddings' * bool(more)}")
