"""How many planted near-duplicates `medal audit` finds, and how much of what it finds is one: copies across splits.

    python benchmarks/audit_recall.py --data chest.npz|FOLDER [--seeds 5-9] [--share 0.01] [--quick]

For each seed, copies of one image in a hundred are put into another split: half of them cropped, made brighter or
darker and saved as JPEG at quality 60, the others one of the three. Ranges stand in `CROP`, `BRIGHTNESS` and `QUALITY`.
Pairs that the audit finds in the set as it is are counted apart (`there_before`): a set has near-duplicates of its own.
The teacher sees the copies alone, all else comes from a cache of the set. Constants of the audit were chosen on seeds 0
to 4; report others. Printed are a table and one line of JSON.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

SHARED = Path(os.environ.get("MEDAL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SPLITS = ("train", "val", "test")
# Share of the side that a crop keeps; distance of the brightness factor from 1; JPEG's quality.
CROP, BRIGHTNESS, QUALITY = (0.85, 0.95), (0.10, 0.20), 60
KINDS = ("all", "crop", "brightness", "jpeg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="an .npz in MedMNIST's layout, or a folder with labels.csv of images")
    parser.add_argument("--seeds", default="5-9")
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--teacher", type=Path, help="default: ../shared/teachers/dinov2-small")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--work", type=Path, help="keep the sets and caches in this folder")
    parser.add_argument("--quick", action="store_true", help="a smoke test of a few seconds, with a tiny teacher")
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition("-")
    with tempfile.TemporaryDirectory() as scratch:
        measure(asked, range(int(first), int(last or first) + 1), asked.work or Path(scratch))


def measure(asked: argparse.Namespace, seeds: range, work: Path) -> None:
    """Audit the set as it is, then with the copies of each seed, and print what was found."""
    work.mkdir(parents=True, exist_ok=True)
    if asked.quick:
        from medal.pipeline.teacher.demo import tiny_teacher

        data, teacher, seeds = draw(120), tiny_teacher(work), seeds[:1]
    else:
        data, teacher = load(asked.data), asked.teacher or SHARED / "teachers/dinov2-small"
    request = ["--teacher", teacher, "--image-size", asked.image_size, "--folds", 0]  # near-duplicates ask no logits
    before = set.union(*audit(data, work / "before", request))
    rows = []
    for seed in seeds:
        planted, original, kinds = plant(data, asked.share, seed)
        found, _ = audit(planted, work / f"seed-{seed}", [*request, "--from", work / "before.zarr"])
        rows.append(score(found, before, original, kinds))
        shown = {name: value for name, value in rows[-1].items() if name != "by_kind"}
        print(f"seed {seed:3}  " + "  ".join(f"{name} {value}" for name, value in shown.items()), flush=True)
    total = {name: sum(row[name] for row in rows) for name in ("planted", "hits", "others", "there_before")}
    by_kind = {kind: [sum(row["by_kind"][kind][at] for row in rows) for at in (0, 1)] for kind in KINDS}
    for kind, (hits, count) in by_kind.items():
        print(f"{kind:12} {hits} of {count}")
    recall = total["hits"] / max(1, total["planted"])
    precision = total["hits"] / max(1, total["hits"] + total["others"])
    print(f"recall {recall:.3f}, precision {precision:.3f}")
    print(json.dumps({"seeds": list(seeds), **total, "recall": recall, "precision": precision, "by_kind": by_kind}))


def load(path: Path) -> dict[str, np.ndarray]:
    """Read a set as arrays by the names of MedMNIST's layout; images of a folder as grey."""
    if path.suffix == ".npz":
        with np.load(path) as stored:
            return dict(stored)
    with (path / "labels.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    classes = sorted({row["label"] for row in table})
    data = {}
    for split in SPLITS:
        part = [row for row in table if row["suggested_split"] == split]
        data[f"{split}_images"] = np.stack([np.asarray(Image.open(path / row["file"]).convert("L")) for row in part])
        data[f"{split}_labels"] = np.array([[classes.index(row["label"])] for row in part], np.uint8)
    return data


def draw(count: int) -> dict[str, np.ndarray]:
    """Draw a set of blurred noise."""
    random, data = np.random.default_rng(0), {}
    for split in SPLITS:
        coarse = random.integers(0, 256, (count, 7, 7), np.uint8)
        data[f"{split}_images"] = np.stack([np.asarray(Image.fromarray(one).resize((28, 28))) for one in coarse])
        data[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    return data


def plant(
    data: dict[str, np.ndarray], share: float, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, str]]:
    """Put changed copies of a share of the images into other splits.

    Returns the set, the original of each copy, and what was done to each copy; images are named SPLIT:ROW.
    """
    random = np.random.default_rng(seed)
    places = [(split, row) for split in SPLITS for row in range(len(data[f"{split}_images"]))]
    content = [data[f"{split}_images"][row].tobytes() for split, row in places]
    once = {text for text, count in Counter(content).items() if count == 1}
    planted = {name: list(array) for name, array in data.items()}
    original, kinds = {}, {}
    drawn = [number for number in random.permutation(len(places)).tolist() if content[number] in once]
    for number in drawn[: max(1, round(share * len(places)))]:
        split, row = places[number]
        target = str(random.choice([other for other in SPLITS if other != split]))
        kind = str(random.choice(KINDS, p=[1 / 2, 1 / 6, 1 / 6, 1 / 6]))
        copy = f"{target}:{len(planted[f'{target}_images'])}"
        planted[f"{target}_images"].append(change(data[f"{split}_images"][row], kind, random))
        planted[f"{target}_labels"].append(data[f"{split}_labels"][row])
        original[copy], kinds[copy] = f"{split}:{row}", kind
    return {name: np.stack(rows) for name, rows in planted.items()}, original, kinds


def change(pixels: np.ndarray, kind: str, random: np.random.Generator) -> np.ndarray:
    """Return a copy (H, W[, 3]) uint8 that was cropped and enlarged again, made brighter or darker, saved as JPEG."""
    image = Image.fromarray(pixels)
    if kind in ("all", "crop"):
        share = random.uniform(*CROP)
        width, height = (share * side for side in image.size)
        left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
        box = (left, top, left + width, top + height)
        image = image.resize(image.size, Image.Resampling.BILINEAR, box=box)
    if kind in ("all", "brightness"):
        factor = 1 + random.choice([-1, 1]) * random.uniform(*BRIGHTNESS)
        image = Image.fromarray(np.clip(np.asarray(image) * factor, 0, 255).round().astype(np.uint8))
    if kind in ("all", "jpeg"):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        image = Image.open(file)
    return np.asarray(image)


def audit(
    data: dict[str, np.ndarray], place: Path, request: list[object]
) -> tuple[set[frozenset[str]], set[frozenset[str]]]:
    """Make a cache of a set and audit it; return the near-duplicates across splits, and those within one."""
    dataset, cache, table = (place.with_suffix(suffix) for suffix in (".npz", ".zarr", ".csv"))
    np.savez(dataset, **data)
    medal("cache-teacher", dataset, cache, *request)
    medal("audit", cache, dataset, "--csv", table, "--overwrite")
    return read_pairs(table, "near-duplicates across splits"), read_pairs(table, "near-duplicates within a split")


def read_pairs(table: Path, check: str) -> set[frozenset[str]]:
    """Read the pairs of a check from an audit's table."""
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["check"] == check]
    return {frozenset({name(row["image"]), name(row["related"])}) for row in rows}


