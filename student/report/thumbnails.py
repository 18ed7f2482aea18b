"""Small pictures of some images of a dataset, found by their content keys; only on request."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.join import find_keys
from ...pipeline.datasets.columns.dataset import DatasetOptions
from ...pipeline.datasets.columns.reading import as_run_read
from ...pipeline.datasets.opening import dataset_kind, open_dataset
from ...pipeline.datasets.pixels.small import draw_small
from .collecting import Recorded

__all__ = ["Draw", "draw_thumbnails"]

Draw = Callable[[npt.NDArray[Any]], bytes]

_SIDE = 144


def draw_thumbnails(
    run: Recorded, spec: str, options: DatasetOptions, keys: Sequence[str], draw: Draw | None = None
) -> dict[str, str]:
    """Return ``data:`` addresses of pictures by key, of those keys that the dataset has.

    Parameters
    ----------
    draw : makes a PNG of an image (H, W, C) as it was read; None = the image itself, as JPEG

    Raises
    ------
    DataError
        The dataset cannot be read.
    """
    dataset = open_dataset(spec, _as_trained(run, spec, options), run.classes)
    there, _ = dataset.find_keys()
    wanted = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(-1, 16)
    rows = find_keys(wanted, there)
    found = {}
    for key, row in zip(keys, rows.tolist(), strict=True):
        if row >= 0:
            pixels = dataset.images.read(row)
            found[key] = (
                draw_small(pixels, _SIDE)
                if draw is None
                else f"data:image/png;base64,{b64encode(draw(pixels)).decode()}"
            )
    return found


def _as_trained(run: Recorded, spec: str, options: DatasetOptions) -> DatasetOptions:
    """Show images as the student saw them, read as its dataset was."""
    request = run.description["request"]
    options = as_run_read(options, request.get("reading", {}), dataset_kind(spec), run.task, run.classes)
    if options.intensity == DatasetOptions.intensity and options.window is None:
        window = request["window"] if dataset_kind(spec) in ("table", "folder", "npz", "hdf5") else None
        options = replace(options, intensity=request["intensity"], window=window and tuple(window))
    return options
