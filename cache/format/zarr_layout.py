"""What a cache's Zarr folder may look like, checked before zarr opens anything.

The tree follows from the manifest: `manifest.json`, `seal.json`, a `zarr.json` for the root, each group and each array,
and the chunk files `c/…`. Nothing else may be there, and the length of every chunk file is known beforehand, so that
wrong numbers in a file cannot make us allocate more than is on disk. Format 1 stores plain little-endian bytes: no
compression, no filters, no other dtypes than those of the layout, so there is nothing to decompress and no pickle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CacheCorrupt
from .forms import Survey
from .layout import ArraySpec
from .plain_files import Kind, Scan

__all__ = ["MANIFEST", "SEAL", "padding_problems", "survey"]

MANIFEST = "manifest.json"
SEAL = "seal.json"
_METADATA = "zarr.json"
_METADATA_BYTES = 1 << 16
# A reader holds one chunk in memory; one row may be larger where the manifest says so.
_CHUNK_BYTES = 1 << 26
_GROUP: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
# Written by some versions of zarr, with the same meaning as their absence.
_EMPTY_GROUP_FIELDS = {"consolidated_metadata": (None,)}
_EMPTY_ARRAY_FIELDS: dict[str, tuple[Any, ...]] = {"storage_transformers": ([],), "dimension_names": (None,)}


def survey(path: Path, specs: Mapping[str, ArraySpec]) -> Survey:
    """Compare a folder with the tree that its manifest implies, without opening anything but small JSON files."""
    scan = Scan(path)
    groups = sorted({name.partition("/")[0] for name in specs})
    top = {MANIFEST, SEAL, _METADATA}
    found = scan.list_folder("", lambda name: "file" if name in top else "folder" if name in groups else None)
    scan.require("", found, *sorted(top), *groups)
    sound = []
    if found.get(_METADATA, -1) >= 0:
        _check_group(scan, "", {*groups, *specs})
    for group in groups:
        if found.get(group, -1) < 0:
            continue
        members = {name.partition("/")[2] for name in specs if name.startswith(f"{group}/")}
        inside = scan.list_folder(group, _file_or_folder({_METADATA}, members))
        if scan.require(group, inside, _METADATA):
            _check_group(scan, f"{group}/", members)
        scan.require(group, inside, *sorted(members))
        sound += [
            f"{group}/{name}"
            for name in sorted(members)
            if inside.get(name, -1) >= 0 and _is_sound(scan, f"{group}/{name}", specs[f"{group}/{name}"])
        ]
    return Survey(tuple(scan.problems), tuple(sound))


def _file_or_folder(files: set[str], folders: set[str]) -> Any:
    def kind_of(name: str) -> Kind | None:
        return "file" if name in files else "folder" if name in folders else None

    return kind_of


def _check_group(scan: Scan, where: str, members: set[str]) -> None:
    """Check a group's own metadata; it may repeat that of its members, as `zarr.consolidate_metadata` makes it."""
    name = f"{where}{_METADATA}"
    raw = scan.read_json(name, _METADATA_BYTES)
    if raw is None or _same(_without(raw, _EMPTY_GROUP_FIELDS), _GROUP):
        return
    copies = raw.pop("consolidated_metadata", None)
    if not _same(raw, _GROUP) or not _is_consolidated(copies):
        scan.report(f"'{name}' should describe a plain group, got {_short(raw if copies is None else copies)}.")
        return
    for member, copy in copies["metadata"].items():
        # Libraries that read the copy must see the same as libraries that do not.
        if member not in members or not _same(
            _bare(copy), _bare(scan.read_json(f"{where}{member}/{_METADATA}", _METADATA_BYTES))
        ):
            scan.report(
                f"'{name}' describes {_short(member)} differently from its own metadata; consolidate again: "
                "zarr.consolidate_metadata(CACHE)."
            )


def _is_consolidated(copies: Any) -> bool:
    fixed = {"kind": "inline", "must_understand": False}
    return (
        isinstance(copies, dict)
        and isinstance(copies.get("metadata"), dict)
        and _same({name: value for name, value in copies.items() if name != "metadata"}, fixed)
    )


def _bare(raw: Any) -> Any:
    """Return metadata without the fields that say nothing, and without copies of other metadata in it."""
    if not isinstance(raw, dict):
        return raw
    return {
        name: value for name, value in _without(raw, _EMPTY_ARRAY_FIELDS).items() if name != "consolidated_metadata"
    }


def _is_sound(scan: Scan, name: str, spec: ArraySpec) -> bool:
    before = len(scan.problems)
    count = prod(spec.shape)
    found = scan.list_folder(name, _file_or_folder({_METADATA}, {"c"} if count else set()))
    if scan.require(name, found, _METADATA):
        raw = scan.read_json(f"{name}/{_METADATA}", _METADATA_BYTES)
        wrong = list(array_problems(raw, spec)) if raw is not None else []
        for problem in wrong:
            scan.report(f"Array '{name}': {problem}.")
        if raw is not None and not wrong and count and scan.require(name, found, "c"):
            _check_chunks(scan, name, spec, chunk_rows(raw))
    return len(scan.problems) == before and not scan.is_full


def chunk_rows(raw: Mapping[str, Any]) -> int:
    """Return the rows of a chunk from an array's metadata that has passed `array_problems`."""
    return int(raw["chunk_grid"]["configuration"]["chunk_shape"][0])


