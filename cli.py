"""The table of commands. Nothing heavy is imported before a command is chosen."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import click

from medal.cache.errors import MedalError
from medal.cache.machine.processors import wait_passively
from medal.cache.terminal.command import undo_flags
from medal.cache.terminal.console import log_json, logs_json, note
from medal.cache.terminal.defaults import TYPED, find_files, name_variables, option_defaults, read_defaults
from medal.cache.text import plain

# name: (package, short help); the order is the order of a lab's day. Command NAME is the function NAME of the module
# medal.PACKAGE.commands.NAME, with underscores for hyphens.
COMMANDS = {
    "init": ("pipeline", "Write a medal.toml for a dataset and this machine."),
    "cache-teacher": ("pipeline", "Stage one: run the teacher once and seal a cache."),
    "train-student": ("student", "Stage two: train a student from a cache."),
    "compare": ("student", "Compare finished runs on the test images they share."),
    "report": ("student", "Write one HTML report for one or more runs."),
    "predict": ("student", "Predict images with a student."),
    "evaluate": ("student", "Measure a student on a dataset."),
    "explain": ("student", "Draw heat maps of what a student's answers come from."),
    "export": ("student", "Write a student as ONNX or as an exported program."),
    "show": ("pipeline", "Describe a cache."),
    "verify": ("pipeline", "Check every byte of a cache."),
    "convert": ("cache", "Convert a cache between Zarr and HDF5."),
    "reprobe": ("pipeline", "Fit another probe on cached features."),
    "audit": ("pipeline", "Find leaks, duplicates and doubtful labels in a dataset."),
    "neighbours": ("pipeline", "List the images most similar to one image."),
    "push": ("cache", "Publish a cache in a store."),
    "pull": ("cache", "Get a cache from a store, verified."),
    "list": ("cache", "List the caches in a store."),
    "remove": ("cache", "Remove a cache from a store."),
    "gc": ("cache", "Delete data that no cache in a store needs."),
    "clean": ("student", "Find and delete what killed commands left behind."),
    "doctor": ("pipeline", "Check this machine: devices, speed, missing packages."),
    "demo": ("pipeline", "Run both stages on a small embedded set, in minutes."),
}


def _find_command(name: str) -> click.Command:
    package, _ = COMMANDS[name]
    stem = name.replace("-", "_")
    module = import_module(f"medal.{package}.commands.{stem}")
    # A name that Python has already gets an underscore, as PEP 8 says: list_.
    command: click.Command = getattr(module, stem, None) or getattr(module, f"{stem}_")
    return command


class Stopped(KeyboardInterrupt):
    """A signal of a scheduler or a closed terminal that stops a command like Ctrl-C; its text is the signal's name."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = _find_command(cmd_name)
        undo_flags(command, TYPED)
        if ctx.default_map is None and not ctx.resilient_parsing:
            name_variables(command, cmd_name)
            if files := find_files():
                found = read_defaults(cmd_name, list(COMMANDS), files)
                ctx.default_map = {cmd_name: option_defaults(command, found)}
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            meant = " or ".join(f"'{name}'" for name in get_close_matches(args[0], COMMANDS))
            remedy = f"Did you mean {meant}?" if meant else "'medal --help' lists them."
            ctx.fail(f"There is no command '{plain(args[0])}'. {remedy}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            # Commands that keep finished work say so in their own message.
            how = str(error) or "Ctrl-C"
            raise MedalError(f"Stopped by {how}; run the same command again to continue or to start again.") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's signature)
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in COMMANDS.items()])


def _print_version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"medal {import_module('importlib.metadata').version('medalmighty')}")
        ctx.exit()


def _log_json(_ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        log_json()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, callback=_print_version, expose_value=False, is_eager=True, help="Show the version."
)
@click.option(
    "--log-json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    envvar="MEDAL_LOG_JSON",
    show_envvar=True,
    callback=_log_json,
    help="Write progress, warnings and errors to stderr as lines of JSON.",
)
def group() -> None:
    """Teach small, fast medical-image classifiers from cached DINOv2 soft targets.

    \b
    medal cache-teacher DATASET [OUT]    run the frozen teacher once, seal its soft targets
    medal train-student CACHE DATASET    train a light CNN from them, no teacher needed

    Research software, not a medical device.
    """


# A scheduler's end, a closed terminal, and Slurm's warning before the end (--signal=USR1@120).
_STOPPING = ("SIGTERM", "SIGHUP", "SIGUSR1")


def _stop(number: int, _frame: object) -> NoReturn:
    # Schedulers repeat the signal. After the first, it is ignored, so that finished work can be written.
    for name in _STOPPING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    raise Stopped(number)


def _take_signals() -> None:
    """Make signals of schedulers and closed terminals stop a command as cleanly as Ctrl-C."""
    for name in _STOPPING:
        number = getattr(signal, name, None)
        # If the signal was ignored before (nohup), the command should go on.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)


def _status(error: MedalError) -> int:
    """Return the exit status: what a shell reports for a program that a signal stopped, if one did, and else 1."""
    if isinstance(error.__cause__, KeyboardInterrupt):
        return 128 + (error.__cause__.number if isinstance(error.__cause__, Stopped) else signal.SIGINT)
    return 1


def main() -> NoReturn:
    """Run the command line: medal's own errors are one sentence and exit status 1, or 128 + a signal's number."""
    _take_signals()
    wait_passively()
    try:
        status = group.main(prog_name="medal", standalone_mode=False)
    except click.ClickException as error:  # the command line is misused
        if logs_json():
            note(error.format_message(), "error")
        else:
            error.show()
        sys.exit(error.exit_code)
    except click.Abort:  # a question was not answered
        note("Aborted; nothing was done.", "error")
        sys.exit(1)
    except MedalError as error:
        # After SIGHUP there may be no terminal any more.
        with suppress(OSError):
            note(str(error), "error")
        sys.exit(_status(error))
    except OSError as error:
        # The user can fix a full disk or a folder without write permission; a stack trace would not help.
        place = f" '{error.filename}'" if error.filename else ""
        note(f"{error.strerror or error}{place}; fix that and run the same command again.", "error")
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
