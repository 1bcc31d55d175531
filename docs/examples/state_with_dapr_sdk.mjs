// The state API of Dapr's SDK for JavaScript (`npm install @dapr/dapr`), without a sidecar, over HTTP and over gRPC:
// save, get, delete; several writers and one value; who creates it.
// Start a cluster with `kvnode up`, then run `node state_with_dapr_sdk.mjs`.
import assert from "node:assert/strict";
import dapr from "@dapr/dapr";

const { CommunicationProtocolEnum, DaprClient, StateConcurrencyEnum, StateConsistencyEnum } = dapr;
const store = "statestore";
const [writers, rounds] = [3, 4];
const lastWrite = { consistency: StateConsistencyEnum.CONSISTENCY_STRONG };
const firstWrite = { ...lastWrite, concurrency: StateConcurrencyEnum.CONCURRENCY_FIRST_WRITE };

// Over HTTP `save` does not throw: what went wrong is in what it returns, and the SDK logs it as an error, also a race
// that was lost.  Over gRPC it throws.
async function save(client, item) {
  try {
    const { error } = (await client.state.save(store, [item])) ?? {};
    return error;
  } catch (error) {
    return error;
  }
}

// `get` drops the ETag; `getBulk` has it.
async function read(client, key) {
  const [item] = await client.state.getBulk(store, [key], { parallelism: 1, metadata: { consistency: "strong" } });
  return item;
}

async function saveGetDelete(client, name) {
  const key = `order-${name}`;
  assert.equal(await save(client, { key, value: { item: "tea" }, options: lastWrite }), undefined);
  console.log(`${name}: ${key} is`, await client.state.get(store, key, { consistency: lastWrite.consistency }));
  await client.state.delete(store, key, { ...lastWrite });
  const gone = await client.state.get(store, key, { consistency: lastWrite.consistency });
  console.log(`${name}: after the delete it is`, JSON.stringify(gone));
  assert.ok(!gone);
}

// Add one to a counter that others change too: write only over what was read, and read again if that is gone.
async function addOne(client, key) {
  for (;;) {
    const { data, etag } = await read(client, key);
    const error = await save(client, { key, value: Number(data ?? 0) + 1, etag, options: firstWrite });
    if (!error) return;
    if (!/etag mismatch/.test(String(error))) throw error;
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
  }
}

async function severalWriters(client, name) {
  const key = `likes-${name}`;
  await client.state.delete(store, key, { ...lastWrite });
  const writer = async () => {
    for (let round = 0; round < rounds; round++) await addOne(client, key);
  };
  await Promise.all(Array.from({ length: writers }, writer));
  const likes = Number((await read(client, key)).data);
  console.log(`${name}: ${writers} writers added ${rounds} each: likes is ${likes}`);
  assert.equal(likes, writers * rounds);
}

async function whoCreatesIt(client, name) {
  const key = `winner-${name}`;
  await client.state.delete(store, key, { ...lastWrite });
  assert.equal(await save(client, { key, value: "ada", options: firstWrite }), undefined);
  const error = await save(client, { key, value: "bob", options: firstWrite });
  console.log(`${name}: the second to create the key was told:`, String(error));
  assert.match(String(error), /etag mismatch/);
}

const ways = [
  ["HTTP", CommunicationProtocolEnum.HTTP, process.env.DAPR_HTTP_PORT ?? "3500"],
  ["gRPC", CommunicationProtocolEnum.GRPC, process.env.DAPR_GRPC_PORT ?? "50001"],
];
for (const [name, communicationProtocol, daprPort] of ways) {
  const client = new DaprClient({ daprHost: "127.0.0.1", daprPort, communicationProtocol });
  await saveGetDelete(client, name);
  await severalWriters(client, name);
  await whoCreatesIt(client, name);
  await client.stop();
}
