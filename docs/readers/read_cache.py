"""Read a cache in its HDF5 form without medal: check the seal, print the SHA-256 of each split's logits.

python read_cache.py chest.h5
"""

import hashlib
import json
import sys

import h5py

USER_BLOCK = 1024


def open_sealed(path):
    """Return the manifest and the open file, once every byte is known to be the sealed one."""
    with open(path, "rb") as file:
        block = json.loads(file.read(USER_BLOCK).split(b"\n", 1)[0])
        body = hashlib.sha256()
        while piece := file.read(1 << 22):
            body.update(piece)
    if body.hexdigest() != block["body_sha256"]:
        sys.exit(f"'{path}' is not what was sealed: its body has another SHA-256.")
    seal = block["medal_cache"]
    if seal["format"] != 1:
        sys.exit(f"'{path}' has format {seal['format']}; this reader knows format 1.")
    arrays = h5py.File(path, "r")
    manifest = arrays["manifest"][()].tobytes()
    if hashlib.sha256(manifest).hexdigest() != seal["manifest_sha256"]:
        sys.exit(f"'{path}' is not what was sealed: its manifest has another SHA-256.")
    return json.loads(manifest), seal, arrays


def content_digest(declared):
    """Return the SHA-256 over the sorted lines `path dtype shape sha256` of all arrays."""
    lines = sorted(
        f"{path} {entry['dtype']} {','.join(map(str, entry['shape']))} {entry['sha256']}\n"
        for path, entry in declared.items()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def main():
    manifest, seal, arrays = open_sealed(sys.argv[1])
    if content_digest(manifest["arrays"]) != seal["content_digest"]:
        sys.exit("The manifest's arrays do not add up to the sealed content digest.")
    if "key_check" in manifest["dataset"]:
        print(
            "Keys are keyed with a secret (docs/FORMAT.md, Keys): join no images to them without it.", file=sys.stderr
        )
    for split in manifest["dataset"]["rows"]:
        logits = arrays[f"{split}/logits"][()].astype("<f4")  # (N, V, C)
        digest = hashlib.sha256(logits.tobytes()).hexdigest()
        if digest != manifest["arrays"][f"{split}/logits"]["sha256"]:
            sys.exit(f"Array '{split}/logits' does not have its sealed SHA-256.")
        print(split, "x".join(map(str, logits.shape)), digest)
    print("content_digest", seal["content_digest"])


main()
