"""The command doctor: it prints what `doctor.examine` finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json, say
from ...cache.terminal.defaults import Setting, find_files, settings_in_effect
from ...cache.text import plain
from ..datasets.options import DATASET_GROUP, dataset_options, take_dataset_options
from ..planning.request import IMAGE_SIZE, CacheSettings

if TYPE_CHECKING:
    from ..features.doctor import Report

__all__ = ["doctor"]

_DEFAULT = CacheSettings()


@click.command(cls=Command, groups=DATASET_GROUP, short_help="Check this machine: devices, speed, missing packages.")
@click.argument("dataset", required=False)
@click.option("--teacher", help="Folder, or hub id of a teacher in the local cache (default: the one on this machine).")
@click.option("--image-size", type=int, default=IMAGE_SIZE, help="Side of the teacher's input, px.")
@click.option("--device", default=_DEFAULT.device, help="auto, cpu, cuda, cuda:1 …")
@click.option(
    "--store",
    envvar="MEDAL_STORE",
    show_envvar=True,
    help="Check whether this store can be reached (default: cache-teacher's store in medal.toml, if any).",
)
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="Write a page on how DATASET is read: classes, splits, patients, files, intensities.",
)
@click.option(
    "--with-images",
    is_flag=True,
    help="Show a few images of each class on the page of --html; these are patients' images.",
)
@click.option("--config", is_flag=True, help="Show which defaults are set, their values, and where they come from.")
@json_option
@dataset_options
def doctor(
    dataset: str | None,
    teacher: str | None,
    image_size: int,
    device: str,
    store: str | None,
    page: Path | None,
    with_images: bool,
    config: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Check what stage one would do on this machine and how fast, what DATASET needs, and what is missing.

    It shows versions, devices, and what would be chosen and why. It times the teacher's forward pass for a few seconds,
    compares disk and memory with DATASET's needs, and lists missing extras, each with the command that installs it. For
    DATASET it shows what medal reads: classes by split, patients, files used and left out, intensities, and what it
    would ask. It writes nothing but --html, and uses the network only to reach a store. Exit status 1 if something
    that is needed is broken.

    \b
    medal doctor
    medal doctor medmnist:pneumoniamnist --teacher facebook/dinov2-small
    medal doctor scans/ --html scans.html
    medal doctor --store /mnt/lab/caches
    medal doctor --config
    """
    files = find_files()
    if config or (store is None and files):
        # Where the command line stands, every command is known; this package knows its own alone.
        group = click.get_current_context().find_root().command
        in_effect = settings_in_effect(group, files) if isinstance(group, click.Group) else []
        if config:
            _print_settings(in_effect, files, as_json)
            return
        store = next((one.value for one in in_effect if one[:2] == ("cache-teacher", "--store")), None)
    from ..features.doctor import examine

    settings = CacheSettings(image_size=image_size, device=device)
    if page is not None and dataset is None:
        raise click.UsageError("--html needs a DATASET.")
    found = examine(dataset, take_dataset_options(chosen), settings, teacher, store, note)
    if page is not None and found.understood is not None and found.opened is not None:
        from ...cache.machine.drafts import write_file
        from ..datasets.understanding import draw_page

        write_file(page, draw_page(found.understood, found.opened, with_images=with_images).encode())
    if as_json:
        print_json(found.to_dict())
    else:
        say("\n".join(map(plain, _lines(found))), hang=11)
    if found.problems:
        sys.exit(1)


def _print_settings(in_effect: list[Setting], files: list[Path], as_json: bool) -> None:
    if as_json:
        print_json({"files": list(map(str, files)), "settings": [one._asdict() for one in in_effect]})
        return
    lines = [f"file       {file}" for file in files] or ["file       no medal.toml here, above, or of the user's"]
    lines += [
        f"{one.command} {one.option}: {json.dumps(one.value, ensure_ascii=False)}   {one.source}, {one.origin}"
        for one in in_effect
        if one.origin is not None
    ]
    lines.append(
        "All other defaults are built in: medal COMMAND --help. Options on the command line override all of these."
    )
    say("\n".join(map(plain, lines)))


def _lines(found: Report) -> list[str]:
    first = ("medal", "python", "torch", "transformers", "timm", "zarr", "h5py")
    lines = ["versions   " + ", ".join(f"{name} {found.versions.get(name) or 'missing'}" for name in first)]
    lines += [f"device     {_device(device)}" for device in found.devices]
    chosen = {name.replace("_", " "): choice for name, choice in found.chosen.items() if name != "device"}
    lines += [f"{name:10} {choice.value}: {choice.why}" for name, choice in chosen.items()]
    if "why_not" in found.teacher:
        lines.append(f"teacher    {found.teacher['why_not']}")
    elif found.teacher:
        lines.append(
            "teacher    {images_per_second} images/s: {name} at {image_size} px, {batch_size} a forward pass".format(
                **found.teacher
            )
        )
    lines += [*_understood(found), *_needs(found)]
    if found.store is not None:
        access = "could not be used" if found.store["why_not"] else found.store["access"]
        lines.append(f"store      '{found.store['url']}' {access}")
    for name, extra in found.extras.items():
        missing = f"without {', '.join(extra['missing'])}; {extra['remedy']}" if extra["missing"] else "complete"
        lines.append(f"extra      {name}: {missing}")
    lines += [f"problem    {problem}" for problem in found.problems]
    return lines if found.problems else [*lines, "Nothing that is needed is missing."]


def _device(device: dict[str, Any]) -> str:
    what = f"capability {device['capability']}" if device["kind"] == "cuda" else f"{device['processors']} processors"
    return (
        f"{device['kind']} ({device['name']}), {what}, {device['available_bytes'] / 1e9:.1f} of "
        f"{device['memory_bytes'] / 1e9:.1f} GB of memory free"
    )


def _understood(found: Report) -> list[str]:
    if found.understood is None or found.opened is None:
        return []
    from ..datasets.understanding import describe

    width = max(map(len, found.understood.classes))
    table = [
        f"class      {name:<{width}}  " + ", ".join(f"{split} {count}" for split, count in parts.items())
        for name, parts in found.understood.classes.items()
    ]
    return [*table, *(f"reading    {line}" for line in describe(found.understood, found.opened))]


def _needs(found: Report) -> list[str]:
    if found.dataset is None:
        return []
    needs = found.dataset
    size = "unknown without a teacher" if needs["bytes"] is None else f"{needs['bytes'] / 1e9:.2f} GB"
    lines = [
        f"dataset    {needs['images']} images in '{needs['name']}'",
        f"disk       {size} while its cache is made, {needs['free_bytes'] / 1e9:.1f} GB free",
        f"memory     {needs['peak_bytes'] / 1e9:.1f} GB taken here, {needs['available_bytes'] / 1e9:.1f} GB free",
    ]
    return lines if needs["seconds"] is None else [*lines, f"time       about {needs['seconds']:.0f} s of teacher"]
