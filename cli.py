"""The table of commands. Nothing heavy is imported before a command is chosen."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

import click

from medal.cache.errors import MedalError

# name: (module, function, short help); the order is the order of a lab's day.
COMMANDS = {
    "cache-teacher": ("medal.pipeline.commands", "cache_teacher", "Stage one: run the teacher once, seal a cache."),
    "train-student": ("medal.student.commands", "train_student", "Stage two: train a student from a cache."),
    "show": ("medal.cache.commands", "show", "Describe a cache."),
    "verify": ("medal.pipeline.commands", "verify", "Check every byte of a cache."),
    "convert": ("medal.cache.commands", "convert", "Change a cache between Zarr and HDF5."),
    "clean": ("medal.student.commands", "clean", "Find and remove what killed commands left behind."),
    "demo": ("medal.pipeline.demo", "demo", "Both stages on a small embedded set, in a few minutes."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's signature)
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's signature)
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, _, short) in COMMANDS.items()])


def _print_version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"medal {import_module('importlib.metadata').version('medalmighty')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, callback=_print_version, expose_value=False, is_eager=True, help="Show the version."
)
def group() -> None:
    """Teach small, fast medical-image classifiers from cached DINOv2 soft targets.

    \b
    medal cache-teacher DATASET [OUT]    run the frozen teacher once, seal its soft targets
    medal train-student CACHE DATASET    train a light CNN from them, no teacher needed

    Research software, not a medical device.
    """


def main() -> NoReturn:
    """Run the command line: medal's own errors are one sentence and exit status 1."""
    try:
        group(prog_name="medal")
    except MedalError as error:
        click.echo(f"medal: {error}", err=True)
        # 130 is what a shell reports for a program that Ctrl-C stopped.
        sys.exit(130 if isinstance(error.__cause__, KeyboardInterrupt) else 1)
    except OSError as error:
        # A full disk or a folder that may not be written is the user's to mend; a stack trace would not help them.
        place = f" '{error.filename}'" if error.filename else ""
        click.echo(f"medal: {error.strerror or error}{place}; mend that and run the same command again.", err=True)
        sys.exit(1)
    sys.exit(0)
