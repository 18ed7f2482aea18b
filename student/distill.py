"""Stage two: a sealed cache and a dataset's images become a student, in a run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch

from ..cache.errors import StudentError
from ..cache.reader import Cache, open_cache
from ..pipeline.datasets import open_dataset
from ..pipeline.datasets.dataset import Dataset, DatasetOptions, typical_side
from ..pipeline.datasets.recorded import recorded_options
from ..pipeline.preprocessing import Preprocessing
from ..pipeline.views import Policy, policy_named
from . import run as folder
from .card import write_card
from .checkpoint import Checkpoint, write_tensors
from .figures import figures
from .images import StudentImages, choose_image_size, load_images
from .losses import find_loss
from .model import CONFIG, WEIGHTS, ModelSpec, build_model, describe_model, model_config
from .plots import plot_run
from .policy import choose_policy
from .precision import Plan, choose_plan, threads_restored, wall_rate
from .replay import check_replay
from .run import Predictions
from .settings import StudentSettings, default_epochs
from .targets import Targets, load_targets
from .tracking import tracking
from .trained import calibrate
from .training import Recipe, TrainingData, begin, predict, train

__all__ = ["Asked", "ask", "estimate", "train_student"]

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "safetensors")

Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A training with everything decided that can be without a model."""

    run: Path
    cache: Cache
    dataset: Dataset
    targets: Targets
    settings: StudentSettings
    spec: ModelSpec
    image_size: int
    epochs: int
    policy: Policy
    preprocessing: Preprocessing
    device: str
    request: Mapping[str, Any]
    action: folder.Action
    overwrite: bool
    check_views: bool = False
    track: str | None = None

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each split."""
        return {name: len(part) for name, part in self.targets.splits.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the user should know before the training starts."""
        fit = self.targets.fit
        found = []
        if fit["missing"]:
            found.append(f"{fit['missing']} images of the dataset are not in the cache and are left out")
        if fit["skipped"]:
            found.append(f"{fit['skipped']} images are left out: the cache was made without them, as they were bad")
        if fit["extra"]:
            found.append(f"{fit['extra']} images of the cache are not in the dataset and are left out")
        if fit["moved"]:
            found.append(f"{fit['moved']} images stand in another split here than in the cache, whose splits count")
        if fit["disagree"]:
            found.append(f"{fit['disagree']} labels disagree; those of the {self.settings.labels} count")
        if "test" not in self.targets.splits:
            found.append("there is no test split: the figures are those on val, which also chose the epoch")
        return tuple(found)

    @property
    def images(self) -> int:
        """Images that the training sees, repeats counted."""
        return self.epochs * len(self.targets.splits["train"])


def ask(
    cache_path: str, dataset: str, options: DatasetOptions, settings: StudentSettings, run: Path, *, overwrite: bool
) -> Asked:
    """Open and check everything, and decide what to do about the run folder; nothing is written.

    Raises
    ------
    CacheError, DataError
        The cache or the dataset cannot be used, or they do not fit each other.
    StudentError
        The model, its weights or the run folder cannot be used.
    """
    found = folder.look(run)
    if found.holds != "nothing":
        folder.decide(found, found.working_on or {}, overwrite=overwrite)  # refuse before anything is read
    find_loss(settings.loss)
    spec = describe_model(settings.student, settings.weights)
    device = _pick_device(settings.device)
    cache = open_cache(cache_path)
    options = recorded_options(options, cache.manifest, dataset)
    images = open_dataset(dataset, options, cache.manifest.classes)
    settings = replace(settings, augment=choose_policy(cache, settings))
    policy = policy_named(str(settings.augment))
    targets = load_targets(
        cache, images, spec=dataset, on_missing=settings.on_missing, labels=settings.labels,
        stored=settings.targets == "stored",
    )  # fmt: skip
    train_rows = targets.splits["train"].row
    image_size = choose_image_size(typical_side(images.images, train_rows), spec, settings.image_size)
    epochs = settings.epochs or default_epochs(len(train_rows), image_size, trained=settings.trained)
    request = _request(settings, options, targets, policy, image_size, epochs)
    return Asked(
        run=run,
        cache=cache,
        dataset=images,
        targets=targets,
        settings=settings,
        spec=spec,
        image_size=image_size,
        epochs=epochs,
        policy=policy,
        preprocessing=Preprocessing.from_dict(cache.manifest.preprocessing),
        device=device,
        request=request,
        action=folder.decide(found, request, overwrite=overwrite),
        overwrite=overwrite,
    )


def estimate(asked: Asked) -> tuple[int, float]:
    """Return the bytes of the run's weights and the seconds of its training, from a short measurement."""
    model = _initial_model(asked)
    plan, _ = choose_plan(model, asked.settings.student, asked.image_size, asked.device, asked.settings.precision)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return size, asked.images / wall_rate(model, plan, asked.image_size, asked.device)


