"""The files that a table's cells mean: beside the table, or anywhere under folders of images."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from .....cache.errors import DataError
from .....cache.text import plural, quoted
from ...pixels.file_kinds import IMAGES, kind_of_name, stem_of
from ..tree import Tree, walk

__all__ = ["Lookup", "Names"]

_LISTED = 20
_SAMPLE = 32
_SEARCHED = {*IMAGES, "unknown"}  # what a file may be by its name to be looked for


class Names:
    """Paths that are found by all of them, by their end, and by their end without a suffix.

    Backslashes are slashes, and letters with marks may be composed or not.

    Parameters
    ----------
    paths : with slashes
    meant : what is returned of each; None = the path itself
    """

    def __init__(self, paths: Iterable[str], meant: Iterable[str] | None = None) -> None:
        index: dict[str, list[tuple[list[str], str]]] = {}
        paths = list(paths)
        for path, value in zip(paths, paths if meant is None else meant, strict=True):
            parts = _parts(path)
            if parts:
                index.setdefault(parts[-1], []).append((parts, value))
        self._by_name = index

    def find(self, name: str) -> list[str]:
        """Return what fits a name best: all of the name or all of the path has to agree."""
        parts = _parts(name)
        if not parts:
            return []
        stem = _stem(parts[-1])
        by_name = _fitting(parts, self._by_name.get(parts[-1], []))
        return by_name or _fitting([*parts[:-1], stem], self._by_stem.get(stem, []))

    @cached_property
    def _by_stem(self) -> Mapping[str, list[tuple[list[str], str]]]:
        index: dict[str, list[tuple[list[str], str]]] = {}
        for places in self._by_name.values():
            for parts, value in places:
                stem = _stem(parts[-1])
                index.setdefault(stem, []).append(([*parts[:-1], stem], value))
        return index


def _parts(name: str) -> list[str]:
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    return [part for part in name.split("/") if part not in ("", ".", "..")]


class Lookup:
    """Where cells of a table lead.

    A cell is tried as a path from the table's folder (an absolute one as it is) and, under each folder of images, as a
    path from it, as the end of a path, and as a name with and without its suffix. Backslashes are slashes, and letters
    with marks may be composed or not. What fits several files is refused, never guessed.

    Parameters
    ----------
    beside : the folder of the table
    folders : of images, searched to the bottom; none = only paths from the table
    keep_missing : a file that is not there is one all the same, if most are there
    """

    def __init__(self, beside: Path, folders: Sequence[Path], what: str, *, keep_missing: bool = False) -> None:
        self._beside, self._folders, self._what, self._keep_missing = beside, folders, what, keep_missing

    @cached_property
    def trees(self) -> list[Tree]:
        """What lies under the folders of images."""
        missing = [str(folder) for folder in self._folders if not folder.is_dir()]
        if missing:
            raise DataError(f"There is no folder {quoted(missing)} for --images; expected a folder with images in it.")
        return [walk(folder, f"folder '{folder}' of --images") for folder in self._folders]

    def resolve(self, cells: Sequence[str], starts: Sequence[str] | None = None) -> list[str]:
        """Return the file of each cell: its path from the table's folder, or an absolute one.

        A link to nothing is a file here; whether it may be left out is decided where it is read.

        Parameters
        ----------
        starts : of each cell, the folder that it starts from, as a path from the table's; None = all from the table's

        Raises
        ------
        DataError
            Cells lead nowhere or to several files, or several of them to one.
        """
        places = list(zip(cells, starts or [""] * len(cells), strict=True))
        found: dict[tuple[str, str], str] = {}
        several: dict[str, list[str]] = {}
        missing: list[tuple[str, str]] = []
        searched: dict[str, str] = {}
        for place in dict.fromkeys(places):
            cell, start = place
            candidates = self.find(cell, start)
            if len(candidates) > 1:
                several[cell] = candidates
            elif not candidates:
                missing.append(place)
            else:
                found[place] = file = candidates[0]
                other = searched.setdefault(file, cell)
                if other != cell and _parts(other) != _parts(cell):
                    raise DataError(
                        f"{self._what} has '{other}' and '{cell}', and '{file}' is the only file that either fits; "
                        "expected a file for each: are folders missing under --images?"
                    )
        if several:
            first = next(iter(several))
            raise DataError(
                f"{self._what} has {len(several)} {plural(len(several), 'name')} that fit several files, '{first}' "
                f"for one: {quoted(several[first], 3)}; expected one each: name a folder that holds only one of them "
                "with --images, or write paths into the table."
            )
        near = {(cell, start): f"{start}/{cell}" if start else cell for cell, start in missing}
        if missing and not (self._keep_missing and len(missing) < len(found)):
            raise DataError(self._missing(list(near.values())))
        found |= near
        return [found[place] for place in places]

    def fits(self, cells: Sequence[str]) -> bool:
        """Tell whether all of the first few cells lead to files."""
        return bool(cells) and all(cell and self.find(cell) for cell in dict.fromkeys(cells[:_SAMPLE]))

    def find(self, cell: str, start: str = "") -> list[str]:
        """Return the files that a cell may mean, those of the most exact reading alone."""
        if not cell:
            return []
        near = f"{start}/{cell}" if start and not PurePosixPath(cell).is_absolute() else cell
        if self.is_beside(near):
            return [near]
        other = self._written_otherwise(unicodedata.normalize("NFC", near.replace("\\", "/")))
        if other is not None:
            return [other]
        return self._names.find(cell) if self._folders else []

    def is_beside(self, name: str) -> bool:
        """Tell whether a path from the table's folder leads to a file, or to a link to one that is missing."""
        path = _join(self._beside, name)
        # A Path for each of a hundred thousand cells takes longer than asking for the file.
        return os.path.isfile(path) or os.path.islink(path)  # noqa: PTH113, PTH114

    def _written_otherwise(self, name: str) -> str | None:
        """Return the path of a name whose slashes or letters with marks are written in another way."""
        if self.is_beside(name):
            return name
        found = PurePosixPath()
        for part in PurePosixPath(name).parts:
            here = self._beside / found
            last = part if part == ".." or (here / part).exists() else self._composed(here).get(part)
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
    def _names(self) -> Names:
        paths, meant = [], []
        for folder, tree in zip(self._folders, self.trees, strict=True):
            start = os.path.relpath(folder, self._beside) if not folder.is_absolute() else str(folder)
            for file in tree.files:
                if kind_of_name(file) in _SEARCHED:
                    paths.append(file)
                    meant.append(file if start == "." else f"{start}/{file}")
        return Names(paths, meant)

    def unnamed(self, used: Sequence[str]) -> dict[str, list[str]]:
        """Return the files under the folders of images that no row names, by why that may be."""
        left: dict[str, list[str]] = {}
        if not self._folders:
            return left
        places: dict[str, str] = {}

        def place_of(path: str) -> str:
            """Return a path whose folders are no links; there are far fewer of them than files."""
            folder, _, name = path.rpartition("/")
            if folder not in places:
                places[folder] = os.path.realpath(folder)
            return f"{places[folder]}/{name}"

        named = {place_of(_join(self._beside, file)) for file in used}
        for folder, tree in zip(self._folders, self.trees, strict=True):
            images, others = tree.sort_out(tree.files)
            for reason, files in {"in no row of the table": images, **others}.items():
                absent = [file for file in files if place_of(_join(folder, file)) not in named]
                if absent:
                    left.setdefault(reason, []).extend(absent)
        return left

    def _missing(self, missing: Sequence[str]) -> str:
        searched = f"relative to '{self._beside}'"
        remedy = "put them there, name the folder that they lie under with --images"
        if self._folders:
            searched += f" or under {quoted([str(folder) for folder in self._folders])}"
            remedy = "put them there"
        remedy += ", or leave them out: take out their rows, or give cache-teacher --on-bad-image skip"
        return (
            f"{self._what} names {len(missing)} {plural(len(missing), 'file')} that "
            f"{plural(len(missing), 'is', 'are')} not there, {searched}: {quoted(missing, _LISTED)}; {remedy}."
        )


def _join(folder: Path, name: str) -> str:
    return name if name.startswith("/") else f"{folder}/{name}"


def _stem(name: str) -> str:
    """Return a name without the suffix of an image: that of 1.2.840 has none."""
    return stem_of(name) if PurePosixPath(name).suffix and kind_of_name(name) in IMAGES else name


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
