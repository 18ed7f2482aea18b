"""Made the golden caches of format 1, once. They are kept as they are: what this medal wrote must open for ever.

    python tests/golden/make.py FOLDER

A later format gets golden caches of its own; those of format 1 are never made again.
"""

import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np

from medal.cache.convert import convert
from medal.cache.format import zarr_form
from medal.cache.making.writer import write_cache
from medal.cache.verify import count_repeats

ROWS = {"train": 6, "val": 3, "test": 3}
CLASSES, FEATURE, PROBES = 2, 4, 3


def golden_arrays():
    """Numbers that are exact in float16 and float32, so that any machine makes the same."""
    weight = (np.arange(PROBES * CLASSES * FEATURE).reshape(PROBES, CLASSES, FEATURE) % 7 - 3).astype(np.float32) / 4
    bias = np.arange(PROBES * CLASSES).reshape(PROBES, CLASSES).astype(np.float32) / 8
    arrays = {"probe/weight": weight, "probe/bias": bias}
    for split, count in ROWS.items():
        keys = sorted(blake2b(f"{split} {row}".encode(), digest_size=16).digest() for row in range(count))
        feature = (np.arange(count * FEATURE).reshape(count, 1, FEATURE) % 11 - 5).astype(np.float16) / 2
        fold = (np.arange(count) % 2 if split == "train" else np.full(count, -1)).astype(np.int8)
        logits = np.einsum("nvf,ncf->nvc", feature.astype(np.float32), weight[fold]) + bias[fold][:, None]
        columns = {
            "key": np.frombuffer(b"".join(keys), np.uint8).reshape(count, 16),
            "label": (np.arange(count) % CLASSES).astype(np.int32),
            "logits": logits.astype(np.float32),
            "view": np.zeros((count, 1, 2), np.float32),
            "view_check": np.tile(np.array([0.125, 0.25, 0.5, 0.75], np.float32), (count, 1, 1)),
            "domain": (np.arange(count) % 2).astype(np.int16),
            "group": np.arange(count).astype(np.int32) - 1,
            "fold": fold,
            "feature": feature,
        }
        arrays |= {f"{split}/{name}": column for name, column in columns.items()}
    return arrays


def golden_manifest(arrays):
    figures = {"auroc": 0.75, "accuracy": 0.5, "per_class": {"one": None, "two": 0.75}, "absent": ["one"], "n": 3}
    return {
        "format": 1,
        "medal": "0.1.0",
        "cache_id": "0123456789abcdef" * 2,
        "request": {"task": "multiclass"},
        "dataset": {
            "name": "golden",
            "task": "multiclass",
            "classes": ["no finding", "Pneumonie, möglich"],
            "domains": ["one", "two"],
            "excluded_classes": [],
            "rows": ROWS,
            "repeats": count_repeats({split: arrays[f"{split}/key"] for split in ROWS}),
        },
        "teacher": {"name": "none", "feature": "cls+mean", "feature_dim": FEATURE, "precision_used": "fp32"},
        "preprocessing": {"image_size": 56, "resize": "squash"},
        "views": {"count": 1, "policy": "none", "parameters": ["zoom", "turn"]},
        "probe": {"probes": PROBES, "temperature": 1.5, "metrics": {"val": figures, "test": figures}},
        "features_kept": True,
        "seed": 0,
        "versions": {"numpy": "2.0"},
        "a field of tomorrow": {"kept": [True, None, 1.5, "ja"]},
    }


def main(folder: Path) -> None:
    # Small enough for arrays of several chunks, the last one padded.
    zarr_form._CHUNK_BYTES = 64
    arrays = golden_arrays()
    made = write_cache(folder / "format1.zarr", arrays, golden_manifest(arrays))
    convert(made, folder / "format1.h5")
    sys.stdout.write(f"{made.content_digest}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
