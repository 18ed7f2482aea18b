"""The command of stage one, cache-teacher."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import click

from ...cache.progress import Alert
from ...cache.store.options import store_options
from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json, progress, say
from ...cache.text import say_scores
from ..datasets.options import DATASET_GROUP, dataset_options, take_dataset_options
from ..features.ranks import join_team, started_together
from ..planning.request import CacheSettings
from ..probe.settings import Recipe
from ..views.policies import POLICIES

if TYPE_CHECKING:
    from ..caching.make import Made
    from ..datasets.columns.dataset import DatasetOptions
    from ..planning.plan import Plan

__all__ = ["cache_teacher"]

_DEFAULT = CacheSettings()
_GROUPS = {
    "Teacher": "--teacher --revision --feature --image-size --resize --tune",
    "Soft targets": "--views --augment --probe --folds --no-features --seed",
    "Machine": "--batch-size --precision --device --engine --address --no-wait",
    "Images": "--limit --from --on-bad-image --allow-low-contrast --unlabelled",
    "Sharing": "--store --push --yes --wait --as --max-cache-size --signers --revoked",
    **DATASET_GROUP,
}


# Those that a first run, and most later ones, ask about.
_BRIEF = (
    "--teacher --image-size --views --augment --limit --store --push --label-column --group-column "
    "--dry-run --overwrite"
)


class _SizeOrAuto(click.ParamType[int | str]):
    name = "integer|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        return "auto" if value == "auto" else int(click.INT.convert(value, param, ctx))


_SIZE_OR_AUTO = _SizeOrAuto()


@click.command(
    cls=Command, groups=_GROUPS, brief=_BRIEF, short_help="Stage one: run the teacher once and seal a cache."
)
@click.argument("dataset")
@click.argument("out", required=False)
@click.option("--teacher", default=_DEFAULT.teacher, help="Hugging Face id, local folder, or a .pth of DINOv2.")
@click.option(
    "--revision", default=_DEFAULT.revision, help="Commit, tag or branch of the teacher on the hub (default: main)."
)
@click.option(
    "--feature",
    type=click.Choice(["auto", "cls+mean", "last4"]),
    default=_DEFAULT.feature,
    help="cls+mean: CLS and mean patch token of the last block; last4: CLS of the last four blocks, and that mean. "
    "auto: last4 where the teacher has four blocks.",
)
@click.option(
    "--image-size",
    type=_SIZE_OR_AUTO,
    default=_DEFAULT.image_size,
    help="Side of the teacher's input, px; auto: 112 for images of 64 px or less, else 224.",
)
@click.option("--tune", is_flag=True, help="Choose --feature and --image-size on val, from a sample of train.")
@click.option(
    "--resize",
    type=click.Choice(["squash", "pad", "crop"]),
    default=_DEFAULT.resize,
    help="squash the image to a square, pad it to a square, or crop the middle.",
)
@click.option(
    "--views",
    type=click.IntRange(min=1, max=64),
    default=_DEFAULT.views,
    help="Views stored for each train image: the plain image, the others transformed as --augment allows.",
)
@click.option(
    "--augment",
    type=click.Choice(list(POLICIES)),
    default=_DEFAULT.augment,
    help="Transforms that do not change the label, by modality; stage two uses the same.",
)
@click.option(
    "--probe",
    type=click.Choice(get_args(Recipe)),
    default=_DEFAULT.probe,
    help="How the probe learns. mean, graph: also from images without a label; plain: from labels alone; grid: from "
    "labels, its penalty chosen on val; auto: mean if few train images have a label, else grid.",
)
@click.option(
    "--folds",
    default=_DEFAULT.folds,
    help="Number of out-of-fold probes for train; 0 = one probe, fitted on all of train.",
)
@click.option(
    "--no-features", is_flag=True, help="Do not store features: the cache is smaller, but cannot be reprobed."
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Images per forward pass (default: 32 on a CPU; on a GPU as many as fit, at most 256).",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "bf16", "fp32"]),
    default=_DEFAULT.precision,
    help="auto: bf16 if it is fast on this hardware and agrees with fp32.",
)
@click.option("--device", default=_DEFAULT.device, help="auto, cpu, cuda, cuda:1 …")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default=_DEFAULT.engine,
    help="local: this process, or the ranks of torchrun; ray: workers on all machines of a Ray cluster.",
)
@click.option(
    "--address",
    default=_DEFAULT.address,
    metavar="HOST:PORT|auto",
    help="Address of the Ray cluster (default: RAY_ADDRESS, else a new Ray on this machine).",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Use N rows of each split, classes in proportion, for trials; stage two then needs --on-missing drop.",
)
@click.option("--seed", type=click.IntRange(min=0), default=_DEFAULT.seed, help="Seed of drawn splits and folds.")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="CACHE",
    help="Reuse features from CACHE for the images that it has; may be repeated. An older OUT is always reused.",
)
@click.option(
    "--unlabelled", is_flag=True, help="Ignore labels and cache features only, for train-student --unlabelled."
)
@click.option(
    "--on-bad-image",
    type=click.Choice(["fail", "skip"]),
    default=_DEFAULT.on_bad_image,
    help="fail: compute the others, list the images that cannot be read, and stop; skip: leave them out and record it.",
)
@click.option(
    "--allow-low-contrast",
    is_flag=True,
    help="Accept a dataset whose images come out nearly uniform grey, and record it; by default it is refused.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace another cache at OUT when the new one is sealed; a cache with the same settings is reused.",
)
@click.option(
    "--store",
    envvar="MEDAL_STORE",
    show_envvar=True,
    help="Use the cache from this store if it has one: a folder, s3://, sftp://, https:// …",
)
@click.option("--push", is_flag=True, help="Publish the computed cache in --store.")
@click.option("--yes", is_flag=True, help="With --push, publish the names in the cache without asking.")
@click.option("--wait", "wait", is_flag=True, help="If another process is computing it for --store now, wait for it.")
@click.option("--as", "by", envvar="MEDAL_NAME", metavar="NAME", help="Your name in --store (default: none).")
@store_options
@click.option("--no-wait", is_flag=True, help="Refuse, instead of waiting, if another process is making OUT.")
@click.option(
    "--dry-run", is_flag=True, help=("Show what would be done, how long it would take and how much disk it needs.")
)
@json_option
@dataset_options
def cache_teacher(
    dataset: str,
    out: str | None,
    sources: tuple[str, ...],
    overwrite: bool,
    no_wait: bool,
    dry_run: bool,
    as_json: bool,
    store: str | None,
    push: bool,
    yes: bool,
    **chosen: Any,
) -> None:
    """Run the frozen teacher once over DATASET and seal its features and soft targets in OUT.

    DATASET is medmnist:NAME[@SIZE], a .npz file, a folder of SPLIT/CLASS/file or CLASS/file, a .csv table with columns
    file and label, or phantom. OUT ends in .zarr or .h5 (default: caches/DATASET-TEACHER.zarr). Run the same command
    again to resume an interrupted run; a finished cache is reused.

    \b
    medal cache-teacher phantom
    medal cache-teacher medmnist:pneumoniamnist chest.zarr --teacher facebook/dinov2-small
    medal cache-teacher labels.csv scans.h5 --label-columns edema,effusion --group-column patient
    """
    if push and not store:
        raise click.UsageError("--push needs --store URL (or MEDAL_STORE)")
    options = take_dataset_options(chosen)
    sharing = {name: chosen.pop(name) for name in ("wait", "by", "max_cache_size", "signers", "revoked")}
    settings = CacheSettings(features_kept=not chosen.pop("no_features"), **chosen)
    if settings.address is not None and settings.engine != "ray":
        raise click.UsageError("--address is for --engine ray; give both, or neither.")
    if settings.engine == "ray" and started_together():
        raise click.UsageError("--engine ray starts workers of its own; run it without torchrun or srun.")
    with join_team() as team:
        if not team.leads:
            from ..features.compute import follow

            follow(team, dataset, options, settings, note)
            return
        from ...cache.commands.push import confirm_names
        from ..caching.make import cache_teacher as make
        from ..caching.make import foresee, plan_cache
        from ..caching.sharing import names_of, open_lab

        lab = open_lab(store, push=push, progress=partial(progress, unit="bytes"), **sharing) if store else None
        shown = None if dry_run else progress
        asked = plan_cache(
            dataset, out, options, settings, overwrite=overwrite, sources=sources, store=lab, progress=shown, tell=note
        )
        if dry_run:
            _print_foreseen(*foresee(asked, lab, note), as_json=as_json)
            return
        if push and asked.action != "reuse":
            # Now, and not after hours of work.
            confirm_names(names_of(asked), yes)
        again = shlex.join(["medal", *sys.argv[1:]])
        made = make(asked, progress, wait=not no_wait, tell=note, again=again, team=team, store=lab)
        _print_made(made, dataset, options, limited=settings.limit is not None, as_json=as_json)


def _print_foreseen(asked: Plan, size: int, seconds: float, *, as_json: bool) -> None:
    if as_json:
        rows = {split: len(part) for split, part in asked.rows.items()}
        print_json(
            {
                "cache": str(asked.target),
                "action": asked.action,
                "cache_id": asked.cache_id,
                "rows": rows,
                "bytes": size,
                "seconds": seconds,
            }
        )
    else:
        say(
            f"Would {asked.action} '{asked.target}': {asked.images} images, about {size / 1e6:.1f} MB and "
            f"{seconds:.0f} s of teacher."
        )


def _print_made(made: Made, dataset: str, options: DatasetOptions, *, limited: bool, as_json: bool) -> None:
    manifest = made.cache.manifest
    metrics = manifest.probe.get("metrics", {})  # another writer's cache need not have them
    if made.action == "reuse" and manifest.skipped.images:
        note(Alert(f"{manifest.skipped.images} images were left out because they could not be read"))
    if as_json:
        print_json(
            {
                "cache": str(made.cache.path),
                "action": made.action,
                "cache_id": made.cache.cache_id,
                "content_digest": made.cache.content_digest,
                "rows": dict(manifest.rows),
                "skipped": manifest.skipped.images,
                "computed": made.computed,
                "kept": made.kept,
                "images_per_second": made.images_per_second,
                "seconds": made.seconds,
                "teacher": {split: metrics.get(split) for split in ("val", "test")},
                "tuned": manifest.raw.get("tuned"),
                "pushed": None if made.pushed is None else made.pushed.action,
            }
        )
        return
    verb = {
        "create": "Made",
        "extend": "Made",
        "resume": "Finished",
        "reuse": "Nothing to do: found",
        "pulled": "Pulled",
    }[made.action]
    target = made.cache.path
    say(f"{verb} '{target}': {made.computed} images computed, {made.kept} kept, {made.seconds:.0f} s.")
    if made.pushed is not None:
        say(f"  others get it by: medal pull {made.cache.cache_id} STORE")
    for split in ("val", "test"):
        if split in metrics:
            say(f"  teacher's probe on {split}: {say_scores(metrics[split])}")
    # Classes and their columns stage two takes from the cache; of the others it reads the usual ones unless told.
    # What is a path no cache records.
    columns = {
        "--split-column": options.split_column,
        "--domain-column": options.domain_column,
        "--val-table": options.val_table,
        "--test-table": options.test_table,
    }
    extra = [word for name, column in columns.items() if column for word in (name, column)]
    extra += [word for folder in options.image_folders for word in ("--images", folder)]
    extra += ["--on-missing", "drop"] if limited else []
    following = ["medal", "train-student", str(target), dataset, "--out", f"runs/{target.stem}", *extra]
    if options.unlabelled:
        # Beside a set that has labels.
        following = ["medal", "train-student", "CACHE", "DATASET", "--out", "RUN", "--unlabelled", str(target), dataset]
    say(f"Next: {shlex.join(following)}")
