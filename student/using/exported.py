"""A student in one file that other programs run, ONNX or torch's exported program, and the check that it is the same.

The file takes RGB pixels in 0…1 at the student's size, ``pixels`` (N, 3, S, S) float32 with any N, and gives
``logits`` (N, C). Mean and std are part of the graph, so that nobody can forget them; resizing is not, and is described
in the metadata with class names and temperature.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...cache.errors import StudentError
from ...cache.text import plural
from ..figures.temperature import describe_temperature
from .trained import NOTICE, Trained

__all__ = [
    "CHECKED",
    "METADATA",
    "Classifier",
    "Format",
    "compare",
    "describe",
    "export_draft",
    "foresee_bytes",
    "open_exported",
    "require_packages",
    "write_export",
]

Format = Literal["onnx", "exported-program"]
# The key of the metadata, a JSON object, in either kind of file.
METADATA = "medal"
# Images that the file is compared with the student on.
CHECKED = 64

# The difference allowed between the file's logits and the student's; float32 sums in another order differ less.
_ATOL, _RTOL = 1e-4, 1e-5
_EXAMPLES = 2  # one would be taken for a constant

Pixels = npt.NDArray[np.float32]
Run = Callable[[Pixels], npt.NDArray[np.float32]]


class Classifier(nn.Module):
    """A student that takes pixels in 0…1: its mean and std belong to it."""

    mean: Tensor
    std: Tensor

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model = trained.model.cpu()
        for name in ("mean", "std"):
            values = getattr(trained.preprocessing, name)
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (N, C) of pixels (N, 3, S, S) in 0…1."""
        logits: Tensor = self.model((pixels - self.mean) / self.std)
        return logits


def describe(trained: Trained) -> dict[str, Any]:
    """Return a file's metadata: everything needed to feed it and to read its output."""
    preprocessing = trained.preprocessing
    size = preprocessing.image_size
    return {
        "notice": NOTICE,
        "medal": version("medalmighty"),
        "architecture": trained.architecture,
        "task": trained.task,
        "class_names": list(trained.classes),
        "temperature": describe_temperature(trained.temperature),
        "probability": ("softmax" if trained.task == "multiclass" else "sigmoid") + "(logits / temperature)",
        "input": {
            "name": "pixels",
            "shape": ["batch", 3, size, size],
            "range": [0, 1],
            "channels": "RGB, grey images repeated three times",
            "resize": preprocessing.resize,
            "interpolation": "bicubic, antialiased",
            "intensity": preprocessing.intensity,
            "window": None if preprocessing.window is None else list(preprocessing.window),
            "mean_and_std_in_the_graph": [list(preprocessing.mean), list(preprocessing.std)],
        },
        "trained_on": {
            name: trained.description.get("cache", {}).get(name) for name in ("dataset", "teacher", "cache_id")
        },
    }


def require_packages(form: Format) -> None:
    """Refuse ONNX where its packages are not installed.

    Raises
    ------
    StudentError
        With the command that installs them.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if form == "onnx" and find_spec(name) is None]
    if missing:
        raise StudentError(
            f"--format onnx needs {', '.join(missing)}, which {plural(len(missing), 'is', 'are')} not installed; "
            'pip install "medalmighty[export]", or give --format exported-program.'
        )


def foresee_bytes(trained: Trained, *, int8: bool) -> int:
    """Return about how large a file will be: four bytes a weight, or one."""
    weights = sum(int(value.numel()) for value in trained.model.state_dict().values())
    return weights * (1 if int8 else 4)


def export_draft(path: Path) -> Path:
    """Return the name of a file's draft with the file's suffix, which torch and ONNX go by."""
    return path.with_name(f".{path.stem}.part{path.suffix}")


def write_export(trained: Trained, draft: Path, form: Format, pixels: Pixels | None) -> float:
    """Write a student to a file, load that again and compare it with the student; return the largest difference.

    Parameters
    ----------
    pixels : images to compare on, (N, 3, S, S) in 0…1; None = random ones

    Raises
    ------
    StudentError
        The architecture cannot be exported, or the file does not give the student's logits.
    """
    model, size = Classifier(trained).eval(), trained.preprocessing.image_size
    example = torch.rand(_EXAMPLES, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        _WRITERS[form](model, example, draft, describe(trained))
    # An exporter may raise any exception for layers it does not support.
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise StudentError(
            f"'{trained.architecture}' could not be written as {form}: {first}. Try the other --format."
        ) from error
    if pixels is None:
        pixels = np.random.default_rng(0).random((CHECKED, 3, size, size), np.float32)
    return compare(model, open_exported(draft, form), pixels[:CHECKED], trained, form)


def open_exported(path: Path, form: Format, threads: int | None = None) -> Run:
    """Return a function from pixels (N, 3, S, S) in 0…1 to logits (N, C), computed by the file's own runtime."""
    if form == "exported-program":
        program = torch.export.load(path).module()

        def answer(pixels: Pixels) -> npt.NDArray[np.float32]:
            with torch.inference_mode():
                return np.asarray(program(torch.from_numpy(pixels)).numpy())

        return answer
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run(["logits"], {"pixels": pixels})[0])


def compare(model: Classifier, run: Run, pixels: Pixels, trained: Trained, form: Format) -> float:
    """Return the largest difference between a file's logits and the student's on some pixels (N, 3, S, S) in 0…1.

    Raises
    ------
    StudentError
        It is larger than 1e-4 and not for the size of the logits.
    """
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels)).numpy()
    # One image, then the others: a batch of another size than the example's must do as well.
    found = np.concatenate([run(part) for part in (pixels[:1], pixels[1:]) if len(part)])
    difference = float(np.abs(found - expected).max())
    if not np.allclose(found, expected, rtol=_RTOL, atol=_ATOL):
        raise StudentError(
            f"The {form} file of '{trained.run}' gives different logits from the student: up to {difference:.2g} "
            f"apart on {len(pixels)} images, expected at most {_ATOL:g}; it was not kept. Try the other --format."
        )
    return difference


def _write_onnx(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    # The exporter tells its steps on stdout, which is for results.
    with redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            model.eval(),
            (example,),
            input_names=["pixels"],
            output_names=["logits"],
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None  # noqa: S101 - with dynamo there always is one
    program.model.doc_string = NOTICE
    program.model.producer_name = "medal"
    program.model.metadata_props[METADATA] = json.dumps(metadata, ensure_ascii=False)
    program.model.metadata_props["notice"] = NOTICE
    program.save(path)


def _write_program(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, Any]) -> None:
    program = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    # An example would be the only pickle in the file.
    program.example_inputs = None
    torch.export.save(program, path, extra_files={f"{METADATA}.json": json.dumps(metadata, ensure_ascii=False)})


_WRITERS: dict[Format, Callable[[nn.Module, Tensor, Path, Mapping[str, Any]], None]] = {
    "onnx": _write_onnx,
    "exported-program": _write_program,
}
