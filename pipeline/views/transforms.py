"""Images as tensors, and their views: resized, normalised, and transformed by parameters that can be stored.

A view is drawn as a row of numbers (`policies`) and then applied; stage one and stage two call the same
`apply_views`, so that a stored view can be replayed. What the numbers ask for is decided on the CPU (`plan_views`): a
decision that is read off a GPU's tensor waits for the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ...cache.errors import DataError
from .policies import POLICIES, VIEW_PARAMETERS, Policy, choose_views, draw_views, policy_named
from .preprocessing import Intensity, Preprocessing, Resize

__all__ = [
    "POLICIES",
    "VIEW_PARAMETERS",
    "Intensity",
    "Policy",
    "Preprocessing",
    "apply_views",
    "choose_views",
    "draw_views",
    "normalise",
    "plan_views",
    "policy_named",
    "quadrant_means",
    "resize_images",
    "send",
]

_GEOMETRY = slice(0, 4)
_HFLIP, _VFLIP, _BRIGHTNESS, _CONTRAST = 4, 5, 6, 7

# Images are stacked in pieces of this size: enough to make the call worth it, far from a batch of 24-megapixel photos.
_STACK_BYTES = 1 << 24
# An image is cropped to this ratio of its sides, or one more pixel, before it is enlarged.
_OBLONG = 16


# ── Resizing ─────────────────────────────────────────────────────────────────────────────────────────────────────


def resize_images(images: Sequence[npt.NDArray[Any]], size: int, resize: Resize) -> Tensor:
    """Bring images of any size to one square tensor.

    Images of 8 bits are resampled as 8 bits, rounding included: that is what the Hugging Face image processor does
    and so what the teacher's published results stand on. Deeper ones are resampled as float32.

    Parameters
    ----------
    images : each (H, W, C) uint8, or float32 in 0…255; C is 1 (grey, repeated afterwards) or 3
    size : side S of the result, pixels
    resize : ``squash``, ``pad`` or ``crop``, see `Preprocessing`

    Returns
    -------
    (B, 3, S, S) float32 in 0…255

    Raises
    ------
    DataError
        An array is not an image.
    """
    result = torch.zeros(len(images), 3, size, size)
    alike: dict[tuple[tuple[int, ...], np.dtype[Any]], list[int]] = {}
    for row, image in enumerate(images):
        _check_image(image)
        alike.setdefault((image.shape, image.dtype), []).append(row)
    for rows in alike.values():
        step = max(1, _STACK_BYTES // images[rows[0]].nbytes)
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            stack = torch.from_numpy(np.stack([images[row] for row in piece]))  # (n, H, W, C)
            result[piece] = _resize_stack(stack.permute(0, 3, 1, 2), size, resize).expand(-1, 3, -1, -1)
    return result


def _check_image(image: npt.NDArray[Any]) -> None:
    if image.ndim != 3 or image.shape[2] not in {1, 3} or 0 in image.shape or image.dtype not in (np.uint8, np.float32):
        raise DataError(
            "An image must be (height, width, 1 or 3) of uint8 or float32 and not empty, "
            f"got {image.dtype} of shape {image.shape}."
        )


def _resize_stack(stack: Tensor, size: int, resize: Resize) -> Tensor:
    """Resize (n, C, H, W) to (n, C, S, S) float32."""
    height, width = stack.shape[2:]
    short, long = min(height, width), max(height, width)
    if resize == "squash":
        return _resample(stack, size, size)
    if resize == "pad":
        new = [max(1, round(side * size / long)) for side in (height, width)]
        top, left = (size - new[0]) // 2, (size - new[1]) // 2
        return functional.pad(_resample(stack, *new), (left, size - new[1] - left, top, size - new[0] - top))
    if long > _OBLONG * short + 1:
        # All but the middle is cut off in the end: a strip of a pixel's height would be gigabytes before that.
        cut = (long - _OBLONG * short) // 2
        return _resize_stack(stack.narrow(2 if height == long else 3, cut, long - 2 * cut), size, resize)
    # As the image processors compute `shortest_edge` and the centre crop: both round down.
    new = [size if side == short else int(size * side / short) for side in (height, width)]
    top, left = (new[0] - size) // 2, (new[1] - size) // 2
    return _resample(stack, *new)[:, :, top : top + size, left : left + size]


def _resample(stack: Tensor, height: int, width: int) -> Tensor:
    if stack.shape[2:] == (height, width):
        return stack.float()
    resampled = functional.interpolate(stack, (height, width), mode="bicubic", antialias=True, align_corners=False)
    # A bicubic kernel overshoots; 8-bit arithmetic has clipped already.
    return resampled.float().clamp_(0, 255)


def normalise(pixels: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """Turn pixels (B, 3, S, S) in 0…255 into a network's input: (pixels / 255 − mean) / std, float32.

    Parameters
    ----------
    mean, std : of each channel; or as `channel_levels` gives them, so that a loop sends them to the device once
    """
    shift, scale = (one if isinstance(one, Tensor) else channel_levels(one, str(pixels.device)) for one in (mean, std))
    return pixels.float().sub(shift).div_(scale)


def channel_levels(values: Sequence[float], device: str) -> Tensor:
    """Return numbers of the channels, in 0…1, as a device subtracts them from pixels: (3, 1, 1) float32 in 0…255."""
    return send(torch.tensor(values, dtype=torch.float32).view(3, 1, 1) * 255, device)


def quadrant_means(pixels: Tensor) -> Tensor:
    """Return the mean of each quarter of the images, the check value of a replayed view.

    Parameters
    ----------
    pixels : (B, C, H, W) in 0…255

    Returns
    -------
    (B, 4) float32 in 0…1: top left, top right, bottom left, bottom right
    """
    height, width = pixels.shape[2] // 2, pixels.shape[3] // 2
    quarters = [pixels[:, :, rows, columns] for rows in _halves(height) for columns in _halves(width)]
    # Summed in float64, so that the order of summation, which differs with the batch, stays below float32's last bit.
    means = [quarter.mean((1, 2, 3), dtype=torch.float64) for quarter in quarters]
    return (torch.stack(means, 1) / 255).float()  # (B, 4)


def _halves(middle: int) -> tuple[slice, slice]:
    return slice(None, middle), slice(middle, None)


# ── Applying ─────────────────────────────────────────────────────────────────────────────────────────────────────


class ViewPlan(NamedTuple):
    """What rows of parameters ask for, decided on the CPU.

    Attributes
    ----------
    hflip, vflip, moving : (n,) int64 rows of the batch that are mirrored, or resampled; None = all of them
    sampling : (n, 2, 3) float32, where each of the resampled is read
    exposure : (B, 2) float64 gain of the contrast, and what is added; None where no image has any
    """

    hflip: Tensor | None
    vflip: Tensor | None
    moving: Tensor | None
    sampling: Tensor
    exposure: Tensor | None


def plan_views(params: npt.NDArray[np.float32], height: int = 1, width: int = 1) -> ViewPlan:
    """Decide what rows of parameters (B, P) ask for.

    Parameters
    ----------
    height, width : of the images, or their ratio
    """
    moving = _rows_of((params[:, _GEOMETRY] != 0).any(1))
    given = torch.from_numpy(np.ascontiguousarray(params))
    exposing = bool(params[:, [_BRIGHTNESS, _CONTRAST]].any())
    geometry = given[:, _GEOMETRY]
    return ViewPlan(
        hflip=_rows_of(params[:, _HFLIP] != 0),
        vflip=_rows_of(params[:, _VFLIP] != 0),
        moving=moving,
        sampling=_sampling(geometry if moving is None else geometry[moving], height, width),
        exposure=torch.stack((2 ** given[:, _CONTRAST].double(), (255 * given[:, _BRIGHTNESS]).double()), 1)
        if exposing
        else None,
    )


def send(values: Tensor, device: str) -> Tensor:
    """Bring numbers to a device, which need not be waited for; as float32 where it has no float64, as Apple's GPUs."""
    values = values.float() if device.startswith("mps") and values.dtype == torch.float64 else values
    return values.to(device, non_blocking=device.startswith("cuda"))


