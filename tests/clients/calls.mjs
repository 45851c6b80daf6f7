// Twenty calls of OpenAI's own package for Node against a running server:
//   npm install openai && node calls.mjs http://127.0.0.1:8000 picture.png
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const [url, file] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const create = (body) => client.chat.completions.create({ model, ...body });
const long = { stop_token_ids: [], preset: "exact" };
const image = `data:image/png;base64,${readFileSync(file).toString("base64")}`;
const ask = (text, count = 1) => [
  { role: "user", content: [...Array(count).fill({ type: "image_url", image_url: { url: image } }), { type: "text", text }] },
];
const textOf = async (stream) => {
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
  return text;
};
const refused = async (call, status) => {
  await assert.rejects(call, (error) => error instanceof OpenAI.APIError && error.status === status);
};

const model = (await client.models.list()).data[0].id; // 1
assert.equal((await client.models.retrieve(model)).id, model); // 2
const shown = ask("How many objects are there?");
const one = await create({ messages: shown }); // 3
const said = one.choices[0].message.content;
assert.ok(said && one.choices[0].finish_reason === "stop");
assert.ok((await create({ messages: ask("What is different?", 2) })).choices.length); // 4
const turns = [...shown, one.choices[0].message, { role: "user", content: "Is there a red star?" }];
assert.ok((await create({ messages: turns })).choices.length); // 5
assert.ok((await create({ messages: [{ role: "system", content: "Answer briefly." }, ...shown] })).choices.length); // 6
assert.equal(await textOf(await create({ messages: shown, stream: true })), said); // 7
let usage = null;
for await (const chunk of await create({ messages: shown, stream: true, stream_options: { include_usage: true } }))
  usage = chunk.usage ?? usage; // 8
assert.deepEqual(usage, one.usage);
assert.equal(await textOf(await create({ messages: shown, stream: true, diffusing: true })), said); // 9
const sure = await create({ messages: shown, logprobs: true, top_logprobs: 3 }); // 10
assert.equal(sure.choices[0].logprobs.content.map((entry) => entry.token).join(""), said);
const short = await create({ messages: shown, max_tokens: 4, diffusion: long }); // 11
assert.equal(short.choices[0].finish_reason, "length");
assert.equal(short.usage.completion_tokens, 4);
const same = await create({ messages: shown, max_completion_tokens: 4, diffusion: long }); // 12
assert.equal(same.choices[0].message.content, short.choices[0].message.content);
const letter = short.choices[0].message.content.trim().at(-1);
const cut = await create({ messages: shown, max_tokens: 4, stop: [letter], diffusion: long }); // 13
assert.ok(!cut.choices[0].message.content.includes(letter));
const lots = { messages: shown, temperature: 1.5, n: 3, seed: 1, max_tokens: 8, diffusion: long };
assert.deepEqual((await create(lots)).choices, (await create(lots)).choices); // 14, 15
const schema = { type: "object", properties: { count: { type: "integer" } }, required: ["count"] };
const format = { type: "json_schema", json_schema: { name: "found", schema } };
assert.ok("count" in JSON.parse((await create({ messages: shown, response_format: format })).choices[0].message.content)); // 16
await refused(create({ messages: shown, nothing: 1 }), 400); // 17
await refused(client.chat.completions.create({ model: "gpt", messages: shown }), 404); // 18
await refused(create({ messages: shown, max_tokens: 10 ** 6 }), 400); // 19
const leaving = await create({ messages: shown, stream: true, diffusing: true, diffusion: { ...long, gen_length: 512 } });
for await (const chunk of leaving) if (chunk.type) break; // 20: a client that goes
leaving.controller.abort();
console.log("20 calls passed");
