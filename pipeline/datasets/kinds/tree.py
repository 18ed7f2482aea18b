"""What lies in a folder, to the bottom, and which of it is an image."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from ....cache.errors import DataError
from ....cache.machine.system_files import is_nobodys
from ....cache.text import quoted
from ..pixels.file_kinds import IMAGES, VOLUMES, FileKind, kind_of_content, kind_of_name, stem_of, suffix_of

__all__ = ["DOCUMENTS", "MASKS", "NOWHERE", "OTHERS", "Tree", "find_masks", "others_beside", "walk"]

# Reasons for which a file is no image of a dataset.
MASKS = "masks"
NOWHERE = "links to nothing"
OTHERS = "other formats"
DOCUMENTS = "documents"

_WORDS = (
    r"(?:masks?|msks?|lbls?|seg|segs|segmentations?|labels?|labelmap|gt|ground[ _-]?truth|annotations?|annotated|"
    r"manual|superpixels?|contours?|outlines?|overlays?)"
)
# What an outline of X is called beside X: X_mask, X_mask_1, X-seg, X_lesion_segmentation, X_label2, Xmask, mask_X.
_BESIDE = (
    re.compile(rf"(?P<image>.+?)[ _.-]+(?:[a-z]+[ _-])?{_WORDS}(?:[ _.-]*\(?\d*\)?)?", re.IGNORECASE),
    re.compile(r"(?P<image>.+?)mask", re.IGNORECASE),
    re.compile(rf"{_WORDS}[ _.-]+(?P<image>.+)", re.IGNORECASE),
)
_LISTED = 5
# Quicker, and all that most need.
_WORD = re.compile("mask|msk|lbl|seg|label|gt|truth|annot|manual|superp|contour|outline|overlay", re.IGNORECASE)
_MASK_FOLDER = re.compile(rf"(?:\w+[ _-])?{_WORDS}", re.IGNORECASE)


@dataclass
class Tree:
    """The files of a folder, named from it with forward slashes.

    Attributes
    ----------
    files : all but the system's, sorted by folder and name; links to nothing are among them
    nowhere : those of `files` that are links to nothing, and where they point to
    folders : all folders, the system's left out
    system : how many entries were the system's own
    """

    path: Path
    files: list[str] = field(default_factory=list)
    nowhere: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    system: int = 0

    def kind(self, name: str) -> FileKind:
        """Tell what a file is; only one whose name does not say is opened."""
        known = kind_of_name(name)
        if known != "unknown":
            return known
        # What is not there could be anything: it is asked after, not passed over.
        return "picture" if name in self.nowhere else kind_of_content(self.path / name)

    def sort_out(self, names: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
        """Part the images among some files from the others, which stand under the reason they are none for."""
        images: list[str] = []
        left: dict[str, list[str]] = {}
        for name in names:
            kind = self.kind(name)
            if kind in IMAGES:
                images.append(name)
            elif name in self.nowhere:
                left.setdefault(NOWHERE, []).append(name)
            else:
                left.setdefault(DOCUMENTS if kind == "document" else OTHERS, []).append(name)
        masks = find_masks(images)
        if masks:
            left[MASKS] = sorted(masks)
            images = [name for name in images if name not in masks]
        return images, left


def walk(path: Path, what: str) -> Tree:
    """Look through a folder to the bottom; links to folders are followed, but not in a circle.

    Raises
    ------
    DataError
        A folder cannot be listed.
    """
    tree = Tree(path)
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        below: list[str] = []
        for entry in sorted(_entries(path / inside, what), key=lambda entry: entry.name):
            name = f"{inside}{entry.name}"
            if is_nobodys(entry.name):
                tree.system += 1
            elif entry.is_dir():
                if not (entry.is_symlink() and _is_circle(entry, path / inside)):
                    below.append(name)
            else:
                tree.files.append(name)
                if entry.is_symlink() and not entry.is_file():
                    tree.nowhere[name] = str(Path(entry).readlink())
        tree.folders += below
        waiting += [f"{name}/" for name in reversed(below)]
    return tree


def _entries(path: Path, what: str) -> Iterator[os.DirEntry[str]]:
    try:
        # scandir knows files from folders without asking for each: a hundred thousand take a moment.
        with os.scandir(path) as found:
            yield from list(found)
    except OSError as exc:
        raise DataError(f"{what} cannot be listed ('{path}': {exc.strerror}).") from exc


def _is_circle(entry: os.DirEntry[str], inside: Path) -> bool:
    target = os.path.realpath(entry)
    here = os.path.realpath(inside)
    return here == target or here.startswith(target.rstrip(os.sep) + os.sep)


def find_masks(names: Iterable[str]) -> set[str]:
    """Return the images that are outlines of others: ``X_mask.png`` by ``X.png``, ``masks/X.png`` by ``images/X.png``.

    Parameters
    ----------
    names : image files, with forward slashes
    """
    folders: dict[str, dict[str, list[str]]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], {}).setdefault(stem_of(name), []).append(name)
    masks: set[str] = set()
    for stems in folders.values():
        beginnings = cache(partial(_beginnings, stems))
        for stem, files in stems.items():
            images = _images_of(stem)
            of_scan = bool(images) and suffix_of(files[0]) in VOLUMES
            if any(image in stems or (of_scan and image in beginnings()) for image in images):
                masks.update(files)
    likely = [(folder, place) for folder in folders for place in _mask_places(folder)]
    # By what stands before and behind the folder that is called masks: images/train/1.png by masks/train/1.png.
    alike: dict[tuple[str, str], list[str]] = {}
    for folder in folders if likely else ():
        for place in range(folder.count("/") + 1):
            alike.setdefault(_around(folder, place), []).append(folder)
    for folder, place in likely:
        others = alike[_around(folder, place)]
        if any(other != folder and _cover(folders[folder], folders[other]) for other in others):
            masks.update(name for files in folders[folder].values() for name in files)
    return masks


def _images_of(stem: str) -> list[str]:
    """Return the stems that an outline of this stem may be of."""
    if not _WORD.search(stem):
        return []
    return [found["image"] for pattern in _BESIDE if (found := pattern.fullmatch(stem)) is not None]


def _beginnings(stems: Iterable[str]) -> set[str]:
    """Return what scans are called but for their last words: ``X_seg.nii.gz`` outlines ``X_t1.nii.gz``."""
    scans = [stem for stem in stems if not _images_of(stem)]
    return {stem[:end] for stem in scans for end, sign in enumerate(stem) if sign in "_-."}


def _mask_places(folder: str) -> list[int]:
    if not _WORD.search(folder):
        return []
    return [place for place, name in enumerate(folder.split("/")) if _MASK_FOLDER.fullmatch(name)]


def _around(folder: str, place: int) -> tuple[str, str]:
    names = folder.split("/")
    return "/".join(names[:place]), "/".join(names[place + 1 :])


def _cover(masks: dict[str, list[str]], images: dict[str, list[str]]) -> bool:
    """Tell whether most masks of a folder are named by an image of another, with or without a mask's ending."""

    covered = sum(stem in images or any(image in images for image in _images_of(stem)) for stem in masks)
    return 2 * covered > len(masks)


def others_beside(path: Path) -> str:
    """Name, for a message, the files of the same kind in the folder of one that is not there."""
    if not path.parent.is_dir():
        return f", nor a folder '{path.parent}'"
    others = sorted(file.name for file in path.parent.glob(f"*{path.suffix}"))
    return f"; '{path.parent}' has {quoted(others, _LISTED)}" if others else ""