def name(text: str) -> str:
    """Return SPLIT:ROW of how an audit names an image of an .npz."""
    words = text.replace("'", " ").replace(",", " ").split()
    split = next(word.removesuffix("_images") for word in words if word.endswith("_images"))
    return f"{split}:{next(word for word in words if word.isdigit())}"


def score(
    found: set[frozenset[str]], before: set[frozenset[str]], original: dict[str, str], kinds: dict[str, str]
) -> dict:
    """Count planted pairs that were found, and others: those that were in the set before are no mistakes.

    A copy is a near-duplicate of all that its original was found to be one of.
    """
    pairs = {copy: frozenset({copy, source}) for copy, source in original.items()}
    others = found - set(pairs.values())
    there = {pair for pair in others if frozenset(original.get(image, image) for image in pair) in before}
    hit = {copy for copy, pair in pairs.items() if pair in found}
    by_kind = {kind: (sum(kinds[copy] == kind for copy in hit), list(kinds.values()).count(kind)) for kind in KINDS}
    return {
        "planted": len(pairs),
        "hits": len(hit),
        "others": len(others - there),
        "there_before": len(there),
        "by_kind": by_kind,
    }


def medal(*words: object) -> None:
    """Run a command of medal."""
    subprocess.run([sys.executable, "-m", "medal", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
