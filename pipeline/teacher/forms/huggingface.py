"""Teachers in the form of transformers: DINOv2 without and with registers, DINOv3 as ViT and as ConvNeXt."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....cache.errors import TeacherError
from ..processor import has_processor, read_normalisation
from .form import Backbone, Form, in_short

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FAMILIES", "HuggingFace", "backbone_of"]

# `model_type` in config.json; each is a class of transformers itself, so that no remote code is ever needed.
FAMILIES = ("dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext")

_SCALES = (("layer_scale1", "attention"), ("layer_scale2", "mlp"))
_CONVNEXT_STRIDE = 32  # of its last stage, whose positions stand for patches


class HuggingFace(Form):
    """A folder as transformers' save_pretrained writes it."""

    def check_config(self, config: Mapping[str, Any], teacher: str) -> None:
        """Refuse another family."""
        family = config.get("model_type")
        if family not in FAMILIES:
            raise TeacherError(
                f"Teacher '{teacher}' is of model_type {family!r}, expected {', '.join(map(repr, FAMILIES))}, or a "
                "vision transformer of timm; choose a model of the DINOv2 family, such as facebook/dinov2-base."
            )

    def describe(self, config: Mapping[str, Any], folder: Path, teacher: str) -> dict[str, Any]:  # noqa: ARG002
        """Return config.json, for a ConvNeXt with one block of the last stage's width."""
        described = dict(config)
        if config["model_type"] == "dinov3_convnext":
            widths = config.get("hidden_sizes")
            width = widths[-1] if isinstance(widths, list) and widths else None
            described |= {"hidden_size": width, "num_hidden_layers": 1, "patch_size": _CONVNEXT_STRIDE}
        return described

    def normalisation(
        self,
        config: Mapping[str, Any],  # noqa: ARG002
        folder: Path,
        teacher: str,
    ) -> tuple[Any, Any] | None:
        """Return what the image processor's file says."""
        return read_normalisation(folder, teacher) if has_processor(folder) else None

    def load(self, config: Mapping[str, Any], folder: Path, teacher: str) -> Backbone:
        """Load it with transformers."""
        return backbone_of(_load_model(config, folder, teacher))


def backbone_of(model: Any) -> Backbone:
    """Return a model of transformers with its parts named."""
    family = model.config.model_type
    if family == "dinov3_convnext":
        return Backbone(
            model=model,
            read=lambda inputs, _: ([], model(pixel_values=inputs).last_hidden_state),
            first_patch=1,
            blocks=(model.model,),
            norm=model.layer_norm,
        )
    newer = family == "dinov3_vit"
    norm = model.norm if newer else model.layernorm
    # transformers before 5 has the blocks of DINOv3 in the model itself.
    encoder = getattr(model, "model", model) if newer else model.encoder
    embedding = model.embeddings.patch_embeddings
    # Of each thread its own: several may be in the model, which transformers' output_hidden_states before 5 is not for.
    seen = threading.local()

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        if getattr(seen, "hidden", None) is not None:
            tokens = output[0] if isinstance(output, tuple) else output
            seen.hidden.append(tokens[:, 0].clone())  # a view would keep all tokens in memory

    # The last block's tokens are what the model returns.
    for block in encoder.layer[-4:-1]:
        block.register_forward_hook(keep)

    def read(inputs: Tensor, deep: bool) -> tuple[list[Tensor], Tensor]:
        seen.hidden = [] if deep else None
        tokens = model(pixel_values=inputs).last_hidden_state
        # What blocks return comes before the final LayerNorm.
        earlier, seen.hidden = seen.hidden or (), None
        return [norm(hidden) for hidden in earlier], tokens

    return Backbone(
        model=model,
        read=read,
        first_patch=1 + int(getattr(model.config, "num_register_tokens", 0)),
        blocks=tuple(encoder.layer),
        norm=norm,
        projection=embedding if newer else embedding.projection,
        scales=_SCALES,
        activation=("up_proj", "act_fn") if newer else ("fc1", "activation_fn"),
    )


def _load_model(config: Mapping[str, Any], folder: Path, teacher: str) -> Any:
    from transformers import AutoModel

    try:
        with _quiet():
            model, report = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation=None if config.get("model_type") == "dinov3_convnext" else "sdpa",
                output_loading_info=True,
            )
    except Exception as error:
        raise TeacherError(
            f"Teacher '{teacher}' cannot be loaded from '{folder}' ({in_short(error)}); "
            "get its files again from their source."
        ) from error
    _check_report(teacher, report)
    return model


def _check_report(teacher: str, report: dict[str, Any]) -> None:
    # transformers fills what is missing with random numbers and only logs it. The mask token is unused without masks;
    # a fine-tuned checkpoint's own classifier is not what we want from it.
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("mask_token"))
    strange = sorted(key for key in report["unexpected_keys"] if not key.startswith("classifier."))
    problems = [f"lack {len(missing)} tensors, first '{missing[0]}'"] if missing else []
    problems += [f"hold {len(strange)} that the model has no place for, first '{strange[0]}'"] if strange else []
    if problems:
        raise TeacherError(
            f"Teacher '{teacher}': the weights do not fit config.json: they {' and '.join(problems)}; "
            "get both from the same source."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and logging reports while it loads: the report is read, not shown."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # typed only in part
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
