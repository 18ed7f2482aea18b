"""Small image sets in the layouts that people have, of drawn images, and what a reading of one comes to."""

from collections import Counter

import numpy as np
from PIL import Image

from medal.pipeline.datasets import SPLITS, DatasetOptions, open_dataset
from medal.pipeline.planning.plan import arrange
from medal.pipeline.planning.request import CacheSettings

CLASSES = ("benign", "malignant", "normal")
SIDE = 16


def draw(name, index):
    """Return a grey image that no other class and number has."""
    random = np.random.default_rng([sum(name.encode()), index])
    return Image.fromarray(random.integers(0, 256, (SIDE, SIDE), np.uint8))


def save(path, name, index, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(name, index).save(path, **options)


def save_classes(folder, count=10, classes=CLASSES, suffix=".png"):
    """Write folder/CLASS/INDEX.suffix."""
    for name in classes:
        for index in range(count):
            save(folder / name / f"{index:03d}{suffix}", name, index)
    return folder


def save_flat(folder, count=10, classes=CLASSES):
    """Write folder/CLASS_INDEX.png and return rows of name and class."""
    rows = [(f"{name}_{index}", name) for name in classes for index in range(count)]
    for stem, name in rows:
        save(folder / f"{stem}.png", name, int(stem.rpartition("_")[2]))
    return rows


def write_table(path, header, rows, separator=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *(separator.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Read:
    """What stage one makes of a dataset before the teacher is asked."""

    def __init__(self, spec, options=None, settings=None):
        options = options or {}
        asked = DatasetOptions(**options)
        self.arranged = arrange(open_dataset(spec, asked), CacheSettings(**(settings or {})), asked)
        self.dataset, self.rows = self.arranged.dataset, self.arranged.rows

    @property
    def sizes(self):
        return tuple(len(self.rows.get(split, ())) for split in SPLITS)

    @property
    def counts(self):
        """Images of each class, or with each label, over all splits."""
        label = np.concatenate([part.label for part in self.rows.values()])
        names = self.dataset.classes
        ones = [(label == index) if label.ndim == 1 else (label[:, index] == 1) for index in range(len(names))]
        return {name: int(part.sum()) for name, part in zip(names, ones, strict=True)}

    @property
    def patients(self):
        """How many patients there are, how many images each has, and that none stands in two splits."""
        groups = [part.group.tolist() for part in self.rows.values()]
        for one, part in enumerate(groups):
            for other in groups[one + 1 :]:
                assert not set(part) & set(other) - {-1}
        images = Counter(group for part in groups for group in part if group >= 0)
        return len(images), set(images.values())

    @property
    def said(self):
        return "\n".join((*self.arranged.warnings, str(self.dataset.account)))
