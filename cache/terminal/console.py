"""How commands speak: progress on stderr, results on stdout, one JSON line for scripts.

With ``--log-json`` every line of stderr is a JSON object: ``time`` (UTC), ``level`` (info, warning, error),
``message``, ``host``, ``pid``, and for progress ``what``, ``done``, ``total``, ``unit``, ``per_second`` and
``seconds_left``.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import click

from ..progress import Advance, Alert
from ..text import plain

__all__ = ["json_option", "log_json", "logs_json", "note", "print_json", "progress"]

F = TypeVar("F", bound=Callable[..., Any])

_SECONDS_BETWEEN_LINES = 5.0
# A variable, so that the processes that a command starts speak as it does.
_VARIABLE = "MEDAL_LOG_JSON"
# What stands before a sentence that people read, by its level.
_BEFORE = {"info": "", "warning": "warning: ", "error": "medal: "}

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")


def note(text: str, level: Literal["info", "error"] = "info", **figures: Any) -> None:
    """Say something on stderr that is not the result.

    Parameters
    ----------
    text : an `Alert` is a warning
    figures : what the text says, as numbers for those who read JSON
    """
    shown = "warning" if isinstance(text, Alert) else level
    if logs_json():
        _log(shown, text.strip(), **figures)
    else:
        click.echo("\n".join(map(plain, f"{_BEFORE[shown]}{text}".split("\n"))), err=True)


def logs_json() -> bool:
    """Return whether stderr is for a program that reads JSON."""
    return os.environ.get(_VARIABLE, "").lower() not in ("", "0", "false", "no", "off")


def log_json() -> None:
    """Let stderr be JSON lines from here on, of this process and of those that it starts; libraries' warnings too."""
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


@contextmanager
def _bar(what: str, total: int, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=total, completed=done)
        yield lambda count: shown.advance(task, count)


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
