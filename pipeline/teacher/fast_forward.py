"""A teacher made for speed, once, when it is loaded: bf16, fewer steps over memory, weights laid out for the chip.

What it gains is measured by `benchmarks/teacher_throughput.py`; that it says the same is checked in every run
(`precision.trusted_precision`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["hasten"]

# oneDNN lays weights out for a number of rows; a batch of 32 images has 257 tokens each at 224 px. Others work as well.
_ROWS = 32 * 257


def hasten(model: Any, device: torch.device) -> Any:
    """Turn a DINOv2 of transformers, fp32 and in eval mode, into a fast one on a device.

    The blocks and the patch projection compute in bf16, sums in fp32; positions and the final LayerNorm stay fp32.
    Against autocast, which keeps the residual stream in fp32 and converts on the way, that alone took 7 to 30 % less
    processor time (ViT-S/14, 224 px, batch 32, AVX512-BF16).

    The scale after each branch of a block is multiplied into the branch's last weights. On a CPU the linear layers
    are oneDNN's own with their weights laid out beforehand, the GELU a part of the first layer of each MLP: what
    `torch.compile` with frozen weights does too, but that takes 10 to 25 s first.
    """
    for block in model.encoder.layer:
        _fold(block, "layer_scale1", block.attention)
        _fold(block, "layer_scale2", block.mlp)
    model.encoder.bfloat16().register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16(), *inputs[1:]))
    model.layernorm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    projection = model.embeddings.patch_embeddings.projection.bfloat16()
    projection.register_forward_hook(lambda _, __, output: output.float())
    if device.type == "cpu" and _packs():
        for block in model.encoder.layer:
            _fuse_gelu(block.mlp)
            _pack(block)
    return model.to(device)


def _fold(block: nn.Module, name: str, branch: nn.Module) -> None:
    """Multiply a layer scale, (D,), into the last linear layer of the branch that it follows."""
    scale = getattr(block, name)
    last = [module for module in branch.modules() if isinstance(module, nn.Linear)][-1]
    last.weight.mul_(scale.lambda1[:, None])
    last.bias.mul_(scale.lambda1)
    setattr(block, name, nn.Identity())


def _fuse_gelu(mlp: Any) -> None:
    # An MLP with a gate (SwiGLU, the giant model) has no fc1.
    if isinstance(getattr(mlp, "fc1", None), nn.Linear) and mlp.config.hidden_act == "gelu":
        mlp.fc1 = _Packed(mlp.fc1, "gelu")
        mlp.activation_fn = nn.Identity()


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, _Packed(child, "none"))
        else:
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
