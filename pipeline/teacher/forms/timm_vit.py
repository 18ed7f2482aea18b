"""Teachers in timm's form: a vision transformer's `config.json` with `architecture`, its weights as safetensors.

Pathology models leave out of config.json what their pages tell users to pass in code (UNI2-h, Virchow2, H0-mini). So
whatever the weights' shapes say is read from there, and only the rest from config.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....cache.errors import TeacherError
from ..weights import weight_files
from .form import Backbone, Form, in_short

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TIMM", "TimmVit"]

TIMM = "timm"  # as `model_type`, which timm's own config.json has not

# Settings that shapes do not tell. Others could name files: config.json comes from strangers.
_TAKEN = ("num_heads", "act_layer", "norm_layer")
_HEAD = 64  # width of a head in all of DINOv2, and in what was trained with its code


class TimmVit(Form):
    """A folder as timm's `save_for_hf` writes it."""

    def check_config(self, config: Mapping[str, Any], teacher: str) -> None:
        """Refuse what is no vision transformer."""
        architecture = config.get("architecture")
        if not isinstance(architecture, str) or not architecture.startswith("vit_"):
            raise TeacherError(
                f"Teacher '{teacher}' is of timm's architecture {architecture!r}, expected a vision transformer "
                "('vit_…'); choose a model of the DINOv2 family, such as timm/vit_base_patch14_dinov2.lvd142m."
            )

    def describe(self, config: Mapping[str, Any], folder: Path, teacher: str) -> dict[str, Any]:
        """Return config.json and what the shapes of the weights say."""
        arguments = _arguments(_shapes(folder, teacher), teacher)
        return {
            **config,
            "model_type": TIMM,
            "hidden_size": arguments["embed_dim"],
            "num_hidden_layers": arguments["depth"],
            "patch_size": arguments["patch_size"],
            "num_channels": arguments["in_chans"],
        }

    def normalisation(
        self,
        config: Mapping[str, Any],
        folder: Path,  # noqa: ARG002
        teacher: str,  # noqa: ARG002
    ) -> tuple[Any, Any] | None:
        """Return `mean` and `std` of `pretrained_cfg`, which older files have outside it."""
        said = config.get("pretrained_cfg")
        said = {**config, **said} if isinstance(said, Mapping) else config
        return (said["mean"], said["std"]) if "mean" in said and "std" in said else None

    def load(self, config: Mapping[str, Any], folder: Path, teacher: str) -> Backbone:
        """Load it with timm."""
        import timm
        from safetensors.torch import load_file
        from timm.layers.mlp import SwiGLUPacked
        from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
        from torch import nn

        arguments = _arguments(_shapes(folder, teacher), teacher)
        said = config.get("model_args")
        taken = {name: said[name] for name in _TAKEN if name in said} if isinstance(said, Mapping) else {}
        if arguments.pop("gated"):
            arguments |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
            taken.pop("act_layer", None)
        name = config["architecture"].split(".")[0]
        try:
            taken.setdefault("num_heads", _heads(name, arguments["embed_dim"]))
            model: Any = timm.create_model(
                name, **arguments, **taken, num_classes=0, global_pool="token", dynamic_img_size=True
            )
            weights: dict[str, Any] = {}
            for path in weight_files(folder, teacher):
                weights |= load_file(path)
            fitting = checkpoint_filter_fn(weights, model)
            # A fine-tuned checkpoint's own classifier is not what we want from it.
            model.load_state_dict({key: value for key, value in fitting.items() if not key.startswith("head.")})
        except Exception as error:
            raise TeacherError(
                f"Teacher '{teacher}' cannot be loaded from '{folder}' as timm's '{name}' ({in_short(error)}); get "
                "config.json and weights from the same source."
            ) from error
        if not isinstance(model, VisionTransformer):
            raise TeacherError(
                f"Teacher '{teacher}': timm's '{name}' is a {type(model).__name__}, expected a VisionTransformer; "
                "choose a model of the DINOv2 family."
            )
        return _backbone(model)


def _backbone(model: Any) -> Backbone:
    def read(inputs: Tensor, deep: bool) -> tuple[list[Tensor], Tensor]:
        if not deep:
            return [], model.forward_features(inputs)
        tokens, found = model.forward_intermediates(
            inputs, indices=4, return_prefix_tokens=True, norm=True, output_fmt="NLC"
        )
        return [before[:, 0] for _, before in found[:-1]], tokens

    return Backbone(
        model=model,
        read=read,
        first_patch=model.num_prefix_tokens,
        blocks=tuple(model.blocks),
        norm=model.norm,
        projection=model.patch_embed.proj,
        scales=(("ls1", "attn"), ("ls2", "mlp")),
        activation=("fc1", "act"),
    )


def _heads(name: str, width: int) -> int:
    """Return the heads of a named architecture, or of this width where a checkpoint's is another."""
    import timm

    usual: Any = timm.create_model(name, num_classes=0, device="meta")
    return int(usual.blocks[0].attn.num_heads) if usual.embed_dim == width else width // _HEAD


def _shapes(folder: Path, teacher: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a teacher's weights, from the headers alone."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder, teacher):
        try:
            with safe_open(path, framework="np") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise TeacherError(
                f"Teacher '{teacher}': '{path.name}' is no whole safetensors file ({error}); get it again from its "
                "source."
            ) from error
    return shapes


def _arguments(shapes: Mapping[str, tuple[int, ...]], teacher: str) -> dict[str, Any]:
    """Return the arguments of timm's VisionTransformer that shapes say, and `gated`, whether its MLPs are SwiGLU."""
    block = "blocks.0"
    first = shapes.get(f"{block}.mlp.fc1.weight") or shapes.get(f"{block}.mlp.w12.weight")
    last = shapes.get(f"{block}.mlp.fc2.weight") or shapes.get(f"{block}.mlp.w3.weight")
    needed = [shapes.get(name) for name in ("cls_token", "pos_embed", "patch_embed.proj.weight")]
    if first is None or last is None or None in needed or len(needed[2] or ()) != 4:
        raise TeacherError(
            f"Teacher '{teacher}': the weights are not those of a vision transformer of timm with a class token and "
            "learned positions; choose a model of the DINOv2 family."
        )
    width, patch = shapes["cls_token"][-1], shapes["patch_embed.proj.weight"][-1]
    positions = shapes["pos_embed"][1]
    side = math.isqrt(positions)
    registers = shapes.get("reg_token") or shapes.get("register_tokens") or (1, 0, width)
    return {
        "embed_dim": width,
        "depth": 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
        "patch_size": patch,
        "in_chans": shapes["patch_embed.proj.weight"][1],
        "img_size": side * patch,
        # timm cuts the product with the width to a whole number.
        "mlp_ratio": (first[0] + 0.5) / width,
        "gated": first[0] == 2 * last[1],
        "qkv_bias": f"{block}.attn.qkv.bias" in shapes,
        "qk_norm": f"{block}.attn.q_norm.weight" in shapes,
        "pre_norm": "norm_pre.weight" in shapes,
        "init_values": 1e-5 if f"{block}.ls1.gamma" in shapes else None,
        "reg_tokens": registers[1],
        # Meta's own checkpoints, which timm rewrites, have a position for the class token that timm adds to it.
        "no_embed_class": positions == side * side or "register_tokens" in shapes,
    }
