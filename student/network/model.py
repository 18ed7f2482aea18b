"""Students: any timm model, with random, timm's own or given weights, and the folder form that timm reads back."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import PretrainedCfg
from torch import Tensor, nn

from ...cache.errors import StudentError, first_line
from ...pipeline.hub import TIMEOUT_SECONDS, ask_hub
from ...pipeline.views.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Resize

__all__ = ["ModelSpec", "build_model", "choose_weights", "describe_model", "model_config"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# What timm looks for on the hub, in this order.
_HUB_WEIGHTS = (WEIGHTS, "pytorch_model.bin")
_CROP_MODES: dict[Resize, str] = {"squash": "squash", "pad": "border", "crop": "center"}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What is known of a timm model before it is built.

    Attributes
    ----------
    image_size : side of its own input in pixels
    fixed_size : the architecture is built for one input size (a ViT)
    mean, std : three numbers each, of channels in 0…1
    """

    name: str
    image_size: int
    fixed_size: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def describe_model(name: str, weights: str) -> ModelSpec:
    """Look a model up, and check that the weights asked for can be there.

    Raises
    ------
    StudentError
        timm has no such model, or the weights are no folder in timm's form and no .safetensors file.
    """
    own = _own_config(name)
    config: Mapping[str, Any] = asdict(own) if own else {}
    if weights not in ("random", "pretrained"):
        config = {**config, **_folder_config(name, Path(weights)).get("pretrained_cfg", {})}
    return ModelSpec(
        name=name,
        image_size=int(config.get("input_size", (3, 224, 224))[-1]),
        fixed_size=bool(config.get("fixed_input_size")),
        mean=tuple(config.get("mean", IMAGENET_MEAN)),
        std=tuple(config.get("std", IMAGENET_STD)),
    )


def choose_weights(name: str, weights: str) -> str:
    """Return ``pretrained`` or ``random`` for ``auto``: timm's own weights if the hub's local cache has them.

    Nothing is fetched for it: what a training starts from does not depend on how the network is at the moment.
    """
    if weights != "auto":
        return weights
    repository = timm.models.get_pretrained_cfg_value(name, "hf_hub_id") if timm.is_model(name) else None
    return "pretrained" if repository and _in_hub_cache(repository) else "random"


def build_model(spec: ModelSpec, weights: str, classes: int, image_size: int) -> nn.Module:
    """Build a student with a head of `classes` outputs; random parts are drawn from torch's generator.

    Raises
    ------
    StudentError
        The weights cannot be had, or are not this model's.
    """
    if weights == "pretrained":
        _ask_for_weights(spec.name)
    arguments: dict[str, Any] = {"img_size": image_size} if spec.fixed_size and image_size != spec.image_size else {}
    try:
        model: nn.Module = timm.create_model(
            spec.name, pretrained=weights == "pretrained", num_classes=classes, **arguments
        )
    # timm and the hub raise whatever their layers do: no network, no such tag, a size the architecture cannot take.
    except Exception as error:
        raise StudentError(
            f"timm could not make '{spec.name}' with {weights} weights for {image_size} px: "
            f"{first_line(error)}. Give --student-weights random or a folder, or another --image-size."
        ) from error
    if weights not in ("random", "pretrained"):
        _load(model, spec.name, Path(weights))
    elif weights == "pretrained" and classes != (timm.models.get_pretrained_cfg_value(spec.name, "num_classes") or 0):
        _silence(model)
    return model


def model_config(
    spec: ModelSpec, model: nn.Module, classes: tuple[str, ...], image_size: int, resize: Resize
) -> dict[str, Any]:
    """Return config.json in timm's form, so that ``timm.create_model("local-dir:RUN", pretrained=True)`` works."""
    own: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    kept = ("tag", "classifier", "first_conv", "fixed_input_size", "license")
    size = [3, image_size, image_size]
    config: dict[str, Any] = {
        "architecture": spec.name.split(".", maxsplit=1)[0],
        "num_classes": len(classes),
        "num_features": model.num_features,
        "label_names": list(classes),
        "pretrained_cfg": {name: own[name] for name in kept if own.get(name) is not None}
        | {
            "num_classes": len(classes),
            "input_size": size,
            "mean": list(spec.mean),
            "std": list(spec.std),
            # What timm calls the cache's way of resizing, so that its own transforms do what the training did.
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": _CROP_MODES[resize],
            "custom_load": False,
        },
    }
    if spec.fixed_size and image_size != spec.image_size:
        config["model_args"] = {"img_size": image_size}
    return config


