"""The commands that use a finished run: predict, evaluate, export."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...cache.errors import DataError
from ...cache.progress import Alert
from ...cache.terminal.command import Command
from ...cache.terminal.console import columns, json_option, note, print_json, progress, say, stack
from ...cache.text import plain, plural
from .options import (
    aggregate_option,
    chosen_rule,
    device_option,
    dry_run_option,
    overwrite_option,
    require_place,
    run_argument,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...pipeline.datasets.columns.aggregate import Aggregate
    from ..using.patients import PatientAnswers
    from ..using.prediction import Answers
    from ..using.trained import Trained

__all__ = ["predict"]

_SUFFIXES = {"onnx": ".onnx", "exported-program": ".pt2"}


@click.command(cls=Command, short_help="Predict images with a student.")
@run_argument
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.csv",
    help="Write a table with probabilities and logits to this file instead of printing it.",
)
@click.option(
    "--by",
    type=click.Choice(["image", "group"]),
    default="image",
    help="group: one answer per patient, by --group-pattern or DICOM's PatientID, else one per file of several frames.",
)
@click.option(
    "--group-pattern", metavar="REGEX", help="Find the patient in a file's path: its first group, as in '14-(\\d+)'."
)
@aggregate_option
@overwrite_option
@device_option
@dry_run_option
@json_option
def predict(
    run: Path,
    images: tuple[Path, ...],
    *,
    out: Path | None,
    by: str,
    group_pattern: str | None,
    aggregate: Aggregate | None,
    overwrite: bool,
    device: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Predict each IMAGE with the student in RUN: files or folders; of DICOM and NIfTI every frame is an image.

    Images are read and resized as in training. Probabilities are calibrated: logits are divided by the temperature that
    fits the run's val predictions best. Images that cannot be read are all listed, the others are predicted, and the
    exit status is 1. An image whose embedding is further from train than 1 (one in a hundred images of val) is unlike
    train; its answer means little. Research software, not a medical device.

    \b
    medal predict runs/chest new.png more/
    medal predict runs/chest study/ --out preds.csv
    medal predict runs/chest clips/ --by group --group-pattern '([^/]+)/[^/]+$'
    """
    from ..using.patients import answer_patients, name_patients, write_patients
    from ..using.prediction import list_frames, predict_images, write_answers
    from ..using.trained import open_run

    if group_pattern is not None and by != "group":
        raise click.UsageError("--group-pattern only works with --by group.")
    require_place(out, overwrite=overwrite)
    trained = open_run(run, device)
    listing, said = list_frames(trained, images)
    for sentence in said:
        note(sentence)
    frames = listing.images
    patient = name_patients(listing, group_pattern) if by == "group" else {}
    if dry_run:
        _foresee(trained, len(frames), out, as_json=as_json, what=f"answer {_images(len(frames))} with")
        return
    with progress("predict", len(frames)) as advance:
        answers = predict_images(trained, frames, advance)
    rule = chosen_rule(trained.description["request"], aggregate)
    patients = answer_patients(answers, patient, rule.aggregate) if patient and answers.places else None
    out = out if answers.places else None
    if out is not None and patients is not None:
        write_patients(out, patients)
    elif out is not None:
        escaped = write_answers(out, answers)
        if escaped:
            what = plural(escaped, "file name is", "file names are")
            note(Alert(f"{escaped} {what} not UTF-8: '{out}' has their invalid bytes escaped, as in \\xe9"))
    if as_json:
        more = {} if patients is None else {"aggregate": rule.aggregate, "patients": patients.to_dicts()}
        print_json(_as_json(trained, answers, out) | more)
    elif answers.places:
        _tell(trained, answers, patients, out)
    if count := sum(answers.unlike or ()):
        note(
            Alert(
                f"{count} of {_images(len(answers.places))} {plural(count, 'is', 'are')} unlike those of train "
                "(distance above 1): the student still answers one of its classes, but that means little"
            )
        )
    _refuse_bad(answers, out)


def _as_json(trained: Trained, answers: Answers, out: Path | None) -> dict[str, Any]:
    from ..figures.temperature import describe_temperature

    return {
        "run": str(trained.run),
        "images": len(answers.places),
        "classes": list(trained.classes),
        "task": trained.task,
        "temperature": describe_temperature(trained.temperature),
        "out": None if out is None else str(out),
        "bad": list(answers.bad),
        "predictions": answers.to_dicts(),
    }


def _tell(trained: Trained, answers: Answers, patients: PatientAnswers | None, out: Path | None) -> None:
    """Show the answers, or say where they are."""
    from ..figures.temperature import say_temperature

    if out is not None:
        of = "" if patients is None else f" of {len(patients.names)} {plural(len(patients.names), 'patient')}"
        say(f"Wrote '{out}': {_images(len(answers.places))}{of}.")
    elif patients is not None:
        named = [f"{name} ({_images(count)})" for name, count in zip(patients.names, patients.images, strict=True)]
        _show("patient", named, patients.decisions, patients.classes, patients.probability)
    else:
        _show("image", _names(answers), answers.decisions, answers.classes, answers.probability, answers.distance)
    say(f"{say_temperature(trained.temperature)} Research software, not a medical device.")


def _refuse_bad(answers: Answers, out: Path | None) -> None:
    """End with the images that could not be answered, if there are any."""
    if not answers.bad:
        return
    count = len(answers.places)
    kept = f"; the other {count} are in '{out}'" if out is not None else ""
    listed = "\n  ".join(answers.bad)
    raise DataError(
        f"{len(answers.bad)} of {len(answers.bad) + count} images cannot be used{kept}. Fix them or leave them out:\n "
        f" {listed}"
    )


def _foresee(
    trained: Trained, count: int, out: Path | None, *, as_json: bool, what: str, size: int | None = None
) -> None:
    """Say what a command would do with `count` images."""
    if size is None:
        # Name or key, and per class one or two numbers.
        size = 0 if out is None else count * (80 + 24 * len(trained.classes))
    seconds = trained.seconds(count)
    if as_json:
        told = {"run": str(trained.run), "out": None if out is None else str(out), "images": count}
        print_json({**told, "bytes": size, "seconds": round(seconds, 3)})
        return
    wrote = "" if out is None else f", into '{out}', about {size / 1e6:.2f} MB"
    say(plain(f"Would {what} '{trained.run}'{wrote}; about {seconds:.1f} s plus the time to read the images."))


def _images(count: int) -> str:
    return f"{count} {plural(count, 'image')}"


def _names(answers: Answers) -> list[str]:
    return [f"{place.file}" + (f" frame {place.frame}" if place.frame is not None else "") for place in answers.places]


def _show(
    what: str,
    names: Sequence[str],
    decisions: Sequence[str],
    classes: Sequence[str],
    answers: Iterable[Iterable[float]],
    distance: Iterable[float] | None = None,
) -> None:
    """Show a table of name, decision and the probability of each class."""
    rows = [[what, "prediction", *classes]]
    for name, decision, probability in zip(names, decisions, answers, strict=True):
        rows.append([name, decision, *(f"{value:.4f}" for value in probability)])
    if distance is not None:
        for row, cell in zip(
            rows, ["distance", *(f"{one:.2f}{' !' if one > 1 else ''}" for one in distance)], strict=True
        ):
            row.append(cell)
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sum(widths) + 2 * len(widths) - 2 > (columns() or math.inf):
        click.echo("\n".join(stack(rows[0], rows[1:])))
        return
    for row in rows:
        first = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        click.echo("  ".join([*first, *(cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))]))
