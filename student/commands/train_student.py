"""The commands of stage two: train-student, and compare for finished runs."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ...cache.errors import StudentError
from ...cache.store.options import resolve_cache, store_options
from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json, progress
from ...cache.text import plain
from ...pipeline.datasets.options import DATASET_GROUP, dataset_options, take_dataset_options
from ...pipeline.views.policies import POLICIES
from ..settings import StudentSettings
from ..training.tracking import TRACKERS, require_tracker

__all__ = ["train_student"]

_DEFAULT = StudentSettings()
_GROUPS = {
    "Student": "--student --student-weights --image-size --out",
    "Training": "--epochs --batch-size --lr --augment --seed --class-weight --sampler --logit-adjustment "
    "--labelled-share",
    "Soft targets": "--alpha --temperature --loss --also-cache --targets --check-views --no-distill --unlabelled",
    "Measuring": "--seeds --baseline --label-fraction --leave-one-domain-out --at-sensitivity --track",
    "Machine": "--precision --device --workers",
    "Joining CACHE and DATASET": "--on-missing --labels --max-cache-size --signers --revoked",
    **DATASET_GROUP,
}


# What has a meaning for the soft targets alone.
_SOFT = dict.fromkeys(("temperature", "loss"), "leaves the soft targets out")


class _Alpha(click.ParamType[float | str]):
    name = "number|auto|per-class"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        try:
            return value if value in ("auto", "per-class") else float(value)
        except ValueError:
            self.fail(f"'{value}' is neither a number from 0 to 1 nor auto nor per-class.", param, ctx)


@click.command(cls=Command, groups=_GROUPS, short_help="Stage two: train a student from a cache.")
@click.argument("cache")
@click.argument("dataset")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN", help="Folder of the run.")
@click.option("--student", default=_DEFAULT.student, help="Any timm model.")
@click.option(
    "--student-weights",
    "weights",
    default=_DEFAULT.weights,
    metavar="random|pretrained|PATH",
    help="Where the student starts: random, timm's own weights, a folder in timm's form or a .safetensors file.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=_DEFAULT.epochs,
    help="Passes over train (default: by its size; --dry-run says how many).",
)
@click.option("--batch-size", type=click.IntRange(min=2), default=_DEFAULT.batch_size, help="Images a step.")
@click.option("--lr", default=_DEFAULT.lr, help="Peak learning rate.")
@click.option(
    "--image-size",
    type=int,
    default=_DEFAULT.image_size,
    help="Side of the student's input, px (default: 4 × images of up to 64 px, else the model's own).",
)
@click.option("--temperature", default=_DEFAULT.temperature, help="T of the soft targets.")
@click.option(
    "--alpha",
    type=_Alpha(),
    default=_DEFAULT.alpha,
    help="Weight of the soft targets, 0 to 1; auto: it and T are chosen on val, for at most the cost of a second "
    "student; per-class: what the teacher recognises of each class, out of fold.",
)
@click.option("--no-distill", is_flag=True, help="Labels alone, as --alpha 0.")
@click.option(
    "--loss",
    default=_DEFAULT.loss,
    metavar="NAME[+WEIGHT*NAME…]",
    help="What of the teacher is matched: kd, dkd, dist, mse, feature, or a weighted sum such as kd+0.5*feature.",
)
@click.option(
    "--also-cache",
    "also",
    multiple=True,
    metavar="CACHE[=WEIGHT]",
    help="Average the soft targets with those of another teacher's cache of the same images; may be repeated "
    "(weight: 1, as CACHE's own).",
)
@click.option(
    "--unlabelled",
    nargs=2,
    multiple=True,
    metavar="CACHE DATASET",
    help="Add images without labels to train, which learn from the teacher alone: a cache of the same teacher, as "
    "cache-teacher --unlabelled makes it, and its images; may be repeated.",
)
@click.option(
    "--label-fraction",
    type=float,
    default=_DEFAULT.label_fraction,
    metavar="SHARE",
    help="Forget all but this share of train's labels, by class and patient, and fit the probe anew on these alone.",
)
@click.option(
    "--labelled-share",
    type=float,
    default=_DEFAULT.labelled_share,
    metavar="SHARE",
    help="Give at least this share of every batch to labelled images, repeated where train has fewer.",
)
@click.option(
    "--leave-one-domain-out",
    is_flag=True,
    help="Once for each domain: train, choose and fit the probe without it, and measure on all of its images.",
)
@click.option(
    "--class-weight",
    type=click.Choice(["none", "balanced"]),
    default=_DEFAULT.class_weight,
    help="balanced: the hard loss weighs classes by the inverse of their frequency.",
)
@click.option(
    "--sampler",
    type=click.Choice(["shuffle", "balanced"]),
    default=_DEFAULT.sampler,
    help="balanced: every class equally often in an epoch.",
)
@click.option("--logit-adjustment", is_flag=True, help="Add log class frequencies to the logits of the hard loss.")
@click.option(
    "--targets",
    type=click.Choice(["canonical", "stored"]),
    default=_DEFAULT.targets,
    help="canonical: the student's own views, with the teacher's answer on the plain image; stored: the cache's views, "
    "replayed, each with the answer on that very view.",
)
@click.option(
    "--check-views", is_flag=True, help="With --targets stored, check the replay of all images, not of a sample."
)
@click.option(
    "--augment",
    type=click.Choice(list(POLICIES)),
    default=_DEFAULT.augment,
    help="What views the student sees, by modality (default: what the cache allows, or small).",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "bf16", "fp32"]),
    default=_DEFAULT.precision,
    help="auto: whichever a short measurement finds fastest.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default=_DEFAULT.device, help="Where to train.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=_DEFAULT.workers,
    help="Processes that decode images in every epoch, 0 = none but this one (default: decode once, if they fit).",
)
@click.option("--seed", type=click.IntRange(min=0), default=_DEFAULT.seed, help="Seed of weights, order and views.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=_DEFAULT.seeds,
    metavar="K",
    help="Students to train, with the seeds SEED, SEED+1 …; more can be added to a finished run.",
)
@click.option(
    "--baseline",
    is_flag=True,
    help="As many students of the labels alone, alike in all else, to compare with; can be added to a finished run.",
)
@click.option(
    "--at-sensitivity",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=_DEFAULT.at_sensitivity,
    help="Report the specificity at this sensitivity, too, read off the ROC curve of the images that are measured.",
)
@click.option(
    "--on-missing",
    type=click.Choice(["refuse", "drop"]),
    default=_DEFAULT.on_missing,
    help="What to do about images that the cache lacks.",
)
@click.option(
    "--labels",
    type=click.Choice(["cache", "dataset"]),
    default=_DEFAULT.labels,
    help="Whose labels count where they disagree (default: refuse).",
)
@click.option(
    "--track",
    type=click.Choice(TRACKERS),
    default=None,
    help="Send each epoch's figures to a tracker too; tensorboard's files go to 'tracking' beside RUN.",
)
@click.option("--overwrite", is_flag=True, help="Replace a finished run, once the new one is finished.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, how long it would take and how many bytes.")
@store_options
@json_option
@dataset_options
def train_student(
    cache: str,
    dataset: str,
    *,
    out: Path,
    no_distill: bool,
    check_views: bool,
    also: tuple[str, ...],
    unlabelled: tuple[tuple[str, str], ...],
    track: str | None,
    overwrite: bool,
    max_cache_size: str,
    signers: Path | None,
    revoked: Path | None,
    dry_run: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Train a light CNN on the images of DATASET and the soft targets of CACHE; the teacher is not needed.

    Splits, classes and label columns come from the cache. The same command again resumes what was interrupted; a
    finished run is refused without --overwrite, but for --baseline or more --seeds, which add to it. CACHE may be
    STORE#NAME-OR-ID: a verified copy of it is used.

    \b
    medal train-student chest.zarr medmnist:pneumoniamnist --out runs/chest
    medal train-student scans.h5 labels.csv --out runs/scans --student mobilenetv3_small_100
    medal train-student chest.zarr medmnist:pneumoniamnist --out runs/three --seeds 3 --baseline
    medal train-student scans.zarr labels.csv --out runs/unseen --leave-one-domain-out --baseline
    """
    options = take_dataset_options(chosen)
    if not out.name:
        raise StudentError(f"'{out}' has no name of its own; give --out a folder such as runs/first.")
    if no_distill:
        _refuse_beside("--no-distill", {"alpha": "is --alpha 0", **_SOFT})
        chosen["alpha"] = 0.0
    elif chosen["alpha"] == "auto":
        _refuse_beside("--alpha auto", {"temperature": "chooses T as well"})
    settings = StudentSettings(**chosen)
    require_tracker(track)
    from ..distill import distill, foresee
    from ..members.plan import ask
    from ..network.parallel import join_ranks

    resolve = partial(resolve_cache, max_cache_size=max_cache_size, signers=signers, revoked=revoked)
    asking = partial(
        ask,
        resolve(cache),
        dataset,
        options,
        settings,
        out,
        overwrite=overwrite,
        also=[(resolve(path), weight) for path, weight in map(_read_weight, also)],
        unlabelled=[(resolve(path), images) for path, images in unlabelled],
        check_views=check_views,
        track=track,
    )
    with join_ranks(settings.device) as ranks, _stopped_by_hand():
        foreseen = foresee(asking, ranks, note) if dry_run else None
        result = foreseen.result if foreseen else distill(asking, ranks, progress, note)
    if result is None or not ranks.leads:
        return
    if as_json:
        print_json(dict(result))
    else:
        click.echo(plain(foreseen.sentence) if foreseen else _describe(result))


