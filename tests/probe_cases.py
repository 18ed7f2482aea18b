"""Small problems for a probe, with all that can be odd about one: run by its tests."""

import numpy as np

from medal.pipeline.probe.fit import ProbeSettings, fit_probe, logits


def random_keys(n_rows, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n_rows, 16), dtype=np.uint8)


def random_features(labels, seed=0, width=12, signal=1.0):
    """float16 features that know something of the labels, of uneven means and scales as a teacher's are."""
    generator = np.random.default_rng(seed)
    columns = np.eye(labels.max() + 1)[labels] if labels.ndim == 1 else labels.astype(float)
    directions = np.random.default_rng(99).normal(size=(columns.shape[1], width)) * signal
    scale = np.geomspace(0.2, 5, width)
    return ((generator.normal(size=(len(labels), width)) + columns @ directions) * scale + 2).astype(np.float16)


class Case:
    """A small problem with all that can be odd about one: patients, repeats, unknown labels."""

    def __init__(self, task="multiclass", n_classes=3, seed=0, n_rows=150):
        generator = np.random.default_rng(seed)
        self.task, self.n_classes = task, n_classes
        self.keys = random_keys(n_rows, seed)
        self.keys[10:20] = self.keys[30:40]
        self.groups = np.where(generator.random(n_rows) < 0.5, generator.integers(0, 30, n_rows), -1)
        if task == "multiclass":
            draw = [generator.permutation(np.arange(n) % n_classes).astype(np.int32) for n in (n_rows, 60, 60)]
        else:
            draw = [(generator.random((n, n_classes)) < 0.4).astype(np.uint8) for n in (n_rows, 60, 60)]
        splits = ("train", "val", "test")
        # Copies of an image look alike, whatever their label.
        self.features = {name: random_features(draw[index], seed + index) for index, name in enumerate(splits)}
        self.features["train"][10:20] = self.features["train"][30:40]
        self.labels = dict(zip(splits, draw, strict=True))
        self.labels["train"][3] = -1 if task == "multiclass" else 255

    def fit(self, rows=None, tell=None, val_units=None, **options):
        rows = np.arange(len(self.keys)) if rows is None else rows
        return fit_probe(
            self.features | {"train": self.features["train"][rows]},
            self.labels | {"train": self.labels["train"][rows]},
            keys=self.keys[rows],
            groups=self.groups[rows],
            task=self.task,
            n_classes=self.n_classes,
            settings=ProbeSettings(**{"recipe": "grid", **options}),
            val_units=val_units,
            tell=tell,
        )

    def train_logits(self, probe, rows=None):
        features = self.features["train"] if rows is None else self.features["train"][rows]
        found = [logits(row, probe.weight[k], probe.bias[k]) for row, k in zip(features, probe.fold, strict=True)]
        return np.array(found)


CASES = [("multiclass", 2), ("multiclass", 3), ("multilabel", 3)]
