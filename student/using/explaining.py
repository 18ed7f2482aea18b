"""Shows which parts of an image a student's answer comes from: Grad-CAM heat maps.

Selvaraju et al. 2017 (arXiv 1610.02391), as captum computes it, at the last layer whose map is not too coarse to
show a place.
"""

from __future__ import annotations

import importlib.util
import io
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...cache.errors import StudentError
from ...cache.machine.drafts import write_file
from ...cache.progress import Advance
from ...cache.terminal.page import render
from ...pipeline.datasets.pixels.files import FileImages
from ...pipeline.views.transforms import normalise, resize_images
from ..network.images import StudentImages
from .trained import Trained, open_run

__all__ = ["Explained", "Heat", "draw_heat", "explain", "explain_images", "heat_layer", "heat_of", "require_captum"]

_TEMPLATE = Path(__file__).with_name("heat.html")

# Cells along a side from which on a map shows where: 7 is what a network of 32 pixels a step has of 224.
_CELLS = 7
_SHOWN = 224  # px of each of the two pictures
_STRENGTH = 0.55


@dataclass(frozen=True, eq=False)
class Heat:
    """A heat map.

    Attributes
    ----------
    name : the class that is explained
    probability : calibrated, of that class
    heat : (S, S) float32 in 0…1, at the student's input size; zero if no part supports the class
    """

    name: str
    probability: float
    heat: npt.NDArray[np.float32]


def require_captum() -> None:
    """Refuse where captum is not installed.

    Raises
    ------
    StudentError
    """
    if importlib.util.find_spec("captum") is None:
        raise StudentError('Heat maps need captum: pip install "medalmighty[explain]".')


def heat_layer(model: nn.Module, pixels: Tensor) -> nn.Module:
    """Return the last layer, in the order of computing, whose maps have 7 cells a side or more, or the finest there is.

    Raises
    ------
    StudentError
        The network has no maps: it is no CNN.
    """
    seen: list[tuple[nn.Module, int]] = []

    def watch(module: nn.Module, _given: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            seen.append((module, min(output.shape[2:])))

    handles = [module.register_forward_hook(watch) for module in model.modules() if module is not model]
    try:
        with torch.inference_mode():
            model(pixels)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise StudentError(
            f"'{type(model).__name__}' has no feature maps to make a heat map from; expected a convolutional student."
        )
    enough = min(_CELLS, max(cells for _, cells in seen))
    return [module for module, cells in seen if cells >= enough][-1]


def explain(trained: Trained, pixels: Tensor, name: str | None = None) -> Heat:
    """Return where in an image a class is seen.

    Parameters
    ----------
    pixels : (3, S, S) float32 in 0…255
    name : the class; None = the most likely one
    """
    from captum.attr import LayerAttribution, LayerGradCam

    preprocessing = trained.preprocessing
    given = normalise(pixels[None].to(trained.device), preprocessing.mean, preprocessing.std)
    probability = trained.probabilities(pixels[None])[0]
    target = int(probability.argmax()) if name is None else trained.classes.index(name)
    layer = heat_layer(trained.model, given)
    found = LayerGradCam(trained.model, layer).attribute(given.requires_grad_(), target=target, relu_attributions=True)
    whole = LayerAttribution.interpolate(found, tuple(pixels.shape[1:]), "bilinear")[0, 0].detach().cpu().numpy()
    top = float(whole.max())
    heat = np.asarray(whole / top if top > 0 else np.zeros_like(whole), np.float32)
    return Heat(trained.classes[target], float(probability[target]), heat)


def draw_heat(pixels: Tensor, heat: npt.NDArray[np.float32]) -> bytes:
    """Return a PNG: the image as the student sees it, and the same with its heat map, red where it is highest."""
    from matplotlib import colormaps
    from PIL import Image

    plain = pixels.clamp(0, 255).permute(1, 2, 0).numpy() / 255  # (S, S, 3)
    strength = _STRENGTH * heat[:, :, None]
    both = np.concatenate([plain, plain * (1 - strength) + colormaps["turbo"](heat)[:, :, :3] * strength], axis=1)
    out = io.BytesIO()
    picture = Image.fromarray((both * 255).round().astype(np.uint8))
    picture.resize((2 * _SHOWN, _SHOWN), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def heat_of(run: Path) -> Callable[[npt.NDArray[Any]], bytes]:
    """Return a function that draws an image (H, W, C) in 0…255 beside the heat map of the student's answer."""
    trained = open_run(run, "cpu")
    preprocessing = trained.preprocessing

    def draw(pixels: npt.NDArray[Any]) -> bytes:
        seen = resize_images([pixels], preprocessing.image_size, preprocessing.resize)[0]  # (3, S, S)
        return draw_heat(seen, explain(trained, seen).heat)

    return draw


@dataclass(frozen=True)
class Explained:
    """What was written: of each image its place, the class that is explained, its probability and its picture."""

    rows: tuple[dict[str, Any], ...]
    bad: tuple[str, ...]


def explain_images(trained: Trained, images: FileImages, out: Path, name: str | None, advance: Advance) -> Explained:
    """Write a picture of each image, and ``index.html`` with all of them, into a new folder; bad images are listed."""
    reader = StudentImages(images, trained.preprocessing.image_size, trained.preprocessing.resize)
    rows: list[dict[str, Any]] = []
    pictures, bad = [], []
    out.mkdir()
    for row in range(len(images)):
        read = reader[row]
        advance(1)
        if isinstance(read, str):
            bad.append(read)
            continue
        pixels = torch.from_numpy(read).float().expand(3, -1, -1)
        found = explain(trained, pixels, name)
        place = images.locate(row)
        picture = draw_heat(pixels, found.heat)
        file = f"{len(rows):04}-{Path(place.file or 'image').stem}.png"
        write_file(out / file, picture)
        pictures.append(f"data:image/png;base64,{b64encode(picture).decode()}")
        told = {"class": found.name, "probability": found.probability, "empty": not found.heat.any(), "picture": file}
        rows.append({"file": place.file, "frame": place.frame, **told})
    page = render(_TEMPLATE, rows=list(zip(rows, pictures, strict=True)), student=trained.architecture)
    write_file(out / "index.html", page.encode("utf-8", "backslashreplace"))
    return Explained(tuple(rows), tuple(bad))
