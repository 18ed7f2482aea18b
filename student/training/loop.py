"""The training loop: the student alone, its pixels, and targets that are already in memory."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...cache.errors import StudentError
from ...cache.progress import Advance
from ...pipeline.metrics import log_loss, measure_grades, score
from ..network.parallel import Ranks
from ..network.speed import Plan
from ..targets.load import Targets
from .checkpoint import Checkpoint, TrainingState
from .drawing import draw_epoch, learning_rate
from .head import fit_head, freeze_normalisation
from .imbalance import balanced_weights, log_priors
from .losses import Answers, Objective, parse_terms, total_loss
from .projection import Projection
from .steps import Given, Recipe, TrainingData, give_plain, give_steps

__all__ = ["Recipe", "TrainingData", "begin", "merit", "predict", "train"]

Rows = npt.NDArray[np.int64]

_EVALUATION_BATCH = 128


def begin(
    model: nn.Module, recipe: Recipe, feature_dim: int | None = None, data: TrainingData | None = None
) -> TrainingState:
    """Put a model, the running average of its weights and its optimiser in place, before the first epoch.

    Parameters
    ----------
    feature_dim : F of the teacher's features; needed where the loss compares with them
    data : what the head is fitted to, where the recipe begins with that; None where a saved state is loaded next

    Raises
    ------
    StudentError
        The loss compares with features, and the model has no embedding that could be.
    """
    settings = recipe.settings
    # torch declares `memory_format` for keywords alone, and takes a device before it all the same.
    model.to(recipe.device, memory_format=recipe.plan.layout)  # type: ignore[call-overload]
    fitted = True
    if settings.gentle and data is not None:
        train_part = data.targets.splits["train"]
        run = partial(predict, model, data, "train", recipe.plan, recipe.device)
        fitted = fit_head(model, train_part, data.targets.task, settings.soft_weight, run)
    averaged = copy.deepcopy(model).requires_grad_(False) if settings.average else None
    projection = None
    if settings.compares_features and feature_dim is not None:
        projection = Projection(model, feature_dim, settings.seed).to(recipe.device)
    learned = [*model.parameters(), *(projection.parameters() if projection is not None else ())]
    decayed = [value for value in learned if value.ndim > 1]
    # Decay pulls biases and normalisation's scales towards zero for no gain.
    others = [value for value in learned if value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    # One fused pass over the parameters: the default loop costs a tenth of a ResNet-18's step on two cores.
    optimiser = torch.optim.AdamW(groups, lr=settings.peak_rate, fused=True)
    return TrainingState(model, averaged, optimiser, projection=projection, head_fitted=fitted)


def train(
    state: TrainingState,
    data: TrainingData,
    recipe: Recipe,
    *,
    checkpoint: Checkpoint,
    report: Callable[[dict[str, float]], None],
    advance: Advance,
    until: int | None = None,
) -> None:
    """Train on from wherever `state` stands to the last epoch, or to `until`, from where it can go on later.

    The weights of the epoch that is best on val are kept, or of the last one where val has too few labels to choose by.
    Everything random is a function of (seed, key, epoch), so that a training that was killed ends with the same bits
    as one that was not; on a GPU, with `fast_kernels`, it does not. After each epoch `report` is given its row of the
    history; after each batch `advance` is given the number of its images.

    Raises
    ------
    StudentError
        The loss is no longer a number.
    """
    devices: list[int] | None = [] if recipe.device == "cpu" else None
    forward = recipe.ranks.wrap(state.model)
    fast = recipe.settings.fast_kernels
    # Unless told so, this context turns cuDNN off.
    kernels = torch.backends.cudnn.flags(enabled=True, benchmark=fast, deterministic=not fast, allow_tf32=fast)
    with torch.random.fork_rng(devices=devices), kernels, checkpoint.kept():
        stop = recipe.epochs if until is None else until
        choosing = data.targets.splits["val"].can_choose(data.targets.task)
        for epoch in range(len(state.history), stop):
            start = time.perf_counter()
            # For dropout and its kind, which are to differ between ranks.
            torch.manual_seed(recipe.settings.seed * 1_000_003 + epoch + (recipe.ranks.rank << 32))
            loss = _train_epoch(state, forward, data, recipe, epoch, advance)
            if not recipe.ranks.leads:
                continue
            row = {"epoch": epoch + 1, "train_loss": loss, **_validate(state, data, recipe)}
            if not state.best_row or not choosing or _better(row, state.best_row):
                kept = (state.averaged or state.model).state_dict()
                state.best = {name: value.detach().cpu().clone() for name, value in kept.items()}
                state.best_row = row
            row["seconds"] = round(time.perf_counter() - start, 3)
            state.seconds += row["seconds"]
            state.history.append(row)
            checkpoint.save(state, now=epoch + 1 == stop)
            report(row)


def _better(row: Mapping[str, float], best: Mapping[str, float]) -> bool:
    """Say whether an epoch beats the best: by its figure on val, where that ties by loss; undefined ones are worst."""
    return merit(row) > merit(best)


def merit(row: Mapping[str, float | None]) -> tuple[float, float]:
    """Return what epochs, seeds and settings are chosen by on val: AUROC or kappa, then loss; undefined is worst."""
    # With --select kappa, and only then, rows have one.
    figure, loss = row.get("val_kappa", row["val_auroc"]), row["val_loss"]
    return (
        -math.inf if figure is None or math.isnan(figure) else figure,
        -math.inf if loss is None or math.isnan(loss) else -loss,
    )


def _train_epoch(
    state: TrainingState,
    forward: Callable[[Tensor], Tensor],
    data: TrainingData,
    recipe: Recipe,
    epoch: int,
    advance: Advance,
) -> float:
    """Take one pass over train, `forward` standing for the model, and return the mean loss."""
    settings, part, ranks = recipe.settings, data.targets.splits["train"], recipe.ranks
    objective = _objective(data.targets, recipe)
    batches = draw_epoch(part, settings, epoch)
    ranks.check(min(len(rows) for rows, _ in batches))
    steps, done = len(batches) * recipe.epochs, len(batches) * epoch
    warmup = min(round(settings.warmup_epochs * len(batches)), steps // 2)
    total = torch.zeros((), device=recipe.device)
    state.model.train()
    if settings.gentle:
        freeze_normalisation(state.model)
    for step, given in enumerate(give_steps(data, recipe, batches, epoch), start=done):
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, warmup, settings.peak_rate)
        with recipe.plan.autocast(recipe.device), ranks.normalising():
            logits = forward(given.images)  # (B, C), or this rank's share of it
        loss = total_loss(_answers(state, logits, given, ranks), objective)
        loss.backward()  # type: ignore[no-untyped-call]
        if state.projection is not None:
            ranks.average(state.projection)
        state.optimiser.step()
        state.optimiser.zero_grad()
        if state.averaged is not None:
            _average(state.averaged, state.model, step, settings.average * steps)
        total += loss.detach() * given.size
        advance(given.size)
    mean = float(total) / len(part)
    if not math.isfinite(mean):
        raise StudentError(
            f"The training loss became {mean} in epoch {epoch + 1}; that epoch was not kept. Give a smaller --lr than "
            f"{settings.peak_rate:g}, or --precision fp32."
        )
    return mean


def _objective(targets: Targets, recipe: Recipe) -> Objective:
    """Return what the settings ask of the student, class frequencies being those of train's known labels."""
    settings, label, classes = recipe.settings, targets.splits["train"].label, len(targets.classes)
    alpha = settings.soft_weight
    weight = balanced_weights(label, targets.task, classes) if settings.class_weight == "balanced" else None
    prior = log_priors(label, classes) if settings.logit_adjustment else None
    return Objective(
        targets.task,
        settings.temperature,
        torch.tensor(alpha, device=recipe.device) if isinstance(alpha, tuple) else alpha,
        parse_terms(settings.loss),
        None if weight is None else torch.from_numpy(weight).to(recipe.device),
        None if prior is None else torch.from_numpy(prior).to(recipe.device),
    )


