"""The commands that use a finished run: predict, evaluate, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..cache.errors import DataError, StudentError
from ..cache.terminal.command import Command
from ..cache.terminal.console import json_option, note, print_json, progress
from ..cache.text import plain
from ..pipeline.datasets.options import DATASET_GROUP, dataset_options, take_dataset_options

if TYPE_CHECKING:
    from .prediction import Answers
    from .trained import Trained

__all__ = ["evaluate", "export", "overwrite_option", "predict", "require_place"]

_SUFFIXES = {"onnx": ".onnx", "exported-program": ".pt2"}

# RUN, or a member of one: RUN/baseline, RUN/seed-1, RUN/domain-NAME.
run_argument = click.argument("run", type=click.Path(path_type=Path))
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace FILE, once the new one is finished.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would be done, how long it would take and how many bytes."
)
workers_option = click.option(
    "--workers", type=click.IntRange(min=0), default=None,
    help="Processes that decode images, 0 = none but this one (default: decode all at once, if they fit).",
)  # fmt: skip


@click.command(cls=Command, short_help="What a student says of images.")
@run_argument
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.csv",
    help="Write a table with probabilities and logits there, instead of showing one.",
)  # fmt: skip
@overwrite_option
@device_option
@dry_run_option
@json_option
def predict(
    run: Path, images: tuple[Path, ...], *, out: Path | None, overwrite: bool, device: str, dry_run: bool, as_json: bool
) -> None:
    """Say what the student in RUN makes of each IMAGE: files or folders of PNG, JPEG, TIFF, BMP or DICOM, every frame.

    Images are read and resized as in training. Probabilities are calibrated: logits are divided by the temperature that
    fits the run's val predictions best. Images that cannot be read are listed, all of them; the others are answered,
    and the exit status is 1. Research software, not a medical device.

    \b
    medal predict runs/chest new.png more/
    medal predict runs/chest study/ --out preds.csv
    """
    from .prediction import find_images, list_frames, predict_images, write_answers
    from .trained import open_run

    require_place(out, overwrite=overwrite)
    trained = open_run(run, device)
    files, others = find_images(images)
    if others:
        note(f"{others} file{'s' * (others > 1)} in these folders {'are' if others > 1 else 'is'} no image: left out")
    frames = list_frames(trained, files)
    if dry_run:
        _foresee(trained, len(frames), out, as_json=as_json, what=f"answer {_images(len(frames))} with")
        return
    with progress("predict", len(frames)) as advance:
        answers = predict_images(trained, frames, advance)
    count = len(answers.places)
    if out is not None and count:
        write_answers(out, answers)
    temperature = trained.temperature
    if as_json:
        print_json(
            {
                "run": str(run), "images": count, "classes": list(trained.classes), "task": trained.task,
                "temperature": temperature.to_dict(), "out": str(out) if out is not None and count else None,
                "bad": list(answers.bad), "predictions": answers.to_dicts(),
            }
        )  # fmt: skip
    elif count:
        if out is None:
            _show(answers)
        else:
            click.echo(f"Wrote '{out}': {_images(count)}.")
        source = f"fitted on {temperature.images} val predictions of the run" if temperature.images else "not fitted"
        click.echo(f"Temperature {temperature.value:g}, {source}. Research software, not a medical device.")
    if answers.bad:
        kept = f"; the other {count} are in '{out}'" if out is not None and count else ""
        listed = "\n  ".join(answers.bad)
        raise DataError(
            f"{len(answers.bad)} of {len(answers.bad) + count} images cannot be used{kept}. Mend them or leave them "
            f"out:\n  {listed}"
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
    click.echo(plain(f"Would {what} '{trained.run}'{wrote}; about {seconds:.1f} s and the reading of images."))


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"


def _show(answers: Answers) -> None:
    """Show a table of file, decision and the probability of each class."""
    names = [f"{place.file}" + (f" frame {place.frame}" if place.frame is not None else "") for place in answers.places]
    rows = [["image", "prediction", *answers.classes]]
    for name, decision, probability in zip(names, answers.decisions, answers.probability, strict=True):
        rows.append([name, decision, *(f"{value:.4f}" for value in probability)])
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        click.echo("  ".join([*first, *(cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))]))


def require_place(out: Path | None, *, overwrite: bool) -> None:
    """Refuse a place that cannot be written, or where something stands, before anything is computed."""
    if out is None:
        return
    if not out.parent.is_dir():
        raise StudentError(
            f"There is no folder '{out.parent}' to write '{out.name}' into; make it, or give another --out."
        )
    if out.exists() and not overwrite:
        raise StudentError(f"'{out}' is there already; give --overwrite to replace it, or another --out.")


@click.command(cls=Command, groups=DATASET_GROUP, short_help="Measure a student on a dataset.")
@run_argument
@click.argument("dataset")
@click.option(
    "--split", type=click.Choice(["train", "val", "test", "all"]), default=None,
    help="Rows to measure on (default: test; all, if the dataset has no splits and is not the one trained on).",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.csv",
    help="Write the predictions there, in the form of a run's predictions.csv.",
)  # fmt: skip
@overwrite_option
@device_option
@workers_option
@dry_run_option
@json_option
@dataset_options
def evaluate(
    run: Path,
    dataset: str,
    *,
    split: str | None,
    out: Path | None,
    overwrite: bool,
    device: str,
    workers: int | None,
    dry_run: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Measure the student in RUN on DATASET: an external test set, or a split of the one that it was trained on.

    The figures are those of train-student, with 95 % intervals over images, or over patients where they are known; and
    by domain where the dataset has domains. Classes are matched by name: a class that the student does not know is
    refused.

    \b
    medal evaluate runs/chest other-hospital/ --out other.csv
    medal evaluate runs/chest medmnist:pneumoniamnist --split val
    """
    options = take_dataset_options(chosen)
    from .evaluation import choose_rows, open_for
    from .evaluation import evaluate as measure
    from .trained import open_run

    require_place(out, overwrite=overwrite)
    trained = open_run(run, device)
    opened = open_for(trained, dataset, options)
    rows = choose_rows(trained, opened, split)
    if dry_run:
        what = f"measure on {_images(len(rows.rows))} ({rows.split}) of '{opened.name}'"
        _foresee(trained, len(rows.rows), out, as_json=as_json, what=what)
        return
    result = measure(trained, opened, rows, out=out, workers=workers)
    for warning in result["warnings"]:
        note(f"warning: {warning}")
    if as_json:
        print_json({"run": str(run), "dataset": opened.name, "out": None if out is None else str(out), **result})
        return
    where = "" if result["split"] == "all" else f" of '{result['split']}'"
    click.echo(plain(f"'{run}' on {_images(result['images'])}{where} in '{opened.name}':"))
    click.echo(f"  student: {_figures(result['student'])}")
    for name, figures in result["domains"].items():
        click.echo(plain(f"  in '{name}' ({figures['n']} labelled): {_figures(figures)}"))
    if result["student"]["absent"]:
        click.echo(plain(f"  left out of the mean AUROC, as it is undefined: {', '.join(result['student']['absent'])}"))
    errors = [result["student"][name] for name in ("calibration_error", "calibration_error_calibrated")]
    if None not in errors:
        click.echo(
            f"  calibration error {errors[0]:.3f}, with the run's temperature {result['temperature']['value']:g} "
            f"{errors[1]:.3f}"
        )
    if out is not None:
        click.echo(f"Wrote '{out}'.")


