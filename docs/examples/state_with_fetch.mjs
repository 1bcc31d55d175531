// Dapr's state API with JavaScript's own fetch (Node.js 18 or later, or a browser): save, get, delete; several writers
// and one value; who creates it.  Start a cluster with `kvnode up`, then run `node state_with_fetch.mjs`.
import assert from "node:assert/strict";

const state = (process.env.DAPR_HTTP_ENDPOINT ?? "http://127.0.0.1:3500") + "/v1.0/state/statestore";
const [writers, rounds] = [4, 5];

const save = (item) =>
  fetch(state, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify([item]) });
const get = (key) => fetch(`${state}/${encodeURIComponent(key)}?consistency=strong`);
const remove = (key) => fetch(`${state}/${encodeURIComponent(key)}?consistency=strong`, { method: "DELETE" });

async function saveGetDelete() {
  await save({ key: "order-5", value: { item: "tea", cents: 1250 }, options: { consistency: "strong" } });
  const found = await get("order-5");
  console.log("order-5 is", await found.json(), "with the ETag", found.headers.get("etag"));
  await remove("order-5");
  const gone = await get("order-5");
  console.log("after the delete the answer is", gone.status); // 204: there is no such key
  assert.equal(gone.status, 204);
}

// Add one to a counter that others change too: write only over what was read, and read again if that is gone.
async function addOne(key) {
  for (;;) {
    const read = await get(key);
    const isThere = read.status === 200;
    const count = isThere ? await read.json() : 0;
    const etag = isThere ? { etag: read.headers.get("etag") } : {}; // without one, first-write creates
    const written = await save({ key, value: count + 1, options: { concurrency: "first-write" }, ...etag });
    if (written.ok) return;
    if (written.status !== 409) throw new Error(`${written.status}: ${await written.text()}`); // 409: too late
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
  }
}

async function severalWriters() {
  await remove("clicks");
  const writer = async () => {
    for (let round = 0; round < rounds; round++) await addOne("clicks");
  };
  await Promise.all(Array.from({ length: writers }, writer));
  const clicks = await (await get("clicks")).json();
  console.log(`${writers} writers added ${rounds} each: clicks is ${clicks}`);
  assert.equal(clicks, writers * rounds);
}

async function whoCreatesIt() {
  await remove("chair");
  const create = (value) => save({ key: "chair", value, options: { concurrency: "first-write" } });
  const answers = await Promise.all([create("ada"), create("bob")]);
  const statuses = answers.map((answer) => answer.status).sort();
  console.log("of two that created the key at once, one got", statuses[0], "and the other", statuses[1]);
  assert.deepEqual(statuses, [204, 409]);
}

await saveGetDelete();
await severalWriters();
await whoCreatesIt();
