"""Folders that stand for teachers, for tests that never load them."""

import json
from pathlib import Path

CONFIG = {"model_type": "dinov2", "hidden_size": 8, "num_hidden_layers": 4, "patch_size": 14}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = b"weights, for who only hashes them"


def make_teacher(folder: Path, config=CONFIG, **files: bytes) -> Path:
    """A folder with a config.json and whatever other files, `__` standing for a dot."""
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def index_of(*names: str) -> bytes:
    return json.dumps({"weight_map": {f"tensor.{i}": name for i, name in enumerate(names)}}).encode()


def hub_cache(root: Path, repository: str, **files: bytes) -> Path:
    """The hub's own layout: refs/main names the commit whose snapshot holds the files."""
    model = root / f"models--{repository.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text(COMMIT)
    return make_teacher(model / "snapshots" / COMMIT, **files)
