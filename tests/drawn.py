"""Drawn scans and teachers of random weights: what tests compute with on a machine that has no real ones."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from medal.pipeline.datasets.columns.dataset import SPLITS, DatasetOptions
from medal.pipeline.datasets.kinds.phantom import open_phantom
from medal.pipeline.views.preprocessing import IMAGENET_MEAN, IMAGENET_STD

SIZES = {"train": 180, "val": 60, "test": 60}


def draw_chests() -> dict[str, np.ndarray]:
    """Draw 420 scans without and with a mass as `SPLIT_images` (N, 28, 28) uint8 and `SPLIT_labels` (N, 1) uint8."""
    scans = open_phantom(DatasetOptions(exclude_classes=("nodule",)))
    images = np.stack([scans.images.read(row)[4:60:2, 4:60:2, 0] for row in range(len(scans))])  # (N, 28, 28)
    found = {}
    for number, split in enumerate(SPLITS):
        rows = np.flatnonzero(scans.split == number)
        found |= {f"{split}_images": images[rows], f"{split}_labels": scans.label[rows, None].astype(np.uint8)}
    return found


def save_small(path: Path) -> Path:
    """Write the first 300 of them, both classes in every split."""
    chests = draw_chests()
    np.savez(path, **{name: array[: SIZES[name.split("_")[0]]] for name, array in chests.items()})
    return path


def draw_teacher(folder: Path, blocks: int = 6, width: int = 48) -> Path:
    """Make a DINOv2 of random weights that tells images apart: its weights vary more than a new model's do."""
    import torch
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=2,
        image_size=224,
        patch_size=14,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)
    processor = BitImageProcessor(
        size={"shortest_edge": 256}, crop_size=224, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD
    )
    processor.save_pretrained(folder)
    return folder


def save_pictures(folder: Path, classes: dict[str, int], splits=("train", "train", "val", "test")) -> Path:
    """Write so many phantom scans a class as folder/SPLIT/CLASS/NUMBER.png, the splits in turn."""
    scans = open_phantom(DatasetOptions())
    for kind, (name, count) in enumerate(classes.items()):
        for number, row in enumerate(np.flatnonzero(scans.label == kind)[:count]):
            target = folder / splits[number % len(splits)] / name / f"{number:03}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scans.images.read(row)[:, :, 0]).save(target)
    return folder


# What two laboratories counted, rare and common cells: class → cells of each.
CELLS = {
    "basophil": (3, 1),
    "eosinophil": (12, 22),
    "lymphocyte": (37, 53),
    "monocyte": (15, 40),
    "neutrophil": (33, 60),
}


def save_cells(folder: Path) -> Path:
    """Write a table of cells of two laboratories without splits, one class too rare: noise, each class its grey."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows = []
    for kind, (name, counts) in enumerate(CELLS.items()):
        for laboratory, count in zip(("cellavision", "tecom"), counts, strict=True):
            for number in range(count):
                file = f"{laboratory}-{name}-{number:03}.png"
                Image.fromarray(random.integers(40 * kind, 40 * kind + 90, (30, 30, 3)).astype(np.uint8)).save(
                    folder / file
                )
                rows.append([file, laboratory, name, number])
    return _write(folder / "labels.csv", ["file", "domain", "label", "number"], rows)


def save_smears(folder: Path) -> Path:
    """Write a table of 144 smears with splits and three columns of 0 and 1, each seen as a bright stripe."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows = []
    for number in range(144):
        image = random.integers(0, 90, (30, 40, 3))
        found = random.random(3) < (0.5, 0.4, 0.3)
        for column in np.flatnonzero(found):
            image[10 * column : 10 * column + 8] += 120
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number:03}.png")
        rows.append([f"{number:03}.png", ("train", "val", "test")[number % 3], *found.astype(int)])
    return _write(folder / "labels.csv", ["file", "split", "Platelets", "RBC_many", "Platelets_several"], rows)


def _write(path: Path, header, rows) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path
