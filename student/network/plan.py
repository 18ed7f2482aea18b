"""How the forward and backward passes of a training are computed: number format and memory layout."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

__all__ = ["PLANS", "Layout", "Plan"]

Layout = Literal["auto", "channels-first", "channels-last"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the forward and backward passes of a training are computed.

    Attributes
    ----------
    precision : weights are float32 either way; ``bf16`` multiplies in bfloat16 (autocast)
    channels_last : images lie in memory as (B, H, W, C)
    """

    precision: Literal["fp32", "bf16"]
    channels_last: bool

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Return what `to_dict` gave."""
        return cls(precision=values["precision"], channels_last=values["channels_last"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @property
    def layout(self) -> torch.memory_format:
        """Memory format of images and kernels."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: str) -> AbstractContextManager[Any]:
        """Return the context in which the model is called."""
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16")

    def __str__(self) -> str:
        return f"{self.precision}, {'channels last' if self.channels_last else 'channels first'}"


# The more exact first.
PLANS = (
    Plan(precision="fp32", channels_last=True),
    Plan(precision="fp32", channels_last=False),
    Plan(precision="bf16", channels_last=True),
    Plan(precision="bf16", channels_last=False),
)
