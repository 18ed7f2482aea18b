"""Finding a teacher, a local folder or a Hugging Face id, and what its files say. Imports no torch.

locate_teacher ─┬─ a folder ────────────────► its own files
                ├─ a checkpoint that is a pickle ─► a folder of safetensors made from it
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
from ..views.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Intensity, Preprocessing, Resize
from .forms.checkpoint import CHECKPOINTS, keep_checkpoint, keep_timm
from .forms.form import Form
from .forms.huggingface import HuggingFace
from .forms.timm_vit import TIMM, TimmVit
from .hub import cached_snapshot, fetch_from_hub, is_known_absent
from .processor import check_channels
from .weights import CONFIG, PROCESSOR, has_only_timm_pickle, is_timm, read_json, weight_files, weights_sha256

__all__ = [
    "FEATURES",
    "TeacherFiles",
    "assumptions",
    "cached_teacher",
    "check_image_size",
    "default_preprocessing",
    "feature_dim",
    "fitting_features",
    "form_of",
    "is_hub_id",
    "locate_teacher",
]

# Feature recipe → how many vectors of the model's width it joins, and how many blocks it needs; the best is last
# (DESIGN.md, Words).
FEATURES = {"cls+mean": (2, 1), "last4": (5, 4)}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# As timm's users write them.
_PREFIXES = ("hf-hub:", "local-dir:")
_HUGGING_FACE, _TIMM = HuggingFace(), TimmVit()


@dataclass(frozen=True)
class TeacherFiles:
    """A teacher on disk, not yet loaded.

    Attributes
    ----------
    name : hub id, or the folder's last name; never a path
    revision : commit hash of a teacher from the hub, None for a local folder
    folder : where the files lie
    weights_sha256 : of the one weights file; of several, the SHA-256 of their sorted SHA-256 lines
    config : config.json, in a form that has no such names with what `Form.describe` adds
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
    teacher : a folder with config.json and safetensors weights, a checkpoint of DINOv2's own code, or a Hugging Face
        id; a folder goes first
    revision : branch, tag or commit; only for an id. The hub's local cache is asked first, so that a teacher that is
        there needs no network and stays the same

    Raises
    ------
    TeacherError
        There is no such teacher, its files are incomplete or pickles, or it is not of the DINOv2 family.
    """
    teacher = _plain(teacher)
    folder = Path(teacher).expanduser()
    if folder.is_file() and folder.suffix in CHECKPOINTS:
        return _read_folder(keep_checkpoint(folder, folder.stem), folder.stem, None)
    if folder.is_dir():
        if revision is not None:
            raise TeacherError(f"Teacher '{teacher}' is a folder, which has no revisions; leave out --revision.")
        name, revision = _name_of(folder)
        return _read_folder(folder, name, revision)
    if not _HUB_ID.fullmatch(teacher):
        raise TeacherError(
            f"Teacher '{teacher}' is neither a folder that exists nor a Hugging Face id; "
            "give a folder with config.json and model.safetensors, a .pth file of DINOv2, or an id such as "
            "facebook/dinov2-base."
        )
    folder = fetch_from_hub(teacher, revision, _check_early)
    return _read_folder(folder, teacher, folder.name)


def is_hub_id(teacher: str) -> bool:
    """Tell whether what a user gives as teacher is an id of the Hugging Face hub: no folder, but the form of one."""
    teacher = _plain(teacher)
    return not Path(teacher).expanduser().exists() and _HUB_ID.fullmatch(teacher) is not None


def _plain(teacher: str) -> str:
    for prefix in _PREFIXES:
        teacher = teacher.removeprefix(prefix)
    return teacher


def form_of(config: Mapping[str, Any]) -> Form:
    """Return the adapter of a teacher with this config.json."""
    return _TIMM if is_timm(config) or config.get("model_type") == TIMM else _HUGGING_FACE


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
    config = read_json(config_file, teacher)
    form_of(config).check_config(config, teacher)


def _read_folder(folder: Path, teacher: str, revision: str | None) -> TeacherFiles:
    if not (folder / CONFIG).is_file():
        raise TeacherError(
            f"Teacher '{teacher}' has no {CONFIG} (looked in '{folder}'); "
            "a teacher is a folder as transformers' save_pretrained or timm's save_for_hf writes it."
        )
    config = read_json(folder / CONFIG, teacher)
    form = form_of(config)
    form.check_config(config, teacher)
    if has_only_timm_pickle(folder):
        folder = keep_timm(folder, teacher)
    weights = weight_files(folder, teacher)
    config = form.describe(config, folder, teacher)
    check_channels(config, teacher)
    for name in ("hidden_size", "num_hidden_layers", "patch_size"):
        value = config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise TeacherError(f"Teacher '{teacher}': '{name}' in {CONFIG} must be a positive number, got {value!r}.")
    return TeacherFiles(teacher, revision, folder, weights_sha256(weights), config)


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


def fitting_features(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the feature recipes that a model with this config.json has blocks for, the best last.

    On val of ten medical sets `last4` was ahead of `cls+mean` with few labels and with all (docs/PROBES.md).
    """
    return tuple(name for name, (_, blocks) in FEATURES.items() if config["num_hidden_layers"] >= blocks)


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

    Mean and std come from the teacher's files, and are ImageNet's where they say none. Its resizing is not
    taken over: a centre crop after enlarging throws a quarter of an already cropped medical image away.
    """
    check_image_size(files.config, image_size)
    mean, std = _normalisation(files) or (IMAGENET_MEAN, IMAGENET_STD)
    try:
        return Preprocessing(
            image_size=image_size, resize=resize, intensity=intensity, mean=mean, std=std, window=window
        )
    except TeacherError as error:
        raise TeacherError(f"Teacher '{files.name}': {error}") from error


def assumptions(files: TeacherFiles) -> list[str]:
    """Return a warning where a teacher's files do not say what its features depend on."""
    if _normalisation(files) is not None or is_known_absent(files.folder, PROCESSOR):
        return []
    lacking = f"says no 'mean' in {CONFIG}" if files.config["model_type"] == TIMM else f"has no {PROCESSOR}"
    return [
        f"teacher '{files.name}' {lacking} in '{files.folder}': ImageNet's mean and standard deviation are "
        "assumed, as DINOv2 itself was trained with"
    ]


def _normalisation(files: TeacherFiles) -> tuple[Any, Any] | None:
    return form_of(files.config).normalisation(files.config, files.folder, files.name)
