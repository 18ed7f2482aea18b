"""What an adapter says of a teacher in its form, before and after the weights are loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Backbone", "Form", "Reading", "in_short"]

# Inputs (B, 3, S, S) and whether the class tokens of earlier blocks are wanted → those of the fourth to the second
# last block, (B, D) each, and all tokens (B, T, D); both after the final LayerNorm.
Reading = Callable[[Any, bool], tuple[list[Any], Any]]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A loaded model, and where its parts are.

    Attributes
    ----------
    model : the module of the library that it is from
    read : its forward pass
    first_patch : how many tokens, the class token and registers, stand before those of the patches
    blocks : what computes in bf16 when the model is made fast, in order
    projection : the patch embedding's convolution, where it is made fast too
    norm : the final LayerNorm
    scales : name of each layer scale in a block, and of the branch that it follows
    activation : names of an MLP's first linear layer and of the activation after it
    """

    model: Any
    read: Reading
    first_patch: int
    blocks: tuple[Any, ...]
    norm: Any
    projection: Any = None
    scales: tuple[tuple[str, str], ...] = ()
    activation: tuple[str, str] = ("", "")


class Form(ABC):
    """An adapter of one form."""

    @abstractmethod
    def check_config(self, config: Mapping[str, Any], teacher: str) -> None:
        """Refuse by config.json alone what is no teacher, before gigabytes of weights are downloaded."""

    @abstractmethod
    def describe(self, config: Mapping[str, Any], folder: Path, teacher: str) -> dict[str, Any]:
        """Return config.json with `model_type`, `hidden_size`, `num_hidden_layers`, `patch_size`, `num_channels`."""

    @abstractmethod
    def normalisation(self, config: Mapping[str, Any], folder: Path, teacher: str) -> tuple[Any, Any] | None:
        """Return mean and deviation of pixels in 0…1, three numbers each; None where no file says any."""

    @abstractmethod
    def load(self, config: Mapping[str, Any], folder: Path, teacher: str) -> Backbone:
        """Load the weights: safetensors alone, no network, no remote code."""


def in_short(error: Exception) -> str:
    """Return the kind of a library's error and the beginning of its text on one line, for a sentence."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(". :")