def train_student(asked: Asked, progress: Progress, report: Report) -> dict[str, Any]:
    """Carry out a training, or what is left of it, and return its result as the command prints it.

    Parameters
    ----------
    progress : called with a title, a total and what is done; gives a context that yields the function to advance by
    report : given one sentence at a time: what was chosen, how each epoch went
    """
    start = time.perf_counter()
    with folder.working(asked.run, report) as work, threads_restored(), ExitStack() as opened:
        # Another process may have finished or begun this very run since `ask`.
        action = folder.decide(folder.look(asked.run), asked.request, overwrite=asked.overwrite)
        asked = replace(asked, action=action)
        if action == "create":
            folder.clear(work)
        if asked.settings.targets == "stored":
            train_part = asked.targets.splits["train"]
            checked = check_replay(
                asked.dataset.images, train_part, asked.preprocessing, progress, every=asked.check_views
            )
            report(f"{checked} images replay their stored views as the teacher saw them")
        data = _load_data(asked, opened)
        recipe = _recipe(asked, work, report)
        history, best, seconds = _fit(asked, recipe, data, work, progress=progress, report=report)
        metrics = _evaluate(asked, data, work, history)
        metrics |= {"best_epoch": int(best["epoch"]), "epochs": recipe.epochs}
        folder.write_json(work / folder.METRICS, metrics)
        outcome = {
            "seconds": round(time.perf_counter() - start, 3),
            "images_per_second": round(asked.images / seconds, 2),
        }
        description = _description(asked, recipe, work) | outcome
        write_card(work, asked.run.name, description, metrics)
        folder.make_durable(work)
        folder.write_json(work / folder.RUN, description)
        folder.finish(work, asked.run)
    return {"run": str(asked.run), "action": asked.action, **metrics, **outcome}


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pick_device(asked: str) -> str:
    if asked == "cuda" and not torch.cuda.is_available():
        raise StudentError("There is no CUDA device that torch can use; give --device cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def _request(
    settings: StudentSettings, options: DatasetOptions, targets: Targets, policy: Policy, image_size: int, epochs: int
) -> dict[str, Any]:
    """Return what a run's bits depend on as JSON: settings with nothing left open, and digests of what they act on."""
    weights: dict[str, Any] = {"weights": settings.weights}
    if settings.weights not in ("random", "pretrained"):
        place = Path(settings.weights)
        with (place / WEIGHTS if place.is_dir() else place).open("rb") as file:
            # The last name only: a path says where somebody works.
            weights = {"weights": place.resolve().name, "weights_sha256": file_digest(file, "sha256").hexdigest()}
    return {
        "medal": version("medalmighty"),
        **settings.to_dict(),
        **weights,
        "epochs": epochs,
        "image_size": image_size,
        "intensity": options.intensity,
        "window": options.window and list(options.window),
        "policy": policy.to_dict(),
        "targets_sha256": targets.digest(),
    }


def _load_data(asked: Asked, opened: ExitStack) -> TrainingData:
    images = StudentImages(asked.dataset.images, asked.image_size, asked.preprocessing.resize)
    rows = {name: part.row for name, part in asked.targets.splits.items()}
    pixels = opened.enter_context(load_images(images, rows, asked.settings.workers))
    return TrainingData(targets=asked.targets, pixels=pixels, mean=asked.spec.mean, std=asked.spec.std)


def _initial_model(asked: Asked) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.settings.seed)
        return build_model(asked.spec, asked.settings.weights, len(asked.targets.classes), asked.image_size)


def _recipe(asked: Asked, work: Path, report: Report) -> Recipe:
    """Return the recipe; the precision is measured once, and written down before the first step."""
    path = work / folder.PLAN
    if asked.action == "resume":
        written = json.loads(path.read_text(encoding="utf-8"))
        plan = Plan.from_dict(written["plan"])
        # Sums over a batch are split by thread: another number of threads would give other last bits.
        torch.set_num_threads(written["threads"])
        if _environment(asked) not in written["trained_on"]:
            report(
                "warning: this machine or its libraries are others than those that began this run: it goes on, and may "
                "end with other last bits"
            )
            folder.write_json(path, written | {"trained_on": [*written["trained_on"], _environment(asked)]})
    else:
        model = _initial_model(asked)
        settings = asked.settings
        plan, rates = choose_plan(model, settings.student, asked.image_size, asked.device, settings.precision)
        written = {"request": dict(asked.request), "plan": plan.to_dict(), "images_per_second": rates}
        folder.write_json(path, written | {"threads": torch.get_num_threads(), "trained_on": [_environment(asked)]})
        minutes = asked.images / wall_rate(model, plan, asked.image_size, asked.device) / 60
        report(
            f"{settings.student} at {asked.image_size} px, {plan}: {asked.epochs} epochs of "
            f"{asked.rows['train']} images, about {minutes:.1f} minutes (--epochs to change)"
        )
    return Recipe(settings=asked.settings, epochs=asked.epochs, policy=asked.policy, plan=plan, device=asked.device)


