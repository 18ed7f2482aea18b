// Read a cache in its Zarr form without medal: check the seal, print the SHA-256 of each split's logits.
//
//     npm install zarrita
//     node read_cache.mjs chest.zarr

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { FileSystemStore } from "@zarrita/storage";
import { get, open, root } from "zarrita";

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

function fail(sentence) {
  console.error(sentence);
  process.exit(1);
}

// The SHA-256 over the sorted lines `path dtype shape sha256` of all arrays.
function contentDigest(declared) {
  const lines = Object.entries(declared).map(
    ([path, { dtype, shape, sha256 }]) => `${path} ${dtype} ${shape.join(",")} ${sha256}\n`,
  );
  return sha256(lines.sort().join(""));
}

const path = resolve(process.argv[2]);
const seal = JSON.parse(await readFile(join(path, "seal.json"), "utf8"));
if (seal.format !== 1) fail(`'${path}' has format ${seal.format}; this reader knows format 1.`);
const bytes = await readFile(join(path, "manifest.json"));
if (sha256(bytes) !== seal.manifest_sha256) fail(`'${path}' is not what was sealed: its manifest has another SHA-256.`);
const manifest = JSON.parse(bytes.toString("utf8"));
if (contentDigest(manifest.arrays) !== seal.content_digest) fail("The arrays do not add up to the content digest.");

if ("key_check" in manifest.dataset)
  console.error("Keys are keyed with a secret (docs/FORMAT.md, Keys): join no images to them without it.");

const store = root(new FileSystemStore(path));
for (const split of Object.keys(manifest.dataset.rows)) {
  const array = await open.v3(store.resolve(`${split}/logits`), { kind: "array" });
  const { data, shape } = await get(array); // Float32Array, (N, V, C)
  const digest = sha256(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  if (digest !== manifest.arrays[`${split}/logits`].sha256) fail(`Array '${split}/logits' has another SHA-256.`);
  console.log(split, shape.join("x"), digest);
}
console.log("content_digest", seal.content_digest);
