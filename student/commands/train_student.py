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
from ...cache.terminal.command import Command, options_of
from ...cache.terminal.console import columns, json_option, note, print_json, progress, say
from ...cache.text import plain
from ...pipeline.datasets.options import DATASET_GROUP, dataset_options, take_dataset_options
from ...pipeline.views.policies import POLICIES
from ..settings import StudentSettings
from ..training.tracking import TRACKERS, require_tracker
from .options import finding_option

__all__ = ["train_student"]

_setting = options_of(StudentSettings())
_GROUPS = {
    "Student": "--student --student-weights --image-size --out",
    "Training": "--recipe --epochs --batch-size --lr --augment --seed --class-weight --sampler --logit-adjustment "
    "--labelled-share",
    "Soft targets": "--teach --alpha --temperature --loss --also-cache --targets --check-views --no-distill "
    "--unlabelled",
    "Measuring": "--seeds --baseline --label-fraction --leave-one-domain-out --at-sensitivity "
    "--ordinal --select --aggregate --finding --track",
    "Machine": "--precision --memory-layout --device --workers --resident --fast-kernels",
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


# Those that a first run, and most later ones, ask about.
_BRIEF = (
    "--student --student-weights --out --epochs --alpha --seeds --baseline --leave-one-domain-out --device --dry-run "
    "--overwrite"
)


@click.command(cls=Command, groups=_GROUPS, brief=_BRIEF, short_help="Stage two: train a student from a cache.")
@click.argument("cache")
@click.argument("dataset")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN", help="Folder of the run.")
@_setting("--student", "Any timm model.")
@_setting(
    "--student-weights",
    "Where the student starts: random, timm's own weights, a folder in timm's form or a .safetensors file; auto: "
    "timm's own if the Hugging Face cache of this machine has them, else random.",
    field="weights",
    metavar="random|pretrained|auto|PATH",
)
@_setting(
    "--recipe",
    "plain: train all weights from the start; lp-ft: first fit the head, then train all weights at a low rate; auto: "
    "lp-ft for a student of trained weights, else plain.",
)
@_setting(
    "--teach",
    "Whose answers are the soft targets. probe: the cache's; ensemble: the mean of probe and baseline, for images "
    "without a label; auto: chosen on val if fewer than half of train's images have a label, else probe.",
)
@_setting("--epochs", "Passes over train (default: by its size; --dry-run says how many).", type=click.IntRange(min=1))
@_setting("--batch-size", "Images per step.", type=click.IntRange(min=2))
@_setting("--lr", "Peak learning rate (default: that of the recipe, plain .001, lp-ft .0003).", type=float)
@_setting(
    "--image-size",
    "Side of the student's input, px (default: 4 × images of up to 64 px, else the model's own).",
    type=int,
)
@_setting("--temperature", "T of the soft targets.")
@_setting(
    "--alpha",
    "Weight of the soft targets, 0 to 1; auto: choose it and T on val, for at most the cost of a second student; "
    "per-class: by how well the teacher recognises each class, out of fold.",
    type=_Alpha(),
)
@click.option("--no-distill", is_flag=True, help="Train on labels alone, as with --alpha 0.")
@_setting(
    "--loss",
    "Soft term of the loss: kd, dkd, dist, mse, feature, or a weighted sum such as kd+0.5*feature.",
    metavar="NAME[+WEIGHT*NAME…]",
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
    help="Add images without labels to train; they learn from the teacher alone. CACHE is made by cache-teacher "
    "--unlabelled with the same teacher, DATASET has its images; may be repeated.",
)
@_setting(
    "--label-fraction",
    "Use only this share of the labels of train and val, drawn by class and patient, and fit the probe on these.",
    type=float,
    metavar="SHARE",
)
@_setting(
    "--labelled-share",
    "Smallest share of labelled images in a batch; they are repeated if train has fewer.",
    type=float,
    metavar="SHARE",
)
@_setting(
    "--leave-one-domain-out",
    "For each domain: fit the probe, train and choose without that domain, then measure on all of its images.",
)
@_setting("--class-weight", "balanced: weight classes in the hard loss by their inverse frequency.")
@_setting("--sampler", "balanced: draw every class equally often in an epoch.")
@_setting("--logit-adjustment", "Add log class frequencies to the logits of the hard loss.")
@_setting(
    "--targets",
    "canonical: views of the student's own, with the teacher's answer on the plain image; stored: the views in the "
    "cache, each with the teacher's answer on that view.",
)
@click.option(
    "--check-views", is_flag=True, help="With --targets stored, check the replay of all images, not only of a sample."
)
@_setting(
    "--augment",
    "Transforms of the student's views, by modality (default: those of the cache, or small).",
    type=click.Choice(list(POLICIES)),
)
@_setting("--precision", "auto: the fastest in a short measurement.")
@_setting("--memory-layout", "Memory layout of images; auto: by the same measurement.")
@_setting("--device", "Where to train.")
@_setting(
    "--workers",
    (
        "Processes that decode images in every epoch, 0 = only this one (default: decode all images once, if they fit "
        "into memory)."
    ),
    type=click.IntRange(min=0),
)
@_setting("--resident", "Keep decoded images in the memory of the GPU that trains; auto: if they fit.")
@_setting("--fast-kernels", "On a GPU, take the fastest kernels, which need not give the same bits each time.")
@_setting("--seed", "Seed of weights, order and views.", type=click.IntRange(min=0))
@_setting(
    "--seeds",
    "Students to train, with the seeds SEED, SEED+1 …; more can be added to a finished run.",
    type=click.IntRange(min=1),
    metavar="K",
)
@_setting(
    "--baseline",
    ("Also train as many students on the labels alone, with the same settings; can be added to a finished run."),
)
@_setting(
    "--at-sensitivity",
    "Also report the specificity at this sensitivity, from the ROC curve of the measured images.",
    type=click.FloatRange(min=0, max=1, min_open=True),
)
@_setting("--ordinal", "Classes are ordered grades: also report weighted kappa and the mean grade error.")
@_setting("--select", "Figure that chooses the epoch on val: AUROC, or with --ordinal the weighted kappa.")
@_setting("--aggregate", "How a patient's images are combined into one answer, if patients are known.")
@finding_option
@_setting("--on-missing", "What to do about images that are not in the cache.")
@_setting("--labels", "Whose labels to use if they disagree (default: refuse).")
@click.option(
    "--track",
    type=click.Choice(TRACKERS),
    default=None,
    help="Also send each epoch's figures to a tracker; tensorboard's files go to 'tracking' beside RUN.",
)
@click.option("--overwrite", is_flag=True, help="Replace a finished run when the new one is finished.")
@click.option(
    "--dry-run", is_flag=True, help=("Show what would be done, how long it would take and how much disk it needs.")
)
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

    Splits, classes and label columns come from the cache. Run the same command again to resume an interrupted run. With
    --baseline or more --seeds, it adds students to a finished run; with --overwrite it replaces the run. CACHE may be
    STORE#NAME-OR-ID: a verified copy of it is used.

    \b
    medal train-student chest.zarr medmnist:pneumoniamnist --out runs/chest
    medal train-student scans.h5 labels.csv --out runs/scans --student mobilenetv3_small_100
    medal train-student chest.zarr medmnist:pneumoniamnist --out runs/three --seeds 3 --baseline
    medal train-student scans.zarr labels.csv --out runs/unseen --leave-one-domain-out --baseline
    """
    options = take_dataset_options(chosen)
    if not out.name:
        raise StudentError(f"'{out}' is not a folder name; give --out a folder such as runs/first.")
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
    with join_ranks(settings.device) as ranks, _stopped():
        foreseen = foresee(asking, ranks, note) if dry_run else None
        result = foreseen.result if foreseen else distill(asking, ranks, progress, note)
    if result is None or not ranks.leads:
        return
    if as_json:
        print_json(dict(result))
    else:
        say(plain(foreseen.sentence) if foreseen else _describe(result))


@contextmanager
def _stopped() -> Iterator[None]:
    """Say on Ctrl-C, or on a scheduler's signal, how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        again = shlex.join(["medal", *sys.argv[1:]])
        how = str(error) or "Ctrl-C"
        raise StudentError(f"Stopped by {how}; every finished epoch is kept. Continue with: {again}") from error


_VERBS = {"create": "Trained", "resume": "Finished", "extend": "Added to", "reuse": "Nothing to do: found"}


def _describe(result: Mapping[str, Any]) -> str:
    from ..figures.tables import show_result

    out, domains = Path(result["run"]), result.get("domains")
    verb = _VERBS[result["action"]]
    best = "" if domains else f", best epoch {result['best_epoch']} of {result['epochs']}"
    place = out / next(iter(domains.values()))["folder"] if domains else out
    return "\n".join(
        [
            f"{verb} '{out}': {result['seconds']:.0f} s{best}.",
            _plain_lines(show_result(result, columns())),
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
            raise click.UsageError(f"{option} {why}, so --{name} would have no effect; give one of the two.")


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
            f"'{weight}' is not a weight; expected a positive number, as in other.zarr=0.5.", param_hint="--also-cache"
        )
    return path, value


def _plain_lines(text: str) -> str:
    return "\n".join(map(plain, text.split("\n")))
