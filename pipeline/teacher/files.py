"""Finding a teacher, a local folder or a Hugging Face id, and what its files say. Imports no torch.

locate_teacher ─┬─ a folder ────────────────► its own files
                └─ an id ─► the hub's cache ─► else the hub itself, once
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...cache.errors import TeacherError
from ..views.preprocessing import Intensity, Preprocessing, Resize
from .hub import cached_snapshot, fetch_from_hub, is_known_absent
from .processor import check_channels, has_processor, read_normalisation
from .weights import CONFIG, PROCESSOR, read_json, weight_files, weights_sha256

__all__ = [
    "FAMILIES",
    "FEATURES",
    "TeacherFiles",
    "assumptions",
    "cached_teacher",
    "check_image_size",
    "default_preprocessing",
    "feature_dim",
    "is_hub_id",
    "locate_teacher",
]

# `model_type` in config.json; each is a class of transformers itself, so that no remote code is ever needed.
FAMILIES = ("dinov2", "dinov2_with_registers")

# Feature recipe → how many vectors of the model's width it joins, and how many blocks it needs (DESIGN.md, Words).
FEATURES = {"cls+mean": (2, 1), "last4": (5, 4)}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class TeacherFiles:
    """A teacher on disk, not yet loaded.

    Attributes
    ----------
    name : hub id, or the folder's last name; never a path
    revision : commit hash of a teacher from the hub, None for a local folder
    folder : where the files lie
    weights_sha256 : of the one weights file; of several, the SHA-256 of their sorted SHA-256 lines
    config : config.json
    """

    name: str
    revision: str | None
    folder: Path
    weights_sha256: str
    config: dict[str, Any]


def locate_teacher(teacher: str, revision: str | None = None) -> TeacherFiles:
    """Find a teacher's files, download them if need be, and check what can be checked without loading them.

    Parameters
    ----------
    teacher : a folder with config.json and safetensors weights, or a Hugging Face id; a folder goes first
    revision : branch, tag or commit; only for an id. The hub's local cache is asked first, so that a teacher that is
        there needs no network and stays the same

    Raises
    ------
    TeacherError
        There is no such teacher, its files are incomplete or pickles, or it is not of the DINOv2 family.
    """
    folder = Path(teacher).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise TeacherError(f"Teacher '{teacher}' is a folder, which has no revisions; leave out --revision.")
        name, revision = _name_of(folder)
        return _read_folder(folder, name, revision)
    if not _HUB_ID.fullmatch(teacher):
        raise TeacherError(
            f"Teacher '{teacher}' is neither a folder that exists nor a Hugging Face id; "
            "give a folder with config.json and model.safetensors, or an id such as facebook/dinov2-base."
        )
    folder = fetch_from_hub(teacher, revision, _check_early)
    return _read_folder(folder, teacher, folder.name)


def is_hub_id(teacher: str) -> bool:
    """Tell whether what a user gives as teacher is an id of the Hugging Face hub: no folder, but the form of one."""
    return not Path(teacher).expanduser().is_dir() and _HUB_ID.fullmatch(teacher) is not None


def cached_teacher(name: str, revision: str | None) -> TeacherFiles:
    """Find a teacher by its hub id in the hub's local cache; no folder of that name is looked at, and no network used.

    Raises
    ------
    TeacherError
        It is not there, or incomplete.
    """
    folder = cached_snapshot(name, revision) if _HUB_ID.fullmatch(name) else None
    if folder is None:
        raise TeacherError(f"Teacher '{name}' is not in the local Hugging Face cache; give a folder with --teacher.")
    return _read_folder(folder, name, folder.name)


def _name_of(folder: Path) -> tuple[str, str | None]:
    """Return name and revision of a folder, which one in the hub's cache (models--ORG--NAME/snapshots/COMMIT) has."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow links and so change the last name
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        repository = folder.parent.parent.name
        if repository.startswith("models--"):
            return repository.removeprefix("models--").replace("--", "/"), folder.name
    return folder.name, None


def _check_early(config_file: Path, teacher: str) -> None:
    """Refuse what is no DINOv2 by its config.json, before gigabytes of weights are downloaded."""
    _check_family(read_json(config_file, teacher), teacher)


def _read_folder(folder: Path, teacher: str, revision: str | None) -> TeacherFiles:
    if not (folder / CONFIG).is_file():
        raise TeacherError(
            f"Teacher '{teacher}' has no {CONFIG} (looked in '{folder}'); "
            "a teacher is a folder as transformers' save_pretrained writes it."
        )
    config = read_json(folder / CONFIG, teacher)
    _check_family(config, teacher)
    return TeacherFiles(teacher, revision, folder, weights_sha256(weight_files(folder, teacher)), config)


def _check_family(config: Mapping[str, Any], teacher: str) -> None:
    family = config.get("model_type")
    if family not in FAMILIES:
        raise TeacherError(
            f"Teacher '{teacher}' is of model_type {family!r}, expected {' or '.join(map(repr, FAMILIES))}; "
            "choose a model of the DINOv2 family, such as facebook/dinov2-base."
        )
    check_channels(config, teacher)
    for name in ("hidden_size", "num_hidden_layers", "patch_size"):
        value = config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise TeacherError(f"Teacher '{teacher}': '{name}' in {CONFIG} must be a positive number, got {value!r}.")


def feature_dim(config: Mapping[str, Any], feature: str) -> int:
    """Return F, the length of a feature of this recipe from a model with this config.json."""
    if feature not in FEATURES:
        raise TeacherError(f"Unknown feature recipe '{feature}'; known: {', '.join(FEATURES)}.")
    vectors, blocks = FEATURES[feature]
    if config["num_hidden_layers"] < blocks:
        raise TeacherError(
            f"Feature recipe '{feature}' needs {blocks} blocks, the teacher has {config['num_hidden_layers']}; "
            "use --feature cls+mean."
        )
    return vectors * int(config["hidden_size"])


def check_image_size(config: Mapping[str, Any], image_size: int) -> None:
    """Refuse a size that is no multiple of the patch: the patch embedding would silently cut the rest off."""
    patch = int(config["patch_size"])
    if image_size % patch:
        below, above = image_size // patch * patch, -(-image_size // patch) * patch
        nearest = f"{below} or {above}" if below else str(above)
        raise TeacherError(
            f"--image-size {image_size} is not a multiple of the teacher's patch size {patch}; use {nearest}."
        )


def default_preprocessing(
    files: TeacherFiles,
    *,
    image_size: int = 224,
    resize: Resize = "squash",
    intensity: Intensity = "declared",
    window: tuple[float, float] | None = None,
) -> Preprocessing:
    """Return the teacher's own normalisation with the size and resizing asked for.

    Mean and std come from its image processor's file, and are ImageNet's where there is none. Its resizing is not
    taken over: a centre crop after enlarging throws a quarter of an already cropped medical image away.
    """
    check_image_size(files.config, image_size)
    mean, std = read_normalisation(files.folder, files.name)
    try:
        return Preprocessing(
            image_size=image_size, resize=resize, intensity=intensity, mean=mean, std=std, window=window
        )
    except TeacherError as error:
        raise TeacherError(f"Teacher '{files.name}': {error}") from error


def assumptions(files: TeacherFiles) -> list[str]:
    """Return a warning where a teacher's files do not say what its features depend on."""
    if has_processor(files.folder) or is_known_absent(files.folder, PROCESSOR):
        return []
    return [
        f"teacher '{files.name}' has no {PROCESSOR} in '{files.folder}': ImageNet's mean and standard deviation are "
        "assumed, as DINOv2 itself was trained with"
    ]