@contextmanager
def _stopped_by_hand() -> Iterator[None]:
    """Say on Ctrl-C how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        again = shlex.join(["medal", *sys.argv[1:]])
        raise StudentError(
            f"Stopped by Ctrl-C; epochs up to the last checkpoint are kept. Go on with: {again}"
        ) from error


def _describe(result: Mapping[str, Any]) -> str:
    from ..figures.tables import show_result

    out, domains = Path(result["run"]), result.get("domains")
    verb = {"create": "Trained", "resume": "Finished", "extend": "Added to"}[result["action"]]
    best = "" if domains else f", best epoch {result['best_epoch']} of {result['epochs']}"
    place = out / next(iter(domains.values()))["folder"] if domains else out
    return "\n".join(
        [
            f"{verb} '{out}': {result['seconds']:.0f} s{best}.",
            _plain_lines(show_result(result)),
            plain(result["verdict"]),
            f'Use it: timm.create_model("local-dir:{place}", pretrained=True)',
        ]
    )


def _refuse_beside(option: str, unheard: Mapping[str, str]) -> None:
    """Refuse options that an option would leave unheard, if they were typed: a medal.toml's defaults are for all runs.

    Parameters
    ----------
    unheard : name of a parameter → why
    """
    source = click.get_current_context().get_parameter_source
    for name, why in unheard.items():
        if source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option} {why}, so --{name} would not be heard; give one of the two.")


def _read_weight(words: str) -> tuple[str, float]:
    """Read CACHE or CACHE=WEIGHT."""
    path, sign, weight = words.rpartition("=")
    if not sign:
        return words, 1.0
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise click.BadParameter(
            f"'{weight}' is no weight; expected a positive number, as in other.zarr=0.5.", param_hint="--also-cache"
        )
    return path, value


def _plain_lines(text: str) -> str:
    return "\n".join(map(plain, text.split("\n")))
