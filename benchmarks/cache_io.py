"""How long a cache of a million rows takes to write, open, verify and join, beside the same arrays as `.npy` files.

    python benchmarks/cache_io.py [--rows 1000000] [--rounds 7] [--quick]

The rows are those of a multi-label set like ChestMNIST: 14 labels, one stored view, no features. The floor is what
anybody would have to do to trust plain files: `numpy.load` and the SHA-256 of every array. Floor, Zarr and HDF5 take
turns, so that a busy moment hits all three, with their files in the page cache; each ratio is the median over the
rounds of the ratio inside a round. It needs about 1 GB of disk and 0.5 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medal.cache.format.hdf5_trust import inspect_in_child
from medal.cache.join import join
from medal.cache.making.writer import write_cache
from medal.cache.reader import open_cache
from medal.cache.verify import count_repeats, verify

CLASSES, FEATURE, PROBES, PARAMETERS = 14, 4, 6, 8
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
FORMS = {"zarr": "cache.zarr", "hdf5": "cache.h5"}
LIMITS = {"verify_ratio": 3.0, "join_seconds": 1.0, "all_seconds": 3.0, "size_ratio": 1.05}
WRITES = 3  # they are held to no limit, and wait for the disk

Arrays = dict[str, npt.NDArray[Any]]
Times = dict[str, list[tuple[float, float]]]  # what was done → (wall seconds, processor seconds) of each round


def synthetic(rows: int) -> Arrays:
    """Return the arrays of a cache: keys in order, labels of which 5 % are positive, logits of no meaning."""
    draw = np.random.default_rng(0)
    arrays: Arrays = {
        "probe/weight": draw.standard_normal((PROBES, CLASSES, FEATURE), np.float32),
        "probe/bias": draw.standard_normal((PROBES, CLASSES), np.float32),
    }
    for split, share in SHARES.items():
        count = round(rows * share)
        key = draw.integers(0, 256, (count, 16), np.uint8)
        fold = draw.integers(0, PROBES - 1, count) if split == "train" else np.full(count, -1)
        columns = {
            "key": key[np.argsort(key.view("S16")[:, 0], kind="stable")],
            "label": (draw.random((count, CLASSES), np.float32) < 0.05).astype(np.uint8),
            "logits": draw.standard_normal((count, 1, CLASSES), np.float32),
            "view": np.zeros((count, 1, PARAMETERS), np.float32),
            "view_check": draw.random((count, 1, 4), np.float32),
            "domain": np.full(count, -1, np.int16),
            "group": draw.integers(0, max(1, count // 3), count).astype(np.int32),
            "fold": fold.astype(np.int8),
        }
        arrays |= {f"{split}/{name}": column for name, column in columns.items()}
    return arrays


def manifest_of(arrays: Arrays) -> dict[str, Any]:
    """Return the manifest but for its table of arrays."""
    keys = {split: arrays[f"{split}/key"] for split in SHARES}
    return {
        "format": 1,
        "cache_id": "0123456789abcdef" * 2,
        "dataset": {
            "name": "synthetic",
            "task": "multilabel",
            "classes": [f"finding {number}" for number in range(CLASSES)],
            "domains": [],
            "rows": {split: len(key) for split, key in keys.items()},
            "repeats": count_repeats(keys),
        },
        "teacher": {"name": "none", "feature_dim": FEATURE},
        "preprocessing": {},
        "views": {"count": 1, "policy": "none", "parameters": [f"parameter {number}" for number in range(PARAMETERS)]},
        "probe": {"probes": PROBES},
        "features_kept": False,
        "seed": 0,
        "versions": {"numpy": np.__version__},
    }


def shuffled(arrays: Arrays) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Return key, label and split of all rows in an order of their own, as a dataset has them."""
    order = np.random.default_rng(1).permutation(sum(len(arrays[f"{split}/key"]) for split in SHARES))
    key, label = (np.concatenate([arrays[f"{split}/{name}"] for split in SHARES])[order] for name in ("key", "label"))
    split = np.repeat(np.arange(len(SHARES), dtype=np.int8), [len(arrays[f"{name}/key"]) for name in SHARES])
    return key, label, split[order]


def write_plain(folder: Path, arrays: Arrays) -> None:
    """Write one durable `.npy` file for each array, and its SHA-256: what a cache does, without its checks."""
    folder.mkdir()
    digests = {}
    for name, array in arrays.items():
        digests[name] = sha256(array.data).hexdigest()
        with (folder / f"{name.replace('/', '-')}.npy").open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
    (folder / "digests.json").write_text(json.dumps(digests))


def check_plain(folder: Path, names: list[str]) -> None:
    """Load every `.npy` file and compare its SHA-256."""
    digests = json.loads((folder / "digests.json").read_text())
    for name in names:
        array = np.load(folder / f"{name.replace('/', '-')}.npy", allow_pickle=False)
        if sha256(array.data).hexdigest() != digests[name]:
            raise SystemExit(f"'{name}' is damaged.")


