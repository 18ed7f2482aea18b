"""Writing a teacher's folder, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .weights import CONFIG, PROCESSOR, WEIGHTS

__all__ = ["PROCESSOR_OF_DINOV2", "write_teacher"]

PROCESSOR_OF_DINOV2 = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def write_teacher(
    folder: Path,
    tensors: Mapping[str, npt.NDArray[np.float32]],
    config: Mapping[str, Any],
    source: str,
    processor: Mapping[str, Any] | None = None,
) -> Path:
    """Write a teacher's folder beside its place, then rename it there."""
    from safetensors.numpy import save

    scratch = folder.with_name(f".{folder.name}-{os.getpid()}")
    scratch.mkdir(parents=True)
    try:
        # Not save_file: that makes the file private to its owner, and a lab may share MEDAL_HOME.
        (scratch / WEIGHTS).write_bytes(save(dict(tensors), metadata={"format": "pt"}))
        described = {CONFIG: config} if processor is None else {CONFIG: config, PROCESSOR: processor}
        for name, content in described.items():
            (scratch / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (scratch / "SOURCE.txt").write_text(source, encoding="utf-8")
        try:
            scratch.rename(folder)
        except OSError:
            # Another process may have been quicker, with the same content.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
