"""Following a training from elsewhere: each epoch's row goes to a tracker as well, by way of Accelerate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...cache.errors import StudentError, first_line
from ...cache.progress import Alert, Tell

__all__ = ["TRACKERS", "Track", "require_tracker", "tracking"]

TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")
# Beside the runs, in a folder for each: a run holds nothing that medal did not make, and can be replaced.
_FOLDER = "tracking"

Track = Callable[[Mapping[str, float]], None]


def require_tracker(name: str | None) -> None:
    """Refuse a tracker whose package is not installed.

    Raises
    ------
    StudentError
        With the command that installs it.
    """
    missing = [one for one in ("accelerate", name) if name is not None and one is not None and find_spec(one) is None]
    if missing:
        raise StudentError(
            f"--track {name} needs the package '{missing[0]}', which is not installed; "
            f'pip install "medalmighty[{name}]", or leave --track out: history.csv is written in any case.'
        )


@contextmanager
def tracking(name: str | None, run: Path, settings: Mapping[str, Any], report: Tell) -> Iterator[Track]:
    """Yield what an epoch's row is given to; without a tracker that does nothing.

    A tracker that fails is given up with a warning, once: no training ends for its sake.

    Parameters
    ----------
    settings : what the tracker shows beside the curves; no paths, no patients
    """
    if name is None:
        yield lambda _row: None
        return
    require_tracker(name)
    try:
        tracker = _start(name, run, settings)
    # Trackers raise whatever their own layers do: no network, no login, a full disk.
    except Exception as error:
        raise StudentError(
            f"The tracker '{name}' could not be started: {first_line(error)}. Fix that, or leave --track out: "
            "history.csv is written in any case."
        ) from error
    failed = False

    def track(row: Mapping[str, float]) -> None:
        nonlocal failed
        if failed:
            return
        try:
            tracker.log({key: value for key, value in row.items() if key != "epoch"}, step=int(row["epoch"]))
        except Exception as error:  # noqa: BLE001 - as above
            failed = True
            report(Alert(f"the tracker '{name}' failed and is not used any more: {first_line(error)}"))

    try:
        yield track
    finally:
        if not failed:
            tracker.finish()


def _start(name: str, run: Path, settings: Mapping[str, Any]) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # trackers ask it whether they are in the main process
    made = LOGGER_TYPE_TO_CLASS[name]
    place = run.resolve().parent / _FOLDER
    if made.requires_logging_directory:
        place.mkdir(exist_ok=True)
        tracker = made(run.name, logging_dir=str(place))
    else:
        tracker = made(run.name)
    tracker.start()
    plain = (bool, int, float, str)
    tracker.store_init_configuration(
        {key: value if isinstance(value, plain) else json.dumps(value) for key, value in settings.items()}
    )
    return tracker