def timed(times: Times, name: str, act: Callable[[], Any]) -> Any:
    """Do something and note how long it took."""
    wall, processor = time.perf_counter(), time.process_time()
    done = act()
    times.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - processor))
    return done


def measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Write, then open, verify and join in turns; return the figures."""
    arrays = synthetic(rows)
    manifest, dataset = manifest_of(arrays), shuffled(arrays)
    plain, times = folder / "plain", Times()
    for _ in range(min(WRITES, rounds)):
        shutil.rmtree(plain, ignore_errors=True)
        timed(times, "plain write", lambda: write_plain(plain, arrays))
        for form, name in FORMS.items():
            timed(times, f"{form} write", lambda name=name: write_cache(folder / name, arrays, manifest))
    for _ in range(rounds):
        timed(times, "plain check", lambda: check_plain(plain, list(arrays)))
        for form, name in FORMS.items():
            cache = timed(times, f"{form} open", lambda name=name: open_cache(folder / name))
            problems = timed(times, f"{form} verify", lambda cache=cache: verify(cache))
            joined = timed(times, f"{form} join", lambda cache=cache: join(cache, *dataset))
            if problems or joined.matched != len(dataset[0]) or len(joined.disagree):
                raise SystemExit(f"The {form} cache is not what was written: {problems or joined}")
    timed(times, "hdf5 inspect", lambda: inspect_in_child(folder / FORMS["hdf5"]))
    raw = sum(array.nbytes for array in arrays.values())
    figures: dict[str, Any] = {"rows": rows, "rounds": rounds, "raw_bytes": raw}
    figures["plain"] = {name: seconds(times, f"plain {name}") for name in ("write", "check")}
    for form, name in FORMS.items():
        figures[form] = figures_of(times, form) | {"size_ratio": size(folder / name) / raw}
    figures["hdf5"]["inspect"] = seconds(times, "hdf5 inspect")
    return figures


def figures_of(times: Times, form: str) -> dict[str, Any]:
    """Return the medians of one form, and its ratios to the floor: by the clock, and by processor time."""
    opened, verified, joined = (times[f"{form} {name}"] for name in ("open", "verify", "join"))
    floor = times["plain check"]
    ratios = [
        [(one[clock] + two[clock]) / low[clock] for one, two, low in zip(opened, verified, floor, strict=True)]
        for clock in (0, 1)
    ]
    return {
        **{name: seconds(times, f"{form} {name}") for name in ("write", "open", "verify", "join")},
        "verify_ratio": statistics.median(ratios[0]),
        "verify_cpu_ratio": statistics.median(ratios[1]),
        "join_seconds": statistics.median(wall for wall, _ in joined),
        "all_seconds": statistics.median(
            sum(wall for wall, _ in part) for part in zip(opened, verified, joined, strict=True)
        ),
    }


def seconds(times: Times, name: str) -> dict[str, float]:
    """Return the median seconds by the clock and of processor time."""
    return {clock: statistics.median(both[i] for both in times[name]) for i, clock in enumerate(("wall", "cpu"))}


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def show(figures: Mapping[str, Any]) -> None:
    """Print the table."""
    rows, raw = figures["rows"], figures["raw_bytes"] / 1e6
    print(f"{rows} rows x {CLASSES} labels, {raw:.0f} MB of arrays, {figures['rounds']} rounds in turns, medians")
    print(f"{'':<34} {'wall':>9} {'processor':>10}")
    for form in ("plain", *FORMS):
        for name in ("write", "check", "open", "verify", "join", "inspect"):
            if name in figures[form]:
                wall, processor = figures[form][name].values()
                print(f"{form + ' ' + name:<34} {wall:7.3f} s {processor:8.3f} s")
    for form in FORMS:
        for name, limit in LIMITS.items():
            value = figures[form][name]
            beside = f", {figures[form]['verify_cpu_ratio']:.2f} in processor time" if name == "verify_ratio" else ""
            verdict = "holds" if value <= limit else "DOES NOT HOLD"
            print(f"{form + ' ' + name:<34} {value:7.3f}   (at most {limit}: {verdict}{beside})")


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a smoke test: few rows, two rounds, figures of no worth")
    asked = parser.parse_args()
    rows, rounds = (2000, 2) if asked.quick else (asked.rows, asked.rounds)
    with tempfile.TemporaryDirectory() as folder:
        # What is written here is trusted; that is nothing for the user's own folder to remember.
        os.environ["MEDAL_HOME"] = str(Path(folder, "home"))
        figures = measure(Path(folder), rows, rounds)
    figures["holds"] = {form: {name: figures[form][name] <= limit for name, limit in LIMITS.items()} for form in FORMS}
    show(figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
