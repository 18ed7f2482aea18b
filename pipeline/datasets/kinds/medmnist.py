"""``medmnist:NAME[@SIZE]``: the official files, by the medmnist package's own list of addresses and checksums."""

from __future__ import annotations

import ast
import difflib
import http.client
import logging
import os
import urllib.request
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import file_digest, md5
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ....cache.errors import DataError
from ....cache.machine.drafts import drafted
from ....cache.text import quoted
from ..columns.dataset import Dataset, DatasetOptions
from .npz import open_npz

__all__ = ["PREFIX", "official_file", "official_names", "open_medmnist", "parse_spec"]

PREFIX = "medmnist:"
_FOLDER = ".medmnist"  # in the user's home, where the package keeps its files
SIZES = (28, 64, 128, 224)
_SECONDS_WITHOUT_DATA = 30

_log = logging.getLogger(__name__)

Info = Mapping[str, Mapping[str, Any]]


def open_medmnist(spec: str, name: str, options: DatasetOptions, classes: Sequence[str] | None = None) -> Dataset:
    """Open an official MedMNIST dataset, downloading its file into the package's folder where it is not there yet.

    Raises
    ------
    DataError
        There is no such dataset or size, the download fails, or the file is not the official one.
    """
    info = load_info()
    flag, size = parse_spec(spec, info)
    path = official_file(flag, size, info, Path.home() / _FOLDER)
    labels = info[flag]["label"]
    return open_npz(path, name, options, classes, tuple(labels[str(index)] for index in range(len(labels))))


@cache
def load_info() -> Info:
    """Return the package's list of its two-dimensional datasets.

    The list is read out of the package's source: importing it would import torch and pandas, and make a folder.

    Raises
    ------
    DataError
        The package is not installed, or its list is not where it was.
    """
    found = find_spec("medmnist")
    places = list(found.submodule_search_locations or ()) if found else []
    if not places:
        raise DataError("The package 'medmnist' is not installed; install it with: pip install medmnist")
    source = Path(places[0], "info.py")
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(name, ast.Name) and name.id == "INFO" for name in node.targets
        ):
            entries: Info = ast.literal_eval(node.value)
            return {flag: entry for flag, entry in entries.items() if not flag.endswith("3d")}
    raise DataError(f"'{source}' has no INFO; expected medmnist 3: give the path of the .npz file instead.")


def official_names() -> tuple[str, ...]:
    """Return the names of the two-dimensional datasets."""
    return tuple(load_info())


def parse_spec(spec: str, info: Info) -> tuple[str, int]:
    """Split ``medmnist:NAME[@SIZE]`` into a name that exists and a size.

    Raises
    ------
    DataError
        The name or the size is not one of the official ones; the closest names are listed.
    """
    flag, _, size = spec.lower().removeprefix(PREFIX).partition("@")
    if flag.endswith("3d"):
        raise DataError(
            f"dataset '{spec}' holds volumes, which medal does not read; expected one of {quoted(list(info))}."
        )
    if flag not in info:
        close = difflib.get_close_matches(flag, info, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(f'{PREFIX}{name}' for name in close)}?"
            if close
            else f"there are {quoted(list(info))}."
        )
        raise DataError(f"There is no MedMNIST dataset '{flag}'; {hint}")
    if size not in ("", *map(str, SIZES)):
        raise DataError(
            f"There is no size '{size}' of '{flag}'; expected one of {', '.join(map(str, SIZES))}, for instance "
            f"{PREFIX}{flag}@64"
        )
    return flag, int(size or SIZES[0])


def official_file(flag: str, size: int, info: Info, folder: Path) -> Path:
    """Return the path of an official file that has the official MD5, after downloading it if it is not there.

    Raises
    ------
    DataError
        The download fails, or a file of another content lies there.
    """
    suffix = "" if size == SIZES[0] else f"_{size}"
    path = folder / f"{flag}{suffix}.npz"
    address, expected = info[flag][f"url{suffix}"], info[flag][f"MD5{suffix}"]
    if not path.is_file():
        _download(address, path, expected)
    elif (found := _md5(path)) != expected:
        raise DataError(
            f"file '{path}' has the MD5 {found}, the official one has {expected}; expected the official file: "
            f"delete it to download it again, or give its path instead of '{PREFIX}{flag}' to use it as it is."
        )
    return path


def _download(address: str, path: Path, expected: str) -> None:
    """Fetch a file beside its place, check it, then move it there."""
    _log.warning("downloading %s to '%s'", address, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with drafted(path, path.with_name(f".{path.name}.{os.getpid()}")) as draft:
            with draft.open("wb") as file, _open_address(address) as response:
                while block := response.read(1 << 20):
                    file.write(block)
            if (found := _md5(draft)) != expected:
                raise DataError(
                    f"What {address} gave has the MD5 {found}; expected {expected}: nothing was kept. Try again, or "
                    "download it by hand and give its path."
                )
    except (OSError, http.client.HTTPException) as exc:
        raise DataError(
            f"The download of {address} failed ({exc}); download it by hand and put it at '{path}', or give its path."
        ) from exc


def _open_address(address: str) -> Any:
    # The address is the package's own; proxies are those of the environment.
    return urllib.request.urlopen(address, timeout=_SECONDS_WITHOUT_DATA)  # noqa: S310


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, lambda: md5(usedforsecurity=False)).hexdigest()
