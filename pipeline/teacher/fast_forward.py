"""A teacher made for speed, once, when it is loaded: fewer steps over memory, weights laid out for the chip, bf16.

What it gains is measured by `benchmarks/teacher_throughput.py` and `benchmarks/peers/forward.py`. That bf16 says the
same is checked in every run (`precision.trusted_precision`), that the layers do when a teacher is loaded.
"""

from __future__ import annotations

import platform
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .forms.form import Backbone

__all__ = ["hasten"]

# oneDNN lays weights out for a number of rows: those of what goes through the model at once, see `Teacher.features`.
# Others work as well.
_ROWS = 4 * 257
# Where packing was measured to help in fp32.
_X86 = {"x86_64", "amd64"}


def hasten(backbone: Backbone, device: torch.device, precision: Literal["fp32", "bf16"]) -> bool:
    """Turn a model, fp32 and in eval mode, into a fast one for a device, in place; tell whether its weights are packed.

    In bf16 the blocks and the patch projection compute in it, sums in fp32; positions and the final LayerNorm stay
    fp32. Against autocast, which keeps the residual stream in fp32 and converts on the way, that alone took 7 to 30 %
    less processor time (ViT-S/14, 224 px, batch 32, AVX512-BF16).

    The scale after each branch of a block is multiplied into the branch's last weights. On a CPU the linear layers
    are oneDNN's own with their weights laid out beforehand, the GELU a part of the first layer of each MLP: what
    `torch.compile` with frozen weights does too, but that takes 10 to 25 s first.

    A model in fp32 that cannot be packed is left as it is: folding alone gains nothing (0.99, ViT-S/14, AVX2).
    """
    packs = device.type == "cpu" and _packs(precision)
    if precision == "fp32" and not packs:
        return False
    for block in backbone.blocks:
        for scale, branch in backbone.scales:
            _fold(block, scale, getattr(block, branch))
        if precision == "bf16":
            block.bfloat16()
        if packs and backbone.scales:
            _fuse_gelu(getattr(block, backbone.scales[-1][1]), *backbone.activation)
        if packs:
            _pack(block)
    if precision == "bf16":
        _join_with_fp32(backbone)
    return packs


def _join_with_fp32(backbone: Backbone) -> None:
    """Convert between the bf16 blocks and what is before and after them."""
    backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16(), *inputs[1:]))
    backbone.norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    if backbone.projection is not None:
        backbone.projection.bfloat16().register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16(),))
        backbone.projection.register_forward_hook(lambda _, __, output: output.float())


def _fold(block: nn.Module, name: str, branch: nn.Module) -> None:
    """Multiply a layer scale, (D,), into the last linear layer of the branch that it follows."""
    for scale in getattr(block, name).parameters():  # one, or none where a model has no layer scale
        last = [module for module in branch.modules() if isinstance(module, nn.Linear)][-1]
        last.weight.mul_(scale[:, None])
        if last.bias is not None:
            last.bias.mul_(scale)
    setattr(block, name, nn.Identity())


def _fuse_gelu(mlp: Any, first: str, activation: str) -> None:
    layers = [module for module in mlp.modules() if isinstance(module, nn.Linear)]
    act = getattr(mlp, activation, None)
    # The exact one: approximations have classes of other names, or say so.
    exact = type(act).__name__ in {"GELU", "GELUActivation"} and getattr(act, "approximate", "none") == "none"
    # An MLP with a gate takes the activation of a part of its first layer.
    if exact and len(layers) == 2 and layers[0].out_features == layers[1].in_features:
        setattr(mlp, first, _Packed(getattr(mlp, first), "gelu"))
        setattr(mlp, activation, nn.Identity())


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, _Packed(child, "none"))
        elif not isinstance(child, nn.MultiheadAttention):  # it reads the weights of its layers itself
            _pack(child)


class _Packed(nn.Module):
    """A linear layer, and the exact GELU after it, as inductor would have oneDNN compute it."""

    def __init__(self, linear: nn.Linear, after: str) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._after = after

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in) to (…, out), in the precision of the weights."""
        # "none": the GELU with erf, not its approximation by tanh.
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._after, [], "none")
        return result


def _packs(precision: Literal["fp32", "bf16"]) -> bool:
    """Tell whether this torch has oneDNN's layers, no public interface of it, and they say what its own layers say."""
    if precision == "fp32" and platform.machine().lower() not in _X86:
        return False
    dtype, tolerance = (torch.bfloat16, 0.05) if precision == "bf16" else (torch.float32, 1e-5)
    linear = nn.Linear(64, 64).to(dtype).requires_grad_(False)
    x = torch.linspace(-2, 2, 8 * 64).view(8, 64).to(dtype)
    try:
        with torch.inference_mode():
            fused = _Packed(linear, "gelu")(x)
            return torch.allclose(fused.float(), nn.functional.gelu(linear(x)).float(), atol=tolerance)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
