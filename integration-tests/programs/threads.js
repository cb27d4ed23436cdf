// Worker threads that share memory, WebAssembly, the thread pool and child processes; leaves
// result.json.
"use strict";
const { Worker } = require("node:worker_threads");
const { promisify } = require("node:util");
const { execFile } = require("node:child_process");
const { pbkdf2 } = require("node:crypto");
const { gzip, gunzip } = require("node:zlib");
const { writeFile } = require("node:fs/promises");

const WORKERS = 4;
const TIMES = 10_000;

function count(shared) {
  return new Promise((resolve, reject) => {
    const source = `
      const { workerData: { shared, times } } = require("node:worker_threads");
      const cells = new Int32Array(shared);
      for (let i = 0; i < times; i++) Atomics.add(cells, 0, 1);
    `;
    const worker = new Worker(source, { eval: true, workerData: { shared, times: TIMES } });
    worker.on("error", reject);
    worker.on("exit", resolve);
  });
}

// (module (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))
const ADD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 127, 127, 1, 127, 3, 2, 1, 0, 7, 7, 1, 3, 97, 100,
  100, 0, 0, 10, 9, 1, 7, 0, 32, 0, 32, 1, 106, 11,
);

async function main() {
  const shared = new SharedArrayBuffer(4);
  await Promise.all(Array.from({ length: WORKERS }, () => count(shared)));
  const { instance } = await WebAssembly.instantiate(ADD);
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 100 });
  memory.grow(10);
  const text = "toolcell ".repeat(10_000);
  const packed = await promisify(gzip)(text);
  const unpacked = await promisify(gunzip)(packed);
  const key = await promisify(pbkdf2)("password", "salt", 1000, 16, "sha256");
  const { stdout } = await promisify(execFile)("/bin/echo", ["child"]);
  await writeFile("result.json", JSON.stringify({
    counted: new Int32Array(shared)[0],
    added: instance.exports.add(40, 2),
    memory: memory.buffer.byteLength,
    zipped: unpacked.toString() === text,
    key: key.toString("hex"),
    child: stdout,
  }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
