"""The files that a table's cells mean: beside the table, or anywhere under folders of images."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from ....cache.errors import DataError
from ....cache.text import plural
from ..columns.labels import quoted
from ..pixels.file_kinds import kind_of_name
from .tree import NOWHERE, Tree, walk

__all__ = ["Lookup"]

_LISTED = 20
_SAMPLE = 32
_SEARCHED = {"picture", "dicom", "unknown"}  # what a file may be by its name to be looked for


class Lookup:
    """Where cells of a table lead.

    A cell is tried as a path from the table's folder (an absolute one as it is) and, under each folder of images, as a
    path from it, as the end of a path, and as a name with and without its suffix. Backslashes are slashes, and letters
    with marks may be composed or not. What fits several files is refused, never guessed.

    Parameters
    ----------
    beside : the folder of the table
    folders : of images, searched to the bottom; none = only paths from the table
    """

    def __init__(self, beside: Path, folders: Sequence[Path], what: str) -> None:
        self._beside, self._folders, self._what = beside, folders, what

    @cached_property
    def trees(self) -> list[Tree]:
        """What lies under the folders of images."""
        missing = [str(folder) for folder in self._folders if not folder.is_dir()]
        if missing:
            raise DataError(f"There is no folder {quoted(missing)} for --images; expected a folder with images in it.")
        return [walk(folder, f"folder '{folder}' of --images") for folder in self._folders]

    def resolve(self, cells: Sequence[str]) -> list[str]:
        """Return the file of each cell: its path from the table's folder, or an absolute one.

        Raises
        ------
        DataError
            Cells lead nowhere, or to several files.
        """
        found: dict[str, str | None] = {}
        several: dict[str, list[str]] = {}
        for cell in dict.fromkeys(cells):
            candidates = self.find(cell)
            found[cell] = candidates[0] if len(candidates) == 1 else None
            if len(candidates) > 1:
                several[cell] = candidates
        if several:
            first = next(iter(several))
            raise DataError(
                f"{self._what} has {len(several)} {plural(len(several), 'name')} that fit several files, '{first}' "
                f"for one: {quoted(several[first], 3)}; expected one each: name a folder that holds only one of them "
                "with --images, or write paths into the table."
            )
        missing = [cell for cell in found if found[cell] is None]
        if missing:
            raise DataError(self._missing(missing))
        return [found[cell] or "" for cell in cells]

    def fits(self, cells: Sequence[str]) -> bool:
        """Tell whether all of the first few cells lead to files."""
        return bool(cells) and all(cell and self.find(cell) for cell in dict.fromkeys(cells[:_SAMPLE]))

    def find(self, cell: str) -> list[str]:
        """Return the files that a cell may mean, those of the most exact reading alone."""
        if not cell or (self._beside / cell).is_file():
            return [cell] if cell else []
        name = unicodedata.normalize("NFC", cell.replace("\\", "/"))
        near = self._written_otherwise(name)
        if near is not None:
            return [near]
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        if not parts or not self._folders:
            return []
        by_name = _fitting(parts, self._by_name.get(parts[-1], []))
        stem = _stem(parts[-1])
        return by_name or _fitting([*parts[:-1], stem], self._by_stem.get(stem, []))

    def _written_otherwise(self, name: str) -> str | None:
        """Return the path of a name whose slashes or letters with marks are written in another way."""
        if (self._beside / name).is_file():
            return name
        found = PurePosixPath()
        for part in PurePosixPath(name).parts:
            last = part if (self._beside / found / part).exists() else self._composed(self._beside / found).get(part)
            if last is None:
                return None
            found /= last
        return str(found) if (self._beside / found).is_file() else None

    def _composed(self, folder: Path) -> Mapping[str, str]:
        known = self._listings.get(folder)
        if known is None:
            try:
                names = [entry.name for entry in folder.iterdir() if not entry.name.isascii()]
            except OSError:
                names = []
            known = self._listings[folder] = {unicodedata.normalize("NFC", entry): entry for entry in names}
        return known

    @cached_property
    def _listings(self) -> dict[Path, Mapping[str, str]]:
        return {}

    @cached_property
    def _by_name(self) -> Mapping[str, list[tuple[list[str], str]]]:
        index: dict[str, list[tuple[list[str], str]]] = {}
        for folder, tree in zip(self._folders, self.trees, strict=True):
            start = os.path.relpath(folder, self._beside) if not folder.is_absolute() else str(folder)
            for file in tree.files:
                if kind_of_name(file) not in _SEARCHED:
                    continue
                parts = unicodedata.normalize("NFC", file).split("/")
                index.setdefault(parts[-1], []).append((parts, file if start == "." else f"{start}/{file}"))
        return index

    @cached_property
    def _by_stem(self) -> Mapping[str, list[tuple[list[str], str]]]:
        index: dict[str, list[tuple[list[str], str]]] = {}
        for places in self._by_name.values():
            for parts, file in places:
                stem = _stem(parts[-1])
                index.setdefault(stem, []).append(([*parts[:-1], stem], file))
        return index

    def unnamed(self, used: Sequence[str]) -> dict[str, list[str]]:
        """Return the files under the folders of images that no row names, by why that may be."""
        named = {os.path.realpath(self._beside / file) for file in used}
        left: dict[str, list[str]] = {}
        for folder, tree in zip(self._folders, self.trees, strict=True):
            images, others = tree.sort_out(tree.files)
            for reason, files in {"in no row of the table": images, **others}.items():
                absent = [file for file in files if os.path.realpath(folder / file) not in named]
                if absent:
                    left.setdefault(reason, []).extend(absent)
        return left

    def _missing(self, missing: Sequence[str]) -> str:
        nowhere = [cell for cell in missing if (self._beside / cell).is_symlink()]
        links = f" ({len(nowhere)} {NOWHERE})" if nowhere else ""
        searched = f"relative to '{self._beside}'"
        remedy = "put them there, take their rows out, or name the folder that they lie under with --images"
        if self._folders:
            searched += f" or under {quoted([str(folder) for folder in self._folders])}"
            remedy = "put them there, or take their rows out"
        return (
            f"{self._what} names {len(missing)} {plural(len(missing), 'file')} that "
            f"{plural(len(missing), 'is', 'are')} not there{links}, {searched}: {quoted(missing, _LISTED)}; {remedy}."
        )


def _stem(name: str) -> str:
    """Return a name without the suffix of an image: that of 1.2.840 has none."""
    path = PurePosixPath(name)
    return path.stem if path.suffix and kind_of_name(name) in ("picture", "dicom") else name


def _fitting(cell: Sequence[str], places: Sequence[tuple[list[str], str]]) -> list[str]:
    """Return the files that a cell fits best: all of the cell or all of the file's path has to agree."""
    fitting: dict[int, list[str]] = {}
    for parts, file in places:
        shared = 0
        for mine, theirs in zip(reversed(cell), reversed(parts), strict=False):
            if mine != theirs:
                break
            shared += 1
        if shared == min(len(cell), len(parts)):
            fitting.setdefault(shared, []).append(file)
    return sorted(set(fitting[max(fitting)])) if fitting else []
