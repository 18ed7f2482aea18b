"""Linear probing, then fine-tuning: a student's head is fitted on its frozen embedding before anything else learns.

A head that knows nothing sends gradients through all weights that destroy what these know; a fitted one does not (Kumar
et al., Fine-tuning can distort pretrained features, ICLR 2022, arXiv:2202.10054).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ...pipeline.datasets.columns.dataset import Task
from ...pipeline.metrics import known, probabilities
from ...pipeline.probe.logistic import Solved, fold_back
from ...pipeline.probe.scale import standardise
from ...pipeline.probe.soft import fit_soft
from ..network.likeness import embedding_of, take_embeddings
from ..targets.load import SplitTargets

__all__ = ["fit_head", "freeze_normalisation", "mix_labels"]

# Inverse penalty in scikit-learn's scale, as of the teacher's probe on soft labels.
_C = 0.01
_MAX_ITER, _TOLERANCE = 1000, 1e-4
# Spread over the classes, so that one without an image is unlikely and not impossible.
_SMOOTHING = 0.01
# Rows that a head is fitted on at most; of those alike the first by key, which is a hash.
_ROWS = 20_000


def fit_head(model: Any, part: SplitTargets, task: Task, alpha: Any, run: Callable[..., Any]) -> bool:
    """Fit a model's linear classifier to the labels and soft targets of train, on the embedding of the plain images.

    Parameters
    ----------
    part : train
    alpha : weight of the soft targets, one number or one a class
    run : puts the plain images of `rows` of train through the model

    Returns
    -------
    Whether it was: a model that does not end in one linear layer is left as it is.
    """
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(head, nn.Linear) or head.bias is None:
        return False
    target, given = mix_labels(part, task, alpha)
    # Those with a label first: they are few where there are many others.
    labelled = np.asarray(known(part.label, task).reshape(len(part), -1).any(1))
    rows = np.flatnonzero(given.any(1))
    rows = np.sort(rows[np.argsort(~labelled[rows], kind="stable")][:_ROWS])
    with embedding_of(model) as heard:
        run(rows=rows)
        matrix = take_embeddings(heard)  # (n, E)
    scale = standardise(matrix)
    fitted = fold_back(_fit(matrix, target[rows], given[rows], task), scale)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(fitted.weight))
        head.bias.copy_(torch.from_numpy(fitted.bias))
    return True


def mix_labels(part: SplitTargets, task: Task, alpha: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return what the loss asks of each row at temperature 1, (N, C) probabilities, and where it asks anything.

    A known label counts 1 - α and the soft target α; where the label is unknown the soft target is all, or nothing if
    α is 0.

    Parameters
    ----------
    alpha : weight of the soft part, one number or one a class
    """
    soft = probabilities(part.teacher, task)
    given = known(part.label, task)  # (N,) or (N, C)
    each = np.broadcast_to(np.asarray(alpha, np.float64), (soft.shape[1],))
    if task == "multiclass":
        code = np.where(given, part.label, 0)
        weight = each[code][:, None]
        label = np.eye(soft.shape[1])[code]
        given = np.broadcast_to(given[:, None], soft.shape)
    else:
        weight, label = each[None], (part.label == 1).astype(np.float64)
    mixed = np.where(given, (1 - weight) * label + weight * soft, soft)
    return mixed, given if not np.any(each) else np.ones_like(given)


def freeze_normalisation(model: nn.Module) -> None:
    """Let batch normalisation use and keep the statistics that it came with, in a model that trains."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _fit(
    matrix: npt.NDArray[np.float32], target: npt.NDArray[np.float64], given: npt.NDArray[np.bool_], task: Task
) -> Solved:
    """Return what acts on standardised embeddings (n, E)."""
    columns = target.shape[1]
    smooth = (1 - _SMOOTHING) * target + _SMOOTHING / (columns if task == "multiclass" else 2)
    parts = [np.arange(columns)] if task == "multiclass" else [np.array([column]) for column in range(columns)]
    weight, bias = np.zeros((columns, matrix.shape[1])), np.zeros(columns)
    for part in parts:
        rows = given[:, part[0]]
        if rows.any():
            solved = fit_soft(matrix[rows], smooth[rows][:, part], C=_C, max_iter=_MAX_ITER, tolerance=_TOLERANCE)
            weight[part], bias[part] = solved.weight, solved.bias
    return Solved(weight, bias)
