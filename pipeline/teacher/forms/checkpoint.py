"""Checkpoints that are pickles, read once by torch's restricted loader and kept as safetensors.

a .pth of DINOv2's own code ─► named as transformers names it ─┐
                                                               ├─► MEDAL_HOME/teachers/NAME-SHA256
a timm folder with a .bin alone ───────────────────────────────┘

The restricted loader (``weights_only=True``) makes tensors and plain containers, and refuses whatever else a pickle
would have it run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ....cache.errors import TeacherError
from ....cache.machine.home import home_folder
from ..weights import CONFIG, TIMM_PICKLE, WEIGHTS, file_sha256
from ..writing import PROCESSOR_OF_DINOV2, write_teacher

__all__ = ["CHECKPOINTS", "keep_checkpoint", "keep_timm"]

CHECKPOINTS = (".pth", ".pt", ".bin")

# Where training code puts the backbone: the first that is there is opened, and these prefixes are taken off.
_INSIDE = ("teacher", "model", "state_dict")
_PREFIXES = ("module.", "backbone.")
_HEAD = 64  # width of a head in all of DINOv2

_NAMES = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
}
# Chunks of blocks, which DINOv2's larger models are trained in, put a number before the block's own.
_BLOCK = re.compile(r"blocks\.(?:\d+\.)?(\d+)\.(.+?)(\.weight|\.bias)?$")


def keep_checkpoint(path: Path, teacher: str) -> Path:
    """Return the folder, in transformers' form, of a checkpoint of DINOv2's own code; made on first use.

    Raises
    ------
    TeacherError
        It holds more than tensors, or those of another model.
    """
    folder = _place(path)
    if not (folder / WEIGHTS).is_file():
        tensors = _renamed(_backbone_of(_read(path, teacher)))
        try:
            config = _config(tensors)
        except KeyError as error:
            raise TeacherError(
                f"Teacher '{teacher}' is no checkpoint of DINOv2's own code: it lacks {error} under the name there; a "
                "checkpoint of timm needs the folder with its config.json, DINOv3 its form on the Hugging Face hub."
            ) from error
        write_teacher(folder, tensors, config, _source(path), PROCESSOR_OF_DINOV2)
    return folder


def keep_timm(folder: Path, teacher: str) -> Path:
    """Return a folder like this one of timm's form with safetensors for its one pickle; made on first use."""
    path = folder / TIMM_PICKLE
    kept = _place(path, folder.name)
    if not (kept / WEIGHTS).is_file():
        tensors = _read(path, teacher)
        config = json.loads((folder / CONFIG).read_bytes())
        write_teacher(kept, {name: value.numpy() for name, value in tensors.items()}, config, _source(path))
    return kept


def _place(path: Path, name: str | None = None) -> Path:
    return home_folder() / "teachers" / f"{name or path.stem}-{file_sha256(path)[:16]}"


def _source(path: Path) -> str:
    return f"Made from '{path.name}', SHA-256 {file_sha256(path)}, by torch.load(weights_only=True).\n"


def _read(path: Path, teacher: str) -> dict[str, Any]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TeacherError(
            f"Teacher '{teacher}': '{path.name}' is not read: torch's restricted loader, which makes tensors and runs "
            f"no code, refuses it ({type(error).__name__}); save its state_dict alone, or take a safetensors file."
        ) from error
    for name in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping):
        raise TeacherError(
            f"Teacher '{teacher}': '{path.name}' holds a {type(found).__name__}, expected a state_dict; save its "
            "state_dict alone."
        )
    return {str(name): value.float() for name, value in found.items() if isinstance(value, torch.Tensor)}


def _backbone_of(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of the backbone, without the prefixes that training code puts before them."""
    for prefix in _PREFIXES:
        inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        tensors = inside or tensors
    return dict(tensors)


def _renamed(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors, as arrays, under the names that transformers has for them."""
    found = {}
    for name, value in tensors.items():
        block = _BLOCK.fullmatch(name)
        place, part, end = (f"encoder.layer.{block[1]}.", block[2], block[3] or "") if block else ("", *_split(name))
        if part == "attn.qkv":
            for third, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[f"{place}attention.attention.{third}{end}"] = rows.contiguous().numpy()
        elif not part.startswith("head"):
            found[f"{place}{_NAMES.get(part, part)}{end}"] = value.numpy()
    return found


def _split(name: str) -> tuple[str, str]:
    part, dot, end = name.rpartition(".")
    return (part, dot + end) if end in {"weight", "bias"} else (name, "")


def _config(tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Return config.json for the model that these tensors are of, by their shapes.

    Raises
    ------
    KeyError
        A tensor is not there.
    """
    projection = tensors["embeddings.patch_embeddings.projection.weight"]
    positions = tensors["embeddings.position_embeddings"].shape[1]
    width, channels, _, patch = projection.shape
    gated = "encoder.layer.0.mlp.weights_in.weight" in tensors
    config = {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")}),
        "num_attention_heads": max(1, width // _HEAD),
        # Of a gated MLP transformers takes two thirds of it; DINOv2 has no other.
        "mlp_ratio": 4 if gated else tensors["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
        "patch_size": patch,
        "image_size": math.isqrt(positions - 1) * patch,
        "num_channels": channels,
        "qkv_bias": "encoder.layer.0.attention.attention.query.bias" in tensors,
        "use_swiglu_ffn": gated,
        "layer_norm_eps": 1e-6,
    }
    if "embeddings.register_tokens" in tensors:
        config |= {
            "architectures": ["Dinov2WithRegistersModel"],
            "model_type": "dinov2_with_registers",
            "num_register_tokens": tensors["embeddings.register_tokens"].shape[1],
        }
    return config
