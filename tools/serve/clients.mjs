// The openai package for JavaScript, unmodified, against a running server. Usage: node clients.mjs URL KEY [EMBEDDING-URL]

import assert from "node:assert/strict";
import OpenAI from "openai";
import { VERSION } from "openai/version";

const [url, key, embeddingUrl] = process.argv.slice(2);
const options = { baseURL: `${url}/v1`, maxRetries: 0, timeout: 120_000 };
const client = new OpenAI({ ...options, apiKey: key });
const model = (await client.models.list()).data[0].id;
const same = { model, messages: [{ role: "user", content: "Who made heaven?" }], temperature: 0, max_tokens: 24 };

const whole = await client.chat.completions.create(same);
const text = whole.choices[0].message.content;
assert.ok(text);

let streamed = "";
let usage = null;
for await (const chunk of await client.chat.completions.create({ ...same, stream: true, stream_options: { include_usage: true } })) {
  streamed += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, text);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

const schema = { type: "object", properties: { n: { type: "integer", minimum: 1, maximum: 9 } }, required: ["n"], additionalProperties: false };
const form = { type: "json_schema", json_schema: { name: "number", strict: true, schema } };
const { n } = JSON.parse((await client.chat.completions.create({ ...same, response_format: form })).choices[0].message.content);
assert.ok(n >= 1 && n <= 9);

const controller = new AbortController();
const endless = { ...same, max_tokens: 400, stream: true };
for await (const _ of await client.chat.completions.create(endless, { signal: controller.signal })) {
  controller.abort();
}

await assert.rejects(client.chat.completions.create({ ...same, model: "gpt-4" }), (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
await assert.rejects(client.embeddings.create({ model, input: "x" }), (error) => error.status === 400 && error.code === "unsupported_model");
await assert.rejects(new OpenAI({ ...options, apiKey: "wrong" }).models.list(), OpenAI.AuthenticationError);
if (embeddingUrl) {
  const embedder = new OpenAI({ ...options, baseURL: `${embeddingUrl}/v1`, apiKey: key });
  const name = (await embedder.models.list()).data[0].id;
  const input = ["And God said", "Let there be light"];
  const packed = await embedder.embeddings.create({ model: name, input });
  const plain = await embedder.embeddings.create({ model: name, input, encoding_format: "float" });
  assert.equal(packed.data.length, 2);
  packed.data.forEach(({ embedding }, i) => embedding.forEach((value, j) => assert.ok(Math.abs(value - plain.data[i].embedding[j]) < 1e-7)));
  assert.ok(packed.usage.total_tokens > 0);
  const few = await embedder.embeddings.create({ model: name, input: [1, 20, 34], dimensions: 16 });
  assert.equal(few.data[0].embedding.length, 16);
}

console.log(`openai for JavaScript ${VERSION}: chat, stream, abort, schema, errors${embeddingUrl ? ", embeddings" : ""}`);
