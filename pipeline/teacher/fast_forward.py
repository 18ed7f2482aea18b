"""A teacher made for speed, once, when it is loaded: bf16, fewer steps over memory, weights laid out for the chip.

What it gains is measured by `benchmarks/teacher_throughput.py`; that it says the same is checked in every run
(`precision.trusted_precision`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .forms.form import Backbone

__all__ = ["hasten"]

# oneDNN lays weights out for a number of rows; a batch of 32 images has 257 tokens each at 224 px. Others work as well.
_ROWS = 32 * 257


def hasten(backbone: Backbone, device: torch.device) -> None:
    """Turn a model, fp32 and in eval mode, into a fast one for a device, in place.

    The blocks and the patch projection compute in bf16, sums in fp32; positions and the final LayerNorm stay fp32.
    Against autocast, which keeps the residual stream in fp32 and converts on the way, that alone took 7 to 30 % less
    processor time (ViT-S/14, 224 px, batch 32, AVX512-BF16).

    The scale after each branch of a block is multiplied into the branch's last weights. On a CPU the linear layers
    are oneDNN's own with their weights laid out beforehand, the GELU a part of the first layer of each MLP: what
    `torch.compile` with frozen weights does too, but that takes 10 to 25 s first.
    """
    packs = device.type == "cpu" and _packs()
    for block in backbone.blocks:
        for scale, branch in backbone.scales:
            _fold(block, scale, getattr(block, branch))
        block.bfloat16()
        if packs and backbone.scales:
            _fuse_gelu(getattr(block, backbone.scales[-1][1]), *backbone.activation)
        if packs:
            _pack(block)
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
    """A bf16 linear layer, and the exact GELU after it, as inductor would have oneDNN compute it."""

    def __init__(self, linear: nn.Linear, after: str) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._after = after

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in) to (…, out), bf16."""
        # "none": the GELU with erf, not its approximation by tanh.
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._after, [], "none")
        return result


def _packs() -> bool:
    """Tell whether this torch has oneDNN's layers, no public interface of it, and they say what its own layers say."""
    linear = nn.Linear(64, 64).bfloat16().requires_grad_(False)
    x = torch.linspace(-2, 2, 8 * 64).view(8, 64).bfloat16()
    try:
        with torch.inference_mode():
            fused = _Packed(linear, "gelu")(x)
            return torch.allclose(fused.float(), nn.functional.gelu(linear(x)).float(), atol=0.05)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
