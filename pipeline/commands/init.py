"""The command init: a commented medal.toml for a dataset and this machine."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ...cache.errors import MedalError
from ...cache.machine.drafts import write_file
from ...cache.machine.processors import usable_processors
from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, print_json, say
from ...cache.text import plain
from ..datasets.options import DATASET_GROUP, dataset_options, take_dataset_options

__all__ = ["init"]

_NAME = "medal.toml"
_PRESETS = ("laptop", "gpu", "cluster")
# Option → value and why, by preset: what a machine of that kind is better served with than by what is built in.
_Lines = dict[str, tuple[Any, str]]
_TEACHER: dict[str, _Lines] = {
    "laptop": {"teacher": ("facebook/dinov2-small", "four times as fast as dinov2-base, features half as wide")},
    "gpu": {"teacher": ("facebook/dinov2-base", "fast enough on a GPU")},
    "cluster": {
        "teacher": ("facebook/dinov2-base", "fast enough on a GPU; give its folder if nodes have no internet"),
        "on-bad-image": ("skip", "one broken file should not stop a long job; the cache lists what was left out"),
    },
}
_STUDENT: dict[str, _Lines] = {
    "laptop": {"student": ("resnet18", "any timm model; mobilenetv3_small_100 is faster to run, not to train")},
    "gpu": {"student": ("resnet18", "any timm model"), "seeds": (3, "one seed says little about a method")},
    "cluster": {
        "student": ("resnet18", "any timm model"),
        "seeds": (3, "one seed says little about a method"),
        "workers": (4, "processes that decode images if they do not fit into memory"),
    },
}
_BASELINE: _Lines = {"baseline": (True, "the same students on the labels alone: did distilling help?")}
# Shown and switched off: what people ask for next.
_ASIDE = {
    "cache-teacher": {
        "image-size": ("auto", "112 px for images of 64 px or less, else 224"),
        "views": (1, "stored views"),
    },
    "train-student": {
        "epochs": (20, "by the number of images, unless given"),
        "alpha": (0.5, 'weight of the teacher; "auto" chooses it on val'),
        "student-weights": ("pretrained", "timm's own weights instead of random ones; needs the internet once"),
    },
}


@click.command(cls=Command, groups=DATASET_GROUP, short_help="Write a medal.toml for a dataset and this machine.")
@click.argument("dataset", required=False)
@click.option("--preset", type=click.Choice(_PRESETS), default=None, help="Kind of machine (default: this one).")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(_NAME),
    help="File to write; commands read the one in their folder or above it.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@json_option
@dataset_options
def init(dataset: str | None, *, preset: str | None, out: Path, overwrite: bool, as_json: bool, **chosen: Any) -> None:
    """Write a commented medal.toml with defaults of both stages: for DATASET, if one is named, and for this machine.

    The file contains the options of DATASET that you give here, so you need not type them again. DATASET is read once;
    a dataset that stage one would refuse is refused here. You can change or delete every line. Options on the command
    line override the file.

    \b
    medal init
    medal init labels.csv --group-column patient
    medal init scans/ --preset cluster
    """
    options = take_dataset_options(dict(chosen))
    if out.exists() and not overwrite:
        raise MedalError(f"'{out}' is there already; give --overwrite to replace it, or another --out.")
    known = [] if dataset is None else _describe(dataset, options)
    kind, why = (preset, "as asked for") if preset else _find_kind()
    text = "\n".join(_lines(dataset, known, kind, why, _given(click.get_current_context()))) + "\n"
    write_file(out, text.encode())
    if as_json:
        print_json({"out": str(out), "preset": kind, "dataset": dataset})
        return
    asked = "DATASET" if dataset is None else dataset
    say(plain(f"Wrote '{out}' for a {kind}, {why}. Next: medal cache-teacher {asked}"))


def _describe(dataset: str, options: Any) -> list[str]:
    from ..datasets.opening import open_dataset
    from ..datasets.understanding import describe, understand

    opened = open_dataset(dataset, options)
    understood = understand(opened, ())
    classes = [
        f"{name}: {', '.join(f'{split} {count}' for split, count in parts.items())}"
        for name, parts in understood.classes.items()
    ]
    return [plain(line) for line in [*classes, *describe(understood, opened)]]


def _find_kind() -> tuple[str, str]:
    if os.environ.get("SLURM_CLUSTER_NAME") or shutil.which("sbatch"):
        return "cluster", "because Slurm is here"
    import torch

    if torch.cuda.is_available():
        return "gpu", f"as there is a {torch.cuda.get_device_name()}"
    return "laptop", f"as there is no GPU, and {usable_processors()} processors"


def _given(context: click.Context) -> _Lines:
    """Return the options of the dataset that were typed."""
    # The file of a secret is the user's to say, not a folder's.
    own = ("dataset", "preset", "out", "overwrite", "as_json", "key_secret")
    found: _Lines = {}
    for option in context.command.params:
        name = str(option.name)
        if name not in own and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = max(option.opts, key=len).removeprefix("--")
            typed = context.params.get(name)
            if isinstance(typed, tuple):
                typed = list(typed) if option.multiple else ",".join(f"{part:g}" for part in typed)
            found[flag] = (typed, "as given to medal init")
    return found


def _lines(dataset: str | None, known: list[str], kind: str, why: str, given: _Lines) -> list[str]:
    lines = [
        f"# Defaults of medal for this folder and those below it, for a {kind} ({why}).",
        "# What is typed counts more, then variables of the environment. `medal doctor --config` says what is set",
        "# where; `medal COMMAND --help-all` has all options, which stand here without their dashes.",
    ]
    if dataset is not None:
        lines += ["#", f"# {plain(dataset)}", *(f"#   {line}" for line in known)]
    tables = {"cache-teacher": _TEACHER[kind], "train-student": {**_STUDENT[kind], **_BASELINE}}
    for name, table in tables.items():
        lines += ["", f"[{name}]"]
        lines += [_line(option, *value) for option, value in {**table, **given}.items()]
        lines += [f"# {_line(option, *value)}" for option, value in _ASIDE[name].items() if option not in given]
    return lines


def _line(option: str, value: Any, why: str) -> str:
    # JSON's text, numbers, lists and truths are TOML's too.
    return f"{option} = {json.dumps(value if not isinstance(value, Path) else str(value), ensure_ascii=False)}  # {why}"
