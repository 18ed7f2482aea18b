"""What ranks other than 0 do in a training: follow its orders, and compute their share of every batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from ...cache.errors import StudentError
from ...pipeline.threads import threads_restored
from ..network.images import StudentImages, load_images
from ..network.model import build_model
from ..network.parallel import Ranks
from ..network.speed import Plan
from ..run import folder
from ..settings import StudentSettings
from ..targets.load import Targets
from ..training.checkpoint import Checkpoint, TrainingState
from ..training.loop import Recipe, TrainingData, begin, train

if TYPE_CHECKING:
    from .plan import Asked

__all__ = ["announce", "follow", "load_data"]


def announce(asked: Asked, recipe: Recipe, state: TrainingState, targets: Targets, until: int | None = None) -> None:
    """Let the other ranks, if there are any, take part in a training from where it stands, as `training.train` does."""
    if recipe.ranks.size > 1:
        recipe.ranks.say(_make_order(asked, recipe, state, targets, until))


def _make_order(
    asked: Asked, recipe: Recipe, state: TrainingState, targets: Targets, until: int | None
) -> dict[str, Any]:
    # Only rank 0 has the best weights so far and the averaged ones.
    wanted = ("model.", "projection.", "optimiser.")
    tensors = {name: value for name, value in state.tensors().items() if name.startswith(wanted)}
    return {
        "settings": asdict(recipe.settings),
        "epochs": recipe.epochs,
        "image_size": asked.image_size,
        "until": until,
        "targets_sha256": asked.request["targets_sha256"],
        "held_out": asked.request.get("held_out"),
        # Rank 0 alone asks the baseline.
        "logits": None if targets is asked.targets else targets.splits["train"].logits,
        "plan": recipe.plan.to_dict(),
        "threads": torch.get_num_threads(),
        "tensors": tensors,
        "header": {"history": state.history, "best_row": state.best_row, "seconds": state.seconds},
    }


def follow(ranks: Ranks, ask: Callable[[], Asked]) -> Any:
    """Take part in all trainings of rank 0 until it is finished, and return its result.

    Parameters
    ----------
    ask : opens cache and dataset; only called when something is trained

    Raises
    ------
    StudentError
        This rank finds another cache or other images than rank 0.
    """
    whole: Asked | None = None
    part: tuple[Asked, TrainingData] | None = None
    result = None
    with ExitStack() as opened:
        while (order := ranks.hear()) is not None:
            if "result" in order:
                result = order["result"]
                continue
            whole = whole or ask()
            if whole.request["targets_sha256"] != order["targets_sha256"] or whole.image_size != order["image_size"]:
                raise StudentError(
                    f"Rank {ranks.rank} finds a different cache or different images than rank 0 at the same paths; "
                    "give all ranks the same files."
                )
            # Images are decoded once for all that is trained, or for all that is trained without a domain.
            if part is None or part[0].request.get("held_out") != order["held_out"]:
                opened.close()
                part = None  # its images would stay in memory beside the next ones
                asked = whole if order["held_out"] is None else whole.without(order["held_out"])
                part = asked, load_data(asked, opened, ("train",))
            with threads_restored():
                torch.set_num_threads(order["threads"])
                _take_part(ranks, *part, order)
    return result


def load_data(asked: Asked, opened: ExitStack, splits: Sequence[str]) -> TrainingData:
    """Return what a training reads, with the pixels of some splits, which `opened` closes."""
    images = StudentImages(asked.dataset.images, asked.image_size, asked.preprocessing.resize)
    rows = {name: asked.targets.splits[name].row for name in splits}
    settings = asked.settings
    loading = load_images(images, rows, settings.workers, device=asked.device, resident=settings.resident)
    pixels = opened.enter_context(loading)
    return TrainingData(targets=asked.targets, pixels=pixels, mean=asked.spec.mean, std=asked.spec.std)


def _take_part(ranks: Ranks, asked: Asked, data: TrainingData, order: Mapping[str, Any]) -> None:
    recipe = Recipe(
        settings=StudentSettings(**order["settings"]),
        epochs=order["epochs"],
        policy=asked.policy,
        plan=Plan.from_dict(order["plan"]),
        device=asked.device,
        ranks=ranks,
    )
    if order["logits"] is not None:
        train_part = replace(data.targets.splits["train"], logits=order["logits"])
        data = replace(data, targets=replace(data.targets, splits={**data.targets.splits, "train": train_part}))
    # Weights come from rank 0, whatever they are here.
    model = build_model(asked.spec, "random", len(asked.targets.classes), asked.image_size)
    state = replace(begin(model, recipe, asked.targets.feature_dim), averaged=None)
    state.load(order["tensors"], order["header"])
    unused = Checkpoint(folder.work_folder(asked.run) / folder.CHECKPOINT)
    train(state, data, recipe, checkpoint=unused, report=lambda _: None, advance=lambda _: None, until=order["until"])