def array_problems(raw: Mapping[str, Any], spec: ArraySpec) -> Iterator[str]:
    """Compare an array's `zarr.json` with what format 1 stores; yield what differs."""
    dtype = np.dtype(spec.dtype)
    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs = [[plain]] if dtype.itemsize > 1 else [[plain], [{"name": "bytes"}], [{**plain, "configuration": {}}]]
    keys = {"name": "default", "configuration": {"separator": "/"}}
    fields: dict[str, tuple[list[Any], str]] = {
        "zarr_format": ([3], "Zarr format 3"),
        "node_type": (["array"], "node type 'array'"),
        "shape": ([list(spec.shape)], f"shape {list(spec.shape)}"),
        "data_type": ([spec.dtype], f"data type '{spec.dtype}'"),
        "chunk_key_encoding": ([keys, {"name": "default"}], "the default chunk key encoding"),
        "fill_value": ([0, 0.0], "fill value 0"),
        "codecs": (codecs, "codec 'bytes' alone (little-endian, no compression or filters)"),
        "attributes": ([{}], "no attributes"),
    }
    for field, (allowed, expected) in fields.items():
        if not any(_same(raw.get(field), value) for value in allowed):
            yield f"expected {expected}, got {_short(raw.get(field))}"
    yield from _grid_problems(raw.get("chunk_grid"), spec)
    unknown = sorted(set(_without(raw, _EMPTY_ARRAY_FIELDS)) - set(fields) - {"chunk_grid"})
    if unknown:
        yield f"format 1 has no metadata {_short(unknown)}"


def _grid_problems(grid: Any, spec: ArraySpec) -> Iterator[str]:
    whole = [max(1, length) for length in spec.shape]
    shape = grid["configuration"].get("chunk_shape") if _is_regular(grid) else None
    if not isinstance(shape, list) or len(shape) != len(whole) or not _same(shape[1:], whole[1:]):
        yield f"expected a regular grid of chunks of whole rows, got {_short(grid)}"
        return
    rows = shape[0]
    if type(rows) is not int or not 1 <= rows <= whole[0]:
        yield f"expected chunks of 1 to {whole[0]} rows, got {_short(rows)}"
    elif rows > 1 and rows * prod(whole[1:]) * np.dtype(spec.dtype).itemsize > _CHUNK_BYTES:
        yield f"expected chunks of at most {_CHUNK_BYTES} bytes, got {rows} rows in one"


def _is_regular(grid: Any) -> bool:
    return (
        isinstance(grid, dict)
        and set(grid) == {"name", "configuration"}
        and grid["name"] == "regular"
        and isinstance(grid["configuration"], dict)
        and set(grid["configuration"]) == {"chunk_shape"}
    )


def _check_chunks(scan: Scan, name: str, spec: ArraySpec, rows: int) -> None:
    """Check that an array has all its chunk files `c/<chunk>/0/…`, of the right length, and nothing else."""
    count = -(-spec.shape[0] // rows)
    row_bytes = prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize
    depth = len(spec.shape)
    first: Kind = "file" if depth == 1 else "folder"
    found = scan.list_folder(f"{name}/c", lambda entry: first if _is_index(entry, count) else None)
    for entry, size in found.items():
        where, length = f"{name}/c/{entry}", size
        for level in range(1, depth):
            if length < 0:
                break
            last = level == depth - 1
            inside = scan.list_folder(where, _file_or_folder({"0"} if last else set(), set() if last else {"0"}))
            if not inside:
                scan.report(f"Array '{name}' lacks chunk {entry}: '{where}' is empty.")
            where, length = f"{where}/0", inside.get("0", -1)
        if length not in (-1, rows * row_bytes):
            scan.report(f"'{where}' is {length} bytes long; expected {rows * row_bytes}.")
    if len(found) < count and not scan.is_full:
        missing = next(index for index in range(count) if str(index) not in found)
        scan.report(f"Array '{name}' lacks {count - len(found)} of its {count} chunks, the first is chunk {missing}.")


def _is_index(name: str, count: int) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= 12 and str(int(name)) == name and int(name) < count


def padding_problems(path: Path, name: str, spec: ArraySpec) -> Iterator[str]:
    """Yield what is hidden behind the last row: the last chunk is stored whole, its rest must be zeros."""
    if not prod(spec.shape):
        return
    scan = Scan(path)
    raw = scan.read_json(f"{name}/{_METADATA}", _METADATA_BYTES)
    if raw is None:
        raise CacheCorrupt(scan.problems[0])
    rows = chunk_rows(raw)
    used = (spec.shape[0] - 1) % rows + 1
    last = path / name / "c" / str((spec.shape[0] - 1) // rows) / "/".join("0" * (len(spec.shape) - 1))
    with last.open("rb") as file:
        file.seek(used * prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize)
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                yield f"Array '{name}' hides bytes behind its last row: the padding of its last chunk is not zero."
                return


def _without(raw: Mapping[str, Any], empty: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    return {
        field: value
        for field, value in raw.items()
        if not any(_same(value, allowed) for allowed in empty.get(field, ()))
    }


def _same(one: Any, other: Any) -> bool:
    """Compare JSON values; unlike Python, true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "…"
