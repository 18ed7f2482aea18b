"""What the tests of stores share: small sealed caches that need no teacher's time, and members with a home each."""

import os
from pathlib import Path

import numpy as np

from medal.cache.format.digest import cache_id
from medal.cache.making.writer import write_cache
from medal.cache.reader import Cache
from medal.cache.verify import count_repeats
from medal.pipeline.planning.rows import order_columns

ROWS = {"train": 40, "val": 10, "test": 10}
FEATURES = 6


def quiet(_what, _total, _done=0):
    """A progress that shows nothing."""
    import contextlib

    return contextlib.nullcontext(lambda _count: None)


def draw_columns(random, count: int, rounding: float, weight) -> dict[str, np.ndarray]:
    """Draw the columns of a split, its rows in their order; `weight` (C, F) is the probe's."""
    key = random.integers(0, 256, (count, 16)).astype(np.uint8)
    label = (np.arange(count) % 2).astype(np.int32)
    order = np.lexsort(order_columns(key, label))
    key, label = key[order], label[order]
    feature = (random.normal(size=(count, 1, FEATURES)) + rounding).astype(np.float16)
    logits = (feature.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.float32)
    return {
        "key": key,
        "label": label,
        "logits": logits,
        "feature": feature,
        "view": np.zeros((count, 1, 2), np.float32),
        "view_check": np.zeros((count, 1, 4), np.float32),
        "domain": np.full(count, -1, np.int16),
        "group": np.full(count, -1, np.int32),
        "fold": np.full(count, -1, np.int8),
    }


def make_cache(path: Path, seed: int = 0, *, rounding: float = 0.0, rows=None, name: str = "chest") -> Cache:
    """Seal a small cache of random features.

    Parameters
    ----------
    seed : another seed is another request and another content
    rounding : added to the features: the same request with other content, as another chip computes it
    """
    rows = rows or ROWS
    random = np.random.default_rng(seed)
    weight = random.normal(size=(1, 2, FEATURES)).astype(np.float32)
    weight -= weight.mean(1, keepdims=True)
    bias = np.zeros((1, 2), np.float32)
    arrays, keys = {"probe/weight": weight, "probe/bias": bias}, {}
    for split, count in rows.items():
        columns = draw_columns(random, count, rounding, weight[0])
        arrays |= {f"{split}/{field}": column for field, column in columns.items()}
        keys[split] = columns["key"]
    request = {"seed": seed, "rows": {"train": seed}, "teacher": {}, "preprocessing": {}, "precision": "auto"}
    manifest = {
        "format": 1,
        "medal": "0.1.0",
        "cache_id": cache_id(request),
        "request": request,
        "features_kept": True,
        "dataset": {
            "name": name,
            "task": "multiclass",
            "classes": ["normal", "pneumonia"],
            "domains": [],
            "rows": rows,
            "repeats": count_repeats(keys),
            "splits": "given",
            "excluded_classes": [],
            "label_columns": [],
            "limit": None,
            "skipped": {"reasons": {}, "keys": {}},
        },
        "teacher": {
            "name": "dinov2-small",
            "revision": None,
            "weights_sha256": "0" * 64,
            "feature": "cls+mean",
            "feature_dim": FEATURES,
            "precision_used": "fp32",
        },
        "preprocessing": {"image_size": 56},
        "versions": {},
        "views": {"count": 1, "policy": "none", "parameters": ["a", "b"]},
        "probe": {"probes": 1, "metrics": {"test": {"auroc": 0.9, "accuracy": 0.8}}},
    }
    return write_cache(path, arrays, manifest)


def member(folder: Path) -> dict[str, str]:
    """Return the environment of a lab member with a home folder of their own."""
    folder.mkdir(exist_ok=True)
    return {**os.environ, "MEDAL_HOME": str(folder / "medal"), "HOME": str(folder)}


def whole(cache_path: Path):
    """Return the cache at a path if every byte of it is right."""
    from medal.cache.reader import open_cache
    from medal.cache.verify import verify

    cache = open_cache(cache_path)
    assert verify(cache) == []
    return cache
