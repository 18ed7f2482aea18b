"""The frozen teacher: a DINOv2 backbone that turns batches of images into features."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...cache.errors import TeacherError
from ..threads import side_by_side
from ..views.preprocessing import Preprocessing
from ..views.transforms import normalise
from .fast_forward import hasten
from .files import TeacherFiles, check_image_size, feature_dim, form_of
from .forms.form import Backbone

__all__ = ["IMAGES_AT_ONCE", "OutOfMemory", "Precision", "Teacher", "agreement", "pick_device", "precision_for"]

Precision = Literal["fp32", "bf16"]

# So many images of 224 px, in pixels, go through the model at once on a CPU: what a layer hands to the next then stays
# in the caches, and is small enough for the allocator to keep. Batches of 32 took 1.16 times as long an image, for the
# pages that the system hands out anew (ViT-S/14, fp32, AVX2; 1, 2, 8, 16 images: 1.07, 1.05, .98, .96 of 4).
IMAGES_AT_ONCE = 4
_PIXELS_AT_ONCE = IMAGES_AT_ONCE * 224 * 224
# Features are stored as float16.
_LARGEST = float(np.finfo(np.float16).max)


class OutOfMemory(TeacherError):
    """A batch does not fit into the device's memory."""


class Teacher:
    """A loaded teacher; `Teacher.load` makes one."""

    def __init__(
        self, backbone: Backbone, files: TeacherFiles, *, feature: str, precision: Precision, device: str
    ) -> None:
        self.files = files
        self.feature = feature
        self.precision = precision
        self.device = torch.device(device)
        self.dim = feature_dim(files.config, feature)
        self._backbone = backbone
        packed = hasten(backbone, self.device, precision)
        self.layers = "oneDNN, packed" if packed else "torch"
        backbone.model.to(self.device)

    @classmethod
    def load(cls, files: TeacherFiles, *, feature: str, precision: str, device: str) -> Teacher:
        """Load the weights, and nothing but the weights: safetensors only, no network, no remote code.

        Raises
        ------
        TeacherError
            The weights cannot be read, or are not those of the model that config.json describes.
        """
        feature_dim(files.config, feature)
        if precision not in {"fp32", "bf16"}:
            raise TeacherError(f"Unknown precision '{precision}'; known: fp32, bf16 (and auto, see precision_for).")
        backbone = form_of(files.config).load(files.config, files.folder, files.name)
        backbone.model.float().eval().requires_grad_(False)
        return cls(backbone, files, feature=feature, precision=cast(Precision, precision), device=device)

    def features(self, pixels: Tensor, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
        """Return what the teacher says of each image.

        A batch of another size can differ in the last bits: callers keep to one batch size and pad the last. On a CPU
        a few images at once go through the model, each few on one thread: the number of threads changes no bits.

        Parameters
        ----------
        pixels : (B, 3, S, S) float32 in 0…255
        preprocessing : whose mean and std are used

        Returns
        -------
        (B, F) float32

        Raises
        ------
        TeacherError
            A feature is NaN, infinite or beyond float16; S is no multiple of the patch size; memory runs out.
        """
        check_image_size(self.files.config, pixels.shape[-1])
        try:
            if self.device.type == "cpu":
                at_once = max(1, min(IMAGES_AT_ONCE, _PIXELS_AT_ONCE // pixels.shape[-1] ** 2))
                parts = side_by_side(partial(self._compute, preprocessing), torch.split(pixels, at_once))
                features = np.concatenate(parts)
            else:
                features = self._compute(preprocessing, pixels)
        except RuntimeError as error:
            if not _ran_out(error):
                raise
            remedy = "--batch-size" if len(pixels) > 1 else "--image-size, or another --device"
            raise OutOfMemory(
                f"The teacher ran out of memory on a batch of {len(pixels)} images; use a smaller {remedy}."
            ) from error
        self._check(features)
        return features

    @torch.inference_mode()
    def _compute(self, preprocessing: Preprocessing, pixels: Tensor) -> npt.NDArray[np.float32]:
        with _exact(self.device):
            inputs = normalise(pixels.to(self.device, non_blocking=True), preprocessing.mean, preprocessing.std)
            return cast(npt.NDArray[np.float32], self._forward(inputs).cpu().numpy())

    def _forward(self, inputs: Tensor) -> Tensor:
        earlier, tokens = self._backbone.read(inputs, self.feature == "last4")
        # Registers stand between the class token and the patches; a plain DINOv2 has none.
        return torch.cat([*earlier, tokens[:, 0], tokens[:, self._backbone.first_patch :].mean(1)], 1)  # (B, F)

    def _check(self, features: npt.NDArray[np.float32]) -> None:
        # NaN compares as False, so this one test finds NaN, infinity and overflow of float16.
        bad = np.flatnonzero(~(np.abs(features) <= _LARGEST).all(1))
        if len(bad):
            shown = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
            remedy = (
                "try --precision fp32" if self.precision == "bf16" else "its weights may be damaged: get them again"
            )
            raise TeacherError(
                f"Teacher '{self.files.name}' gave features that are NaN or infinite for {len(bad)} of the "
                f"{len(features)} images of a batch (rows {shown}); {remedy}."
            )


def _ran_out(error: RuntimeError) -> bool:
    """Tell whether memory ran out: torch's own allocator has an error of its own for that, the libraries have not."""
    told = (
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "can't allocate memory",
    )
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in told)


def _exact(device: torch.device) -> AbstractContextManager[Any]:
    """Keep cuDNN from choosing an algorithm by timing, or TF32 in a convolution: both change the last bits."""
    if device.type != "cuda":
        return nullcontext()
    return cast(
        AbstractContextManager[Any],
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    )


def agreement(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Return the smallest cosine between features (N, F) of the same images; NaN, which passes no test, for none."""
    if not len(a):
        return float("nan")
    first, second = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    # A feature of zeros has no direction: its cosine is 0.
    cosines = (first * second).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return float(cosines.min())


def pick_device(asked: str) -> str:
    """Return the device to compute on: ``auto`` is CUDA where there is one, else Apple's GPU, else the CPU."""
    if asked == "auto":
        found = {"cuda": torch.cuda.is_available, "mps": torch.mps.is_available}
        return next((name for name, there in found.items() if there()), "cpu")
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise TeacherError(f"Device '{asked}' cannot be used here; use --device auto or cpu.") from error
    return asked


def precision_for(asked: str, device: str) -> Precision:
    """Return the precision to compute in: ``auto`` is bf16 where the hardware multiplies bf16 faster, else fp32."""
    if asked in {"fp32", "bf16"}:
        return cast(Precision, asked)
    if asked != "auto":
        raise TeacherError(f"Unknown precision '{asked}'; known: auto, fp32, bf16.")
    return "bf16" if _has_fast_bf16(torch.device(device)) else "fp32"


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        # Ampere, the first with bf16 tensor cores.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Without these instructions bf16 is emulated and slower than fp32; oneDNN uses both.
    capable = device.type == "cpu" and not {"amx_bf16", "avx512_bf16"}.isdisjoint(_cpu_flags())
    return capable and _onednn_takes_bf16()


def _onednn_takes_bf16() -> bool:
    """Tell whether oneDNN may use them: a hypervisor, or ONEDNN_MAX_CPU_ISA, may keep it from what the chip has."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return False


def _cpu_flags() -> set[str]:
    """Return what the first processor in /proc/cpuinfo says it can do; nothing where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