def _answers(state: TrainingState, logits: Tensor, given: Given, ranks: Ranks) -> Answers:
    """Put the students' answers on a whole batch, those of other ranks too, beside the teacher's on the same views."""
    embedding = feature = None
    if state.projection is not None and given.feature is not None:
        embedding, feature = ranks.whole(state.projection(), given.size), given.feature.float()
    return Answers(ranks.whole(logits.float(), given.size), given.label, given.teacher, embedding, feature)


def _average(averaged: nn.Module, model: nn.Module, step: int, horizon: float) -> None:
    """Move the averaged weights, and normalisation's statistics, a little towards the current ones.

    `horizon` is the number of steps looked back over; early on it is shorter, so that the start is soon forgotten.
    """
    weight = max(1 / max(horizon, 1), 9 / (10 + step))
    with torch.no_grad():
        for old, new in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, weight)
            else:
                old.copy_(new)


def _validate(state: TrainingState, data: TrainingData, recipe: Recipe) -> dict[str, float]:
    targets, part = data.targets, data.targets.splits["val"]
    logits = predict(state.averaged or state.model, data, "val", recipe.plan, recipe.device)
    scores = score(logits, part.label, targets.task, targets.classes)
    loss = log_loss(logits, part.label, targets.task)
    found = {"val_loss": loss, "val_auroc": scores.auroc, "val_accuracy": scores.accuracy}
    if recipe.settings.select == "kappa":
        found["val_kappa"] = measure_grades(logits, part.label)["kappa"]
    return found


def predict(
    model: nn.Module, data: TrainingData, split: str, plan: Plan, device: str, rows: Rows | None = None
) -> npt.NDArray[np.float32]:
    """Return the logits (N, C) float32 of a split's unaugmented images, or of some rows, in their order."""
    rows = np.arange(len(data.targets.splits[split])) if rows is None else rows
    # Fetched once: a copy waits for the device.
    return np.asarray(_answer(model, data, split, plan, device, rows).cpu().numpy())


def _answer(model: nn.Module, data: TrainingData, split: str, plan: Plan, device: str, rows: Rows) -> Tensor:
    edges = [*range(0, len(rows), _EVALUATION_BATCH), len(rows)]
    batches = [rows[start:stop] for start, stop in pairwise(edges)]
    model.eval()
    with torch.inference_mode(), plan.autocast(device):
        return torch.cat([model(images).float() for images in give_plain(data, split, batches, plan, device)])
