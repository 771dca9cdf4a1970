// Adds and takes jobs with BullMQ, and says how many a second: PORT CONNECTIONS BODY_BYTES SECONDS.
import { Queue, Worker } from "bullmq";
import { createRequire } from "node:module";

const [port, connections, bodyBytes, seconds] = process.argv.slice(2).map(Number);
const connection = { host: "127.0.0.1", port, maxRetriesPerRequest: null };
const body = { text: "x".repeat(bodyBytes) };
const kept = { removeOnComplete: true, removeOnFail: true };

/** Runs `round` on each of the connections until the time is over; jobs a second. */
async function measure(round) {
  const queues = Array.from({ length: connections }, () => new Queue("bench", { connection }));
  await Promise.all(queues.map((queue) => queue.waitUntilReady()));
  const began = performance.now();
  let moved = 0;
  await Promise.all(
    queues.map(async (queue) => {
      while (performance.now() - began < seconds * 1000) moved += await round(queue);
    }),
  );
  const rate = moved / ((performance.now() - began) / 1000);
  await Promise.all(queues.map((queue) => queue.close()));
  return rate;
}

const added = await measure(async (queue) => {
  await queue.add("job", body, kept);
  return 1;
});
const bulk = Array.from({ length: 10 }, () => ({ name: "job", data: body, opts: kept }));
const addedBulk = await measure(async (queue) => {
  await queue.addBulk(bulk);
  return 10;
});

/** Jobs a second that workers take, with `concurrency` of them at a time. */
async function take(concurrency) {
  let taken = 0;
  const worker = new Worker("bench", async () => { taken += 1; }, { connection, concurrency, autorun: false });
  await worker.waitUntilReady();
  const began = performance.now();
  void worker.run();
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  const rate = taken / ((performance.now() - began) / 1000);
  await worker.close(true);
  return rate;
}

// Whichever suits it better.
const taken = Math.max(await take(connections), await take(10 * connections));
const { version } = createRequire(import.meta.url)("bullmq/package.json");
console.log(JSON.stringify({ added, added_bulk: addedBulk, taken, versions: `BullMQ ${version}, Node ${process.version}` }));
process.exit(0);
