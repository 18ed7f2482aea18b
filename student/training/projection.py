"""A student's pooled embedding, brought to the width of the teacher's features: for the time of the training alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...cache.errors import StudentError

__all__ = ["Projection"]


class Projection(nn.Module):
    """A linear map of what enters a model's classifier, which it listens to, to (B, F).

    It is no part of the model: that is saved, averaged and used as if there were none.
    """

    def __init__(self, model: Any, width: int, seed: int) -> None:
        """Listen to a timm model; the map's first values depend on the seed alone.

        Raises
        ------
        StudentError
            The model has no single linear classifier.
        """
        super().__init__()
        classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
        sizes = {nn.Linear: "in_features", nn.Conv2d: "in_channels"}
        found = [getattr(classifier, name) for kind, name in sizes.items() if isinstance(classifier, kind)]
        if not isinstance(classifier, nn.Module) or not found:
            raise StudentError(
                "--loss feature needs a student that ends in one linear layer; this one ends in "
                f"{type(classifier).__name__}. Give another --student, or --loss kd."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(found[0], width)
        self._heard: Tensor | None = None
        classifier.register_forward_pre_hook(self._listen)

    def _listen(self, _module: nn.Module, given: tuple[Any, ...]) -> None:
        self._heard = given[0]

    def forward(self) -> Tensor:
        """Return the projected embedding of the batch that the model has just seen, (B, F) float32."""
        if self._heard is None:
            raise StudentError("The model's classifier was not used in its last forward pass.")
        heard, self._heard = self._heard, None
        embedding = heard.float().mean((2, 3)) if heard.ndim == 4 else heard.float()
        projected: Tensor = self.linear(embedding)
        return projected