def _figures(scores: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} undefined"
        if scores[name] is None
        else f"{name} {scores[name]:.4f} (95 % {scores['ci95'][name][0]:.3f} to {scores['ci95'][name][1]:.3f})"
        for name in ("auroc", "accuracy")
    )


@click.command(cls=Command, groups=DATASET_GROUP, short_help="Write a student as ONNX or as an exported program.")
@run_argument
@click.argument("dataset", required=False)
@click.option(
    "--format", "form", type=click.Choice(["onnx", "exported-program"]), default="onnx", show_default=True,
    help="onnx: for onnxruntime and most others; exported-program: for torch.export.load.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="The file.")
@click.option(
    "--quantize", type=click.Choice(["int8"]), default=None,
    help="Eight bits, calibrated on train images of DATASET; what it costs on val and test is printed.",
)  # fmt: skip
@overwrite_option
@dry_run_option
@json_option
@dataset_options
def export(
    run: Path,
    dataset: str | None,
    *,
    form: Literal["onnx", "exported-program"],
    out: Path,
    quantize: str | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Write the student in RUN to one file, and check it: the same logits to 1e-4 on 64 images.

    These are images of DATASET where it is given, else random ones. The file takes RGB pixels in 0…1, "pixels" (N, 3,
    side, side) with any N, and gives "logits" (N, classes): mean and std are in it, and its metadata say how to resize,
    which class is which, and by what temperature to divide. ONNX needs pip install "medalmighty[export]".

    \b
    medal export runs/chest --out chest.onnx
    medal export runs/chest medmnist:pneumoniamnist --out chest-int8.onnx --quantize int8
    """
    options = take_dataset_options(chosen)
    from .export import export_run
    from .tables import write_value

    require_place(out, overwrite=overwrite)
    if out.suffix.lower() != _SUFFIXES[form]:
        raise StudentError(
            f"'{out}' must end in {_SUFFIXES[form]}, as what --format {form} writes is known by; give it that name, or "
            "another --format."
        )
    if quantize and (form != "onnx" or dataset is None):
        raise StudentError("--quantize int8 needs --format onnx, and a DATASET to be calibrated and measured on.")
    if dry_run:
        from .exported import foresee_bytes, require_packages
        from .trained import open_run

        require_packages(form)
        trained = open_run(run, "cpu")
        size = foresee_bytes(trained, int8=quantize is not None)
        _foresee(trained, 64, out, as_json=as_json, what=f"write {form} and check", size=size)
        return
    result = export_run(run, out, form, dataset=dataset, options=options, int8=quantize is not None)
    if as_json:
        print_json(result)
        return
    click.echo(
        f"Wrote '{out}': {result['format']}, {result['bytes'] / 1e6:.2f} MB; logits differ by at most "
        f"{result['difference']:.1g} from the student's on {result['checked']} {result['checked_on']} images."
    )
    for split, cost in (result["int8"] or {}).items():
        told = [
            f"{name} {write_value(cost['int8'][name])} ({write_value(cost['float32'][name])} in float32)"
            for name in ("accuracy", "auroc")
        ]
        same = f"{100 * cost['same_decision']:.1f} % of decisions on {_images(cost['images'])} the same"
        click.echo(f"  int8 on {split}: {', '.join(told)}, {same}")
    click.echo("Research software, not a medical device.")