def _environment(asked: Asked) -> dict[str, Any]:
    """Return what equal bits depend on beside the request: the kind of device and the libraries."""
    kind = torch.backends.cpu.get_cpu_capability() if asked.device == "cpu" else torch.cuda.get_device_name()
    return {"device": f"{asked.device} ({kind})", "versions": {name: version(name) for name in _LIBRARIES}}


def _fit(
    asked: Asked, recipe: Recipe, data: TrainingData, work: Path, *, progress: Progress, report: Report
) -> tuple[list[dict[str, float]], dict[str, float], float]:
    """Train to the end and write the best weights; return history, its best row and the seconds it took."""
    model = _initial_model(asked)
    state = begin(model, recipe)
    checkpoint = Checkpoint(work / folder.CHECKPOINT)
    if checkpoint.load(state):
        report(f"resuming after epoch {len(state.history)} of {recipe.epochs}")

    def tell(row: Mapping[str, float]) -> None:
        track(row)
        report(
            f"epoch {row['epoch']:.0f}/{recipe.epochs}: loss {row['train_loss']:.4f}, "
            f"val AUROC {row['val_auroc']:.4f}, val accuracy {row['val_accuracy']:.4f}, {row['seconds']:.1f} s"
        )

    done = len(state.history) * len(data.targets.splits["train"])
    tracked = tracking(asked.track, asked.run, asked.request, report)
    with tracked as track, progress("student", asked.images, done) as advance:
        train(state, data, recipe, checkpoint=checkpoint, report=tell, advance=advance)
    size, resize = asked.image_size, asked.preprocessing.resize
    folder.write_json(work / CONFIG, model_config(asked.spec, model, asked.targets.classes, size, resize))
    write_tensors(work / WEIGHTS, state.best, {"format": "pt"})
    folder.write_history(work / folder.HISTORY, state.history)
    return state.history, state.best_row, state.seconds


def _evaluate(asked: Asked, data: TrainingData, work: Path, history: list[dict[str, float]]) -> dict[str, Any]:
    """Score the student as anybody will load it, in float32, and the teacher on the same rows."""
    model = timm.create_model(f"local-dir:{work}", pretrained=True).to(asked.device)
    plain = Plan(precision="fp32", channels_last=False)
    targets = asked.targets
    predictions: dict[str, Predictions] = {}
    student: dict[str, Any] = dict.fromkeys(("val", "test"))
    teacher: dict[str, Any] = dict.fromkeys(("val", "test"))
    for split in ("val", "test"):
        part = targets.splits.get(split)
        if part is None:
            continue
        logits = predict(model, data, split, plain, asked.device)
        predictions[split] = Predictions(part.key, part.label, logits)
        student[split] = figures(logits, split, targets)
        teacher[split] = figures(part.teacher, split, targets)
    folder.write_predictions(work / folder.PREDICTIONS, predictions, targets.classes)
    shown = "test" if "test" in predictions else "val"
    both = {"student": predictions[shown].logits, "teacher": targets.splits[shown].teacher}
    plot_run(
        work,
        history=history,
        logits=both,
        labels=predictions[shown].label,
        task=targets.task,
        classes=targets.classes,
    )
    return {"val": student["val"], "test": student["test"], "teacher": teacher, "baseline": None}


def _description(asked: Asked, recipe: Recipe, work: Path) -> dict[str, Any]:
    """Return run.json: every setting, what it acted on, and what computed it."""
    manifest = asked.cache.manifest
    plan = json.loads((work / folder.PLAN).read_text(encoding="utf-8"))
    return {
        "format": 1,
        "request": dict(asked.request),
        "task": manifest.task,
        "classes": list(manifest.classes),
        "rows": asked.rows,
        "fit": dict(asked.targets.fit),
        "cache": {
            "name": asked.cache.path.name,
            "cache_id": asked.cache.cache_id,
            "content_digest": asked.cache.content_digest,
            "dataset": manifest.dataset.get("name"),
            "teacher": manifest.teacher.get("name"),
        },
        "target": "none" if asked.settings.alpha == 0 else f"{asked.settings.targets} view",
        "resize": asked.preprocessing.resize,
        "calibration": calibrate(folder.read_predictions(work), manifest.task).to_dict(),
        "precision": recipe.plan.to_dict()
        | {"images_per_second": plan["images_per_second"], "threads": torch.get_num_threads()},
        "device": asked.device,
        "trained_on": plan["trained_on"],
        "versions": {name: version(name) for name in _LIBRARIES},
    }
