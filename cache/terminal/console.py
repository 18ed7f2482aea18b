"""How commands speak: progress on stderr, results on stdout, one JSON line for scripts.

With ``--log-json`` every line of stderr is a JSON object: ``time`` (UTC), ``level`` (info, warning, error),
``message``, ``host``, ``pid``, and for progress ``what``, ``done``, ``total``, ``unit``, ``per_second`` and
``seconds_left``.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from ..progress import Advance, Alert
from ..text import plain

__all__ = ["columns", "json_option", "log_json", "logs_json", "note", "print_json", "progress", "say", "stack", "wrap"]

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

F = TypeVar("F", bound=Callable[..., Any])

_SECONDS_BETWEEN_LINES = 5.0
# A variable, so that processes started by a command do the same.
_VARIABLE = "MEDAL_LOG_JSON"
# Prefix of a message, by its level.
_BEFORE = {"info": "", "warning": "warning: ", "error": "medal: "}
# What stays whole when a line is wrapped: a quoted name, or a word. A command stays whole to the end of its line.
_WORD = re.compile(r"'[^']*'\S*|\S+")
_COMMAND = re.compile(r"(?<=: )(?:medal|pip|openssl|docker) .*")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")


def note(text: str, level: Literal["info", "error"] = "info", **figures: Any) -> None:
    """Print a message that is not the result on stderr.

    Parameters
    ----------
    text : an `Alert` is a warning
    figures : the numbers in the text, for readers of JSON
    """
    shown = "warning" if isinstance(text, Alert) else level
    if logs_json():
        _log(shown, text.strip(), **figures)
        return
    lines = "\n".join(map(plain, f"{_BEFORE[shown]}{text}".split("\n")))
    lines = wrap(lines, get_terminal_size().columns if sys.stderr.isatty() else None)
    if _live is None:
        click.echo(lines, err=True)
    else:  # else the line would be written into the bar
        _live.console.print(lines, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say(text: str, hang: int = 0) -> None:
    """Print sentences of the result on stdout, wrapped to the terminal.

    Parameters
    ----------
    hang : columns by which the further lines of a wrapped line are indented
    """
    click.echo(wrap(text, columns(), hang))


def wrap(text: str, width: int | None, hang: int = 0) -> str:
    """Break lines between words, so that the terminal does not break them inside of words.

    A command to copy, such as "Continue with: medal …", gets a line of its own and is not broken.

    Parameters
    ----------
    width : columns of the terminal; None = leave the text as it is
    """
    if width is None:
        return text
    return "\n".join(part for line in text.split("\n") for part in _wrap_line(line, width, hang))


def _wrap_line(line: str, width: int, hang: int) -> list[str]:
    if len(line) <= width:
        return [line]
    command = _COMMAND.search(line)
    prose = line[: command.start()] if command else line
    indent = " " * (len(line) - len(line.lstrip()) + hang)
    lines: list[str] = []
    end = 0
    for word in _WORD.finditer(prose):
        between = prose[end : word.start()]
        if lines and len(lines[-1]) + len(between) + len(word[0]) <= width:
            lines[-1] += between + word[0]
        else:
            lines.append((indent if lines else between) + word[0])
        end = word.end()
    return [*lines, f"{indent}{command[0]}"] if command else lines


def columns() -> int | None:
    """Return the width of the terminal that shows results; None if they go elsewhere."""
    return get_terminal_size().columns if sys.stdout.isatty() else None


def stack(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> list[str]:
    """Return the lines of a table that is too wide for a terminal: one block per row, one line per column.

    Parameters
    ----------
    names : number of left columns that name a row; they are printed above its block
    """
    widest = max(map(len, header[names:]), default=0)
    lines = []
    for row in rows:
        lines.append("  ".join(cell for cell in row[:names] if cell))
        lines += [f"  {title:<{widest}}  {cell}" for title, cell in zip(header[names:], row[names:], strict=True)]
    return lines


def logs_json() -> bool:
    """Return whether stderr is for a program that reads JSON."""
    return os.environ.get(_VARIABLE, "").lower() not in ("", "0", "false", "no", "off")


def log_json() -> None:
    """Write stderr as JSON lines from here on, in this process and its children, warnings of libraries included."""
    import logging

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            level = "error" if record.levelno >= logging.ERROR else record.levelname.lower()
            _log(level, record.getMessage().strip(), logger=record.name)

    os.environ[_VARIABLE] = "1"
    logging.captureWarnings(capture=True)
    logging.basicConfig(handlers=[Lines()], level=logging.WARNING, force=True)


def _log(level: str, message: str, **figures: Any) -> None:
    from platform import node

    now = time.time()
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03}Z"
    record = {"time": stamp, "level": level, "message": message, **figures, "host": node(), "pid": os.getpid()}
    click.echo(json.dumps(_finite(record), allow_nan=False), err=True)


def print_json(result: dict[str, Any]) -> None:
    """Print a result as exactly one line of JSON; values that are not numbers become null."""
    click.echo(json.dumps(_finite(result), allow_nan=False, separators=(", ", ": ")))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def progress(what: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Advance]:
    """Show progress of a long job: a bar on a terminal, a line every few seconds elsewhere.

    Yields a function to be called with the number of units finished since the last call.
    """
    if sys.stderr.isatty() and not logs_json():
        with _bar(what, total, done) as advance:
            yield advance
    else:
        yield _lines(what, total, done, unit)


# The bars that are on the terminal now; messages go through their console and appear above them.
_live: Progress | None = None


@contextmanager
def _bar(what: str, total: int, done: int) -> Iterator[Advance]:
    global _live  # noqa: PLW0603 - there is one terminal
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    begun = time.monotonic()
    task: TaskID

    def advance(count: int) -> None:
        shown.advance(task, count)
        seen, spent = shown.tasks[shown.task_ids.index(task)].completed - done, time.monotonic() - begun
        if seen > 0:
            # Of all that was done since the beginning: rich's own rate forgets what took longer than half a minute.
            rate = seen / max(spent, 1e-9)
            shown.update(task, pace=f"{rate:.3g}/s, {_clock((total - done - seen) / rate)} left")

    outer = _live
    parts = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn())
    shown = outer or Progress(
        *parts, TextColumn("{task.fields[pace]}"), console=Console(stderr=True), transient=True, expand=True
    )
    with nullcontext() if outer else shown:
        _live = shown
        task = shown.add_task(escape(what), total=total, completed=done, pace="")
        try:
            yield advance
        finally:
            shown.remove_task(task)
            _live = outer


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _lines(what: str, total: int, done: int, unit: str) -> Advance:
    start = last = time.monotonic()
    begun_at = done

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES and done < total:
            return
        last = now
        rate = (done - begun_at) / max(now - start, 1e-9)
        seconds = (total - done) / rate if rate > 0 else None
        left = f", {seconds:.0f} s left" if seconds else ""
        note(
            f"{what}: {done}/{total} {unit}, {rate:.1f}/s{left}",
            what=what,
            done=done,
            total=total,
            unit=unit,
            per_second=rate,
            seconds_left=seconds,
        )

    return advance