def _rows_of(chosen: npt.NDArray[np.bool_]) -> Tensor | None:
    return None if chosen.all() else torch.from_numpy(np.flatnonzero(chosen))


def apply_views(pixels: Tensor, params: Tensor | ViewPlan) -> Tensor:
    """Transform images as their rows of parameters say; rows of zeros come back bit for bit.

    Mirroring is exact; shift, zoom and rotation are one bilinear resampling about the centre, with the image
    reflected beyond its border; then contrast and brightness, clipped to 0…255. An image's result does not depend on
    the others in the batch.

    Parameters
    ----------
    pixels : (B, C, H, W) float32 in 0…255, left as it is
    params : (B, P) float32, the columns `VIEW_PARAMETERS`; or their plan, on the device of `pixels`: then nothing is
        copied, and no device is waited for

    Returns
    -------
    (B, C, H, W) float32 in 0…255, on the device of `pixels`
    """
    if isinstance(params, Tensor):
        planned = plan_views(params.cpu().numpy(), *pixels.shape[2:])
        params = ViewPlan._make(None if one is None else send(one, str(pixels.device)) for one in planned)
    pixels = _flip(pixels, params.hflip, 3)
    pixels = _flip(pixels, params.vflip, 2)
    pixels = _move(pixels, params.moving, params.sampling)
    return pixels if params.exposure is None else _expose(pixels, params.exposure)


def _flip(pixels: Tensor, rows: Tensor | None, side: int) -> Tensor:
    if rows is None:
        return pixels.flip(side)
    return pixels.index_copy(0, rows, pixels[rows].flip(side)) if len(rows) else pixels


def _move(pixels: Tensor, rows: Tensor | None, sampling: Tensor) -> Tensor:
    if not len(sampling):
        return pixels
    moving = pixels if rows is None else pixels[rows]  # (n, C, H, W)
    grid = functional.affine_grid(sampling, list(moving.shape), align_corners=False)
    moved = functional.grid_sample(moving, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved if rows is None else pixels.index_copy(0, rows, moved)


def _sampling(geometry: Tensor, height: int, width: int) -> Tensor:
    """Return (n, 2, 3): where in the input (−1…1) each output point (−1…1) is read, the inverse of the movement."""
    shift_x, shift_y, zoom, rotation = geometry.double().unbind(1)
    cos, sin = (2 * math.pi * rotation).cos() * 2**-zoom, (2 * math.pi * rotation).sin() * 2**-zoom
    # Rotated in pixels, not in units of the sides, so that an oblong image is not sheared.
    x = torch.stack((cos, -sin * (height / width), -2 * (cos * shift_x - sin * shift_y * (height / width))), 1)
    y = torch.stack((sin * (width / height), cos, -2 * (sin * shift_x * (width / height) + cos * shift_y)), 1)
    return torch.stack((x, y), 1).float()


def _expose(pixels: Tensor, exposure: Tensor) -> Tensor:
    gain, added = exposure.unbind(1)
    # In float64, where the device has it, for the same reason as in `quadrant_means`.
    mean = pixels.mean((1, 2, 3), dtype=exposure.dtype)
    offset = mean * (1 - gain) + added
    # Gain 1 and offset 0 give back the same bits.
    return pixels.mul(gain.float().view(-1, 1, 1, 1)).add_(offset.float().view(-1, 1, 1, 1)).clamp_(0, 255)
