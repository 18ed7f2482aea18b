"""The command of stage two: train-student."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from ..cache.console import json_option, note, print_json, progress
from ..cache.errors import StudentError
from ..pipeline.datasets.options import dataset_options, take_dataset_options
from .settings import StudentSettings

__all__ = ["train_student"]

_DEFAULT = StudentSettings()


@click.command(short_help="Stage two: train a student from a cache.")
@click.argument("cache")
@click.argument("dataset")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN", help="Folder of the run.")
@click.option("--student", default=_DEFAULT.student, show_default=True, help="Any timm model.")
@click.option(
    "--student-weights", "weights", default=_DEFAULT.weights, show_default=True, metavar="random|pretrained|PATH",
    help="Where the student starts: random, timm's own weights, a folder in timm's form or a .safetensors file.",
)  # fmt: skip
@click.option(
    "--epochs", type=click.IntRange(min=1), default=_DEFAULT.epochs, help="Passes over train (default: by its size)."
)
@click.option(
    "--batch-size", type=click.IntRange(min=2), default=_DEFAULT.batch_size, show_default=True, help="Images a step."
)
@click.option("--lr", default=_DEFAULT.lr, show_default=True, help="Peak learning rate.")
@click.option(
    "--image-size", type=int, default=_DEFAULT.image_size,
    help="Side of the student's input, px (default: 4 × images of up to 64 px, else the model's own).",
)  # fmt: skip
@click.option("--temperature", default=_DEFAULT.temperature, show_default=True, help="T of the soft targets.")
@click.option("--alpha", default=_DEFAULT.alpha, show_default=True, help="Weight of the soft targets, 0 to 1.")
@click.option("--no-distill", is_flag=True, help="Labels alone, as --alpha 0.")
@click.option("--loss", default=_DEFAULT.loss, show_default=True, help="Name of the loss.")
@click.option(
    "--augment", default=_DEFAULT.augment, metavar="POLICY",
    help="What views the student sees: none, small, xray, ultrasound … (default: the cache's, or small).",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["auto", "bf16", "fp32"]), default=_DEFAULT.precision, show_default=True,
    help="auto: whichever a short measurement finds fastest.",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default=_DEFAULT.device, show_default=True,
    help="Where to train.",
)  # fmt: skip
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=_DEFAULT.seed,
    show_default=True,
    help="Seed of weights, order and views.",
)
@click.option(
    "--on-missing", type=click.Choice(["refuse", "drop"]), default=_DEFAULT.on_missing, show_default=True,
    help="What to do about images that the cache lacks.",
)  # fmt: skip
@click.option(
    "--labels", type=click.Choice(["cache", "dataset"]), default=_DEFAULT.labels,
    help="Whose labels count where they disagree (default: refuse).",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a finished run, once the new one is finished.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, how long it would take and how many bytes.")
@json_option
@dataset_options
def train_student(
    cache: str,
    dataset: str,
    *,
    out: Path,
    no_distill: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Train a light CNN on the images of DATASET and the soft targets of CACHE; the teacher is not needed.

    Splits, classes and label columns come from the cache. The same command again resumes what was interrupted.

    \b
    medal train-student chest.zarr medmnist:pneumoniamnist --out runs/chest
    medal train-student scans.h5 labels.csv --out runs/scans --student mobilenetv3_small_100
    """
    options = take_dataset_options(chosen)
    if no_distill:
        chosen["alpha"] = 0.0
    settings = StudentSettings(**chosen)
    from .distill import ask, estimate
    from .distill import train_student as train

    asked = ask(cache, dataset, options, settings, out, overwrite=overwrite)
    for warning in asked.warnings:
        note(f"warning: {warning}")
    if dry_run:
        size, seconds = estimate(asked)
        foreseen = {
            "run": str(out), "action": asked.action, "epochs": asked.epochs, "image_size": asked.image_size,
            "rows": asked.rows, "bytes": size, "seconds": seconds,
        }  # fmt: skip
        if as_json:
            print_json(foreseen)
        else:
            click.echo(
                f"Would {asked.action} '{out}': {asked.epochs} epochs of {asked.rows['train']} images at "
                f"{asked.image_size} px, about {size / 1e6:.1f} MB and {seconds:.0f} s."
            )
        return
    try:
        result = train(asked, progress, note)
    except KeyboardInterrupt as error:
        again = shlex.join(["medal", *sys.argv[1:]])
        raise StudentError(f"Stopped by Ctrl-C; whole epochs are kept. Go on with: {again}") from error
    if as_json:
        print_json(result)
        return
    verb = "Finished" if asked.action == "resume" else "Trained"
    click.echo(f"{verb} '{out}': {result['seconds']:.0f} s, best epoch {result['best_epoch']} of {result['epochs']}.")
    for split in ("val", "test"):
        click.echo(f"  student on {split}: {_figures(result[split])}")
        click.echo(f"  teacher on {split}: {_figures(result['teacher'][split])}")
    click.echo(f'Use it: timm.create_model("local-dir:{out}", pretrained=True)')


def _figures(scores: dict[str, Any] | None) -> str:
    if scores is None:
        return "no rows"
    return ", ".join(
        f"{name} undefined"
        if scores[name] is None
        else f"{name} {scores[name]:.4f} (95 % {scores['ci95'][name][0]:.3f} to {scores['ci95'][name][1]:.3f})"
        for name in ("auroc", "accuracy")
    )
