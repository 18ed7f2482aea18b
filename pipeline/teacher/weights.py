"""The files a teacher is made of: which of them hold its weights, and the digest of those. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...cache.errors import TeacherError

__all__ = [
    "CONFIG",
    "INDEX",
    "PROCESSOR",
    "PROCESSOR_OF_ALL",
    "TIMM_PICKLE",
    "WEIGHTS",
    "file_sha256",
    "has_only_timm_pickle",
    "is_timm",
    "read_json",
    "shard_names",
    "weight_files",
    "weights_sha256",
]

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
PROCESSOR_OF_ALL = "processor_config.json"  # newer transformers, which put what prepares text there as well
# The only names that transformers loads.
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# What pathology models in timm's form come as; read by torch's restricted loader alone.
TIMM_PICKLE = "pytorch_model.bin"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_json(path: Path, teacher: str) -> dict[str, Any]:
    """Return the JSON object in one of a teacher's files."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"Teacher '{teacher}': '{path}' cannot be read as JSON ({error}); get the file again from its source."
        ) from error
    if not isinstance(value, dict):
        raise TeacherError(f"Teacher '{teacher}': '{path}' must hold a JSON object, got {type(value).__name__}.")
    return value


def has_only_timm_pickle(folder: Path) -> bool:
    """Tell whether a folder is of timm's form and has its weights as one pickle alone."""
    if not (folder / TIMM_PICKLE).is_file() or any(folder.glob("*.safetensors")):
        return False
    return is_timm(read_json(folder / CONFIG, folder.name))


def is_timm(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is of timm's form."""
    return "architecture" in config and "model_type" not in config


def weight_files(folder: Path, teacher: str) -> list[Path]:
    """Return the weights of a teacher, one file or all its shards, or raise TeacherError that says what is there."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder, teacher)
    other = sorted(path.name for path in folder.glob("*.safetensors"))
    if other:
        raise TeacherError(
            f"Teacher '{teacher}': expected the weights in '{WEIGHTS}' or listed in '{INDEX}', "
            f"got '{other[0]}'; rename it if it is the whole model in transformers' layout."
        )
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise TeacherError(
            f"Teacher '{teacher}' has its weights only as '{pickles[0]}', a pickle, which can run any code when it is "
            "read and is refused; where you trust it, load it with transformers and save it again with "
            "save_pretrained(folder, safe_serialization=True)."
        )
    raise TeacherError(
        f"Teacher '{teacher}' has no weights: expected '{WEIGHTS}' in '{folder}'; "
        "copy it there, or name a Hugging Face id that has safetensors weights."
    )


def shard_names(folder: Path, teacher: str) -> list[str]:
    """Return the names of the weights files that the index in a folder lists, each a plain name."""
    index = read_json(folder / INDEX, teacher).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise TeacherError(f"Teacher '{teacher}': '{INDEX}' lists no weights; get the file again from its source.")
    names = sorted({str(name) for name in index.values()})
    # A name with a folder in it could point anywhere on this machine.
    strange = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if strange:
        raise TeacherError(
            f"Teacher '{teacher}': '{INDEX}' names '{strange[0]}', expected a .safetensors file beside it; "
            "get the file again from its source."
        )
    return names


def _shards(folder: Path, teacher: str) -> list[Path]:
    names = shard_names(folder, teacher)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise TeacherError(
            f"Teacher '{teacher}' lacks {len(missing)} of the {len(names)} weights files that '{INDEX}' lists, "
            f"first '{missing[0]}'; copy them to '{folder}'."
        )
    return [folder / name for name in names]


def weights_sha256(files: list[Path]) -> str:
    """Return the SHA-256 of one weights file, or of several the SHA-256 of their sorted SHA-256 lines."""
    digests = [file_sha256(path) for path in files]
    if len(digests) == 1:
        return digests[0]
    return sha256("".join(f"{digest}\n" for digest in sorted(digests)).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