def _ask_for_weights(name: str) -> None:
    """Refuse weights that are neither in the hub's local cache nor to be had, for which timm would ask for a minute."""
    repository = timm.models.get_pretrained_cfg_value(name, "hf_hub_id")
    if not repository or _in_hub_cache(repository):
        return
    try:
        ask_hub(repository, CONFIG, seconds=TIMEOUT_SECONDS)
    # The hub's tree, its client's, the operating system's: which one depends on the library's version.
    except Exception as error:
        raise StudentError(
            f"The weights of '{name}' are not in the local Hugging Face cache, and the hub gives none "
            f"({first_line(error)}). Give --student-weights random, or the folder of a copy."
        ) from error


def _in_hub_cache(repository: str) -> bool:
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in _HUB_WEIGHTS)


def _own_config(name: str) -> PretrainedCfg | None:
    try:
        if timm.is_model(name):
            return timm.models.get_pretrained_cfg(name)
        cause = None
    except RuntimeError as error:  # a known architecture with an unknown tag
        cause = error
    raise StudentError(f"timm has no model '{name}'.{_closest(name)} `timm.list_models()` lists them all.") from cause


def _closest(name: str) -> str:
    known = timm.list_models()
    bare = name.split(".", maxsplit=1)[0]
    if bare in known:
        tags = ", ".join(f"'{found}'" for found in timm.list_pretrained(f"{bare}.*")[:5])
        return f" '{bare}' exists, with the tags {tags}." if tags else f" '{bare}' is one."
    close = difflib.get_close_matches(bare.lower(), known, n=3, cutoff=0.5)
    return f" The closest are {', '.join(repr(found) for found in close)}." if close else ""


def _folder_config(name: str, place: Path) -> dict[str, Any]:
    """Return what a weights folder says of itself; a bare file says nothing."""
    if place.is_file():
        return {}
    if not place.is_dir():
        raise StudentError(
            f"There are no student weights at '{place}'; --student-weights is random, pretrained, a folder with "
            f"{CONFIG} and {WEIGHTS}, or a .safetensors file."
        )
    for part in (CONFIG, WEIGHTS):
        if not (place / part).is_file():
            raise StudentError(
                f"The weights folder '{place}' has no {part}; a folder in timm's form has {CONFIG} and {WEIGHTS}."
            )
    try:
        config = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        architecture = config.get("architecture")
    except (ValueError, AttributeError) as error:
        raise StudentError(
            f"'{place / CONFIG}' is not the config.json of a timm model: {first_line(error)}."
        ) from error
    if architecture != name.split(".", maxsplit=1)[0]:
        raise StudentError(
            f"The weights in '{place}' are of '{architecture}', the student is '{name}'. Give --student {architecture}."
        )
    return dict(config)


def _load(model: nn.Module, name: str, place: Path) -> None:
    """Load weights strictly, but for a classifier of another number of classes, which starts at zero."""
    file = place / WEIGHTS if place.is_dir() else place
    if file.suffix != ".safetensors":
        raise StudentError(
            f"'{file}' is not a .safetensors file, the only form of weights that medal reads; convert it."
        )
    try:
        weights: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise StudentError(f"The weights '{file}' cannot be read: {first_line(error)}.") from error
    own = model.state_dict()
    heads = tuple(f"{name}." for name in _classifiers(model))
    replaced = [key for key in weights if key.startswith(heads) and key in own and weights[key].shape != own[key].shape]
    for key in replaced:
        weights[key] = own[key]
    wrong = sorted(set(weights) ^ set(own)) + sorted(
        key for key in set(weights) & set(own) if weights[key].shape != own[key].shape
    )
    if wrong:
        raise StudentError(
            f"The weights '{file}' do not fit '{name}': {len(wrong)} of {len(own)} tensors are missing, unknown or of "
            f"another shape, for example '{wrong[0]}'."
        )
    model.load_state_dict(weights)
    if replaced:
        _silence(model)


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    names = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr,operator]
    return (names,) if isinstance(names, str) else tuple(names)


def _silence(model: nn.Module) -> None:
    """Set a new classifier on trained features to zero: it starts with no opinion.

    timm draws some heads so wide that the first epochs go into unlearning them: an efficientnet began at a loss of 4
    on three classes, and had val AUROC .74 after four epochs of breast ultrasound where a zero head had .82.
    """
    with torch.no_grad():
        for name in _classifiers(model):
            for value in model.get_submodule(name).parameters():
                value.zero_()
