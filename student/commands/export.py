"""The command export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ...cache.errors import StudentError
from ...cache.terminal.command import Command
from ...cache.terminal.console import json_option, print_json, say
from ...pipeline.datasets.options import DATASET_GROUP, dataset_options, take_dataset_options

if TYPE_CHECKING:
    pass
from .options import dry_run_option, overwrite_option, require_place, run_argument
from .predict import _SUFFIXES, _foresee, _images

__all__ = ["export"]


@click.command(cls=Command, groups=DATASET_GROUP, short_help="Write a student as ONNX or as an exported program.")
@run_argument
@click.argument("dataset", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["onnx", "exported-program"]),
    default="onnx",
    help="onnx: for onnxruntime and most others; exported-program: for torch.export.load.",
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="The file.")
@click.option(
    "--quantize",
    type=click.Choice(["int8"]),
    default=None,
    help="Quantize to 8 bits, calibrated on train images of DATASET; prints the loss on val and test.",
)
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
    from ..figures.tables import write_value
    from ..using.export import export_run

    require_place(out, overwrite=overwrite)
    if out.suffix.lower() != _SUFFIXES[form]:
        raise StudentError(
            f"'{out}' must end in {_SUFFIXES[form]}, the suffix of --format {form}; rename it, or give another "
            "--format."
        )
    if quantize and (form != "onnx" or dataset is None):
        raise StudentError("--quantize int8 needs --format onnx, and a DATASET for calibration and measurement.")
    if dry_run:
        from ..using.exported import foresee_bytes, require_packages
        from ..using.trained import open_run

        require_packages(form)
        trained = open_run(run, "cpu")
        size = foresee_bytes(trained, int8=quantize is not None)
        _foresee(trained, 64, out, as_json=as_json, what=f"write {form} and check", size=size)
        return
    result = export_run(run, out, form, dataset=dataset, options=options, int8=quantize is not None)
    if as_json:
        print_json(result)
        return
    say(
        f"Wrote '{out}': {result['format']}, {result['bytes'] / 1e6:.2f} MB; logits differ by at most "
        f"{result['difference']:.1g} from the student's on {result['checked']} {result['checked_on']} images."
    )
    for split, cost in (result["int8"] or {}).items():
        told = [
            f"{name} {write_value(cost['int8'][name])} ({write_value(cost['float32'][name])} in float32)"
            for name in ("accuracy", "auroc")
        ]
        same = f"{100 * cost['same_decision']:.1f} % of decisions on {_images(cost['images'])} the same"
        say(f"  int8 on {split}: {', '.join(told)}, {same}")
    click.echo("Research software, not a medical device.")
