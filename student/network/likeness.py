"""How unlike train an image is, by the student's embedding of it: Mahalanobis distance to the nearest class.

Lee et al. 2018 (arXiv 1807.03888): each class of train has its mean embedding, all share one covariance, shrunk as
Ledoit and Wolf do. A distance of 1 is that which one in a hundred of val's images is beyond.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = ["Likeness", "embedding_of", "fit_likeness", "read_likeness", "take_embeddings"]

_QUANTILE = 0.99
# Directions that are kept of the covariance; the others count alike, with their mean variance.
_DIRECTIONS = 64

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Likeness:
    """What train's embeddings are like.

    Attributes
    ----------
    means : (K, F) of each class; of labels that do not exclude each other, one of all
    directions : (F, k) principal directions of the embeddings about their means, orthonormal
    variance : (k + 1,) along each of them, and along all others
    threshold : the distance, before it is divided by this, beyond which an image of val is rare
    """

    means: Floats
    directions: Floats
    variance: Floats
    threshold: float = 1.0

    def distances(self, embedding: Floats) -> npt.NDArray[np.float64]:
        """Return the distance of each embedding (N, F) to the nearest class, (N,): beyond 1 it is unlike train."""
        found = np.empty((len(embedding), len(self.means)))
        for number, mean in enumerate(self.means):
            apart = embedding.astype(np.float64) - mean
            along = apart @ self.directions
            rest = np.maximum((apart**2).sum(1) - (along**2).sum(1), 0.0)
            found[:, number] = (along**2 / self.variance[:-1]).sum(1) + rest / self.variance[-1]
        nearest: npt.NDArray[np.float64] = np.sqrt(found.min(1)) / self.threshold
        return nearest

    def tensors(self) -> dict[str, Tensor]:
        """Return it as `read_likeness` reads it."""
        arrays = {"means": self.means, "directions": self.directions, "variance": self.variance}
        found = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()}
        return found | {"threshold": torch.tensor([self.threshold])}


def fit_likeness(train: Floats, label: npt.NDArray[Any], val: Floats) -> Likeness:
    """Fit it to embeddings of train (N, F), and its threshold to those of val.

    Parameters
    ----------
    label : (N,) class, -1 unknown, which counts for the covariance alone; (N, C) of several labels
    """
    from sklearn.covariance import ledoit_wolf

    classes = np.unique(label[label >= 0]) if label.ndim == 1 else np.zeros(0, np.int64)
    means = np.array([train[label == one].mean(0) for one in classes]) if len(classes) else train.mean(0)[None]
    # |x - m|² but for |x|², which is the same for all classes: differences would take memory of rows × classes × width.
    nearest = ((means**2).sum(1) - 2 * train @ means.T).argmin(1)
    own = np.searchsorted(classes, label) if len(classes) else nearest
    own = np.where(label >= 0, own, nearest) if len(classes) else nearest
    covariance, _ = ledoit_wolf(train.astype(np.float64) - means[own])
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 1e-12), vectors[:, ::-1]
    count = min(_DIRECTIONS, len(values) - 1)
    variance = np.append(values[:count], values[count:].mean())
    found = Likeness(means.astype(np.float32), vectors[:, :count].astype(np.float32), variance.astype(np.float32))
    threshold = float(np.quantile(found.distances(val), _QUANTILE))
    return Likeness(found.means, found.directions, found.variance, max(threshold, 1e-12))


def read_likeness(path: Path) -> Likeness | None:
    """Return what a finished run recorded there; None in one of an older medal, or without one embedding."""
    from safetensors.numpy import load_file

    if not path.is_file():
        return None
    found = load_file(path)
    return Likeness(found["means"], found["directions"], found["variance"], float(found["threshold"][0]))


@contextmanager
def embedding_of(model: Any) -> Iterator[list[Tensor] | None]:
    """Collect what enters a timm model's classifier, (B, F) float32 of each batch; None where it has not one."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(classifier, nn.Linear | nn.Conv2d):
        yield None
        return
    heard: list[Tensor] = []

    def listen(_module: nn.Module, given: tuple[Any, ...]) -> None:
        first = given[0].detach()
        heard.append((first.mean((2, 3)) if first.ndim == 4 else first).float().cpu())

    handle = classifier.register_forward_pre_hook(listen)
    try:
        yield heard
    finally:
        handle.remove()


def take_embeddings(heard: list[Tensor] | None) -> Floats:
    """Return what was collected since the last call, (N, F), and forget it; nothing, (0, 0), where nothing can be."""
    if not heard:
        return np.zeros((0, 0), np.float32)
    found: Floats = torch.cat(heard).numpy()
    heard.clear()
    return found
