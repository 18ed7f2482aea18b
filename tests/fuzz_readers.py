"""Fuzzing of the HDF5 reader: bytes of a sound file changed, its SHA-256 made right, each in a process of its own.

    python tests/fuzz_readers.py SEED COUNT FOLDER

Prints one JSON object: how many cases were refused, read back unchanged, or reported by verification, and the cases
that ended otherwise (a crash after the inspection had let the file pass, a traceback). An inspection that crashes or
runs out of its time is a refusal: that is what its process is for.
"""

import json
import os
import resource
import signal
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np

from medal.cache.format import hdf5_trust, inspect_hdf5
from medal.cache.verify import verify_path

GOLDEN = Path(__file__).parent / "golden/format1.h5"
REFUSED, SOUND, REPORTED, TRACEBACK = 10, 11, 12, 13


def mutate(body: bytearray, random: np.random.Generator) -> None:
    """Change a few bytes, words or stretches of the body, half of the time where libhdf5 keeps its structures."""
    interesting = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0xFFFFFFFF, (1 << 64) - 1, 1 << 63, len(body), 1024)
    for _ in range(int(random.integers(1, 5))):
        place = int(random.integers(len(body) - 8))
        kind = random.integers(4)
        if kind == 0:
            body[place] ^= int(random.integers(1, 256))
        elif kind == 1:
            width = int(random.choice([1, 2, 4, 8]))
            value = int(interesting[random.integers(len(interesting))]) & ((1 << 8 * width) - 1)
            body[place : place + width] = value.to_bytes(width, "little")
        elif kind == 2:
            other, length = int(random.integers(len(body) - 64)), int(random.integers(1, 64))
            body[place : place + length] = body[other : other + length]
        else:
            del body[place : place + int(random.integers(1, 64))]


def in_child(what) -> int:
    """Run a function in a fork; return its result, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = TRACEBACK
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            status = what()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def inspection(path: Path) -> int:
    try:
        inspect_hdf5.inspect(str(path))
    except Exception:  # noqa: BLE001 - whatever libhdf5 raises is a refusal, as in the script's own main
        return REFUSED
    return SOUND


def reading(path: Path, body: str) -> int:
    # As after an inspection by the real child, which has just passed here.
    hdf5_trust._trusted_here.add(body)
    return REPORTED if verify_path(path) else SOUND


def main(seed: int, count: int, folder: Path) -> None:
    random = np.random.default_rng(seed)
    content = GOLDEN.read_bytes()
    block = json.loads(content[:1024].partition(b"\n")[0])
    path = folder / "case.h5"
    tally = {"refused": 0, "crashed or stopped in the inspection": 0, "reported": 0, "sound": 0}
    found = []
    for case in range(count):
        body = bytearray(content[1024:])
        mutate(body, random)
        digest = sha256(body).hexdigest()
        line = json.dumps({**block, "body_sha256": digest}).encode() + b"\n"
        path.write_bytes(line.ljust(1024, b"\0") + body)
        inspected = in_child(lambda: inspection(path))
        if inspected == REFUSED:
            tally["refused"] += 1
        elif inspected < 0:
            tally["crashed or stopped in the inspection"] += 1
        else:
            read = in_child(lambda body=digest: reading(path, body))
            name = {REPORTED: "reported", SOUND: "sound"}.get(read)
            if name:
                tally[name] += 1
            else:
                kept = folder / f"found-{seed}-{case}.h5"
                kept.write_bytes(path.read_bytes())
                found.append(
                    {"case": case, "ended": signal.Signals(-read).name if read < 0 else read, "file": str(kept)}
                )
    sys.stdout.write(json.dumps({**tally, "found": found}) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
