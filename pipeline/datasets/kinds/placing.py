"""Which class and which split the folders of an image say it is of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ....cache.errors import DataError
from ....cache.text import plural, quoted
from ..columns.dataset import DatasetOptions
from ..columns.splits import find_split, name_likely_splits
from ..pixels.file_kinds import kind_of_name
from .tree import DOCUMENTS, Tree

__all__ = ["Placed", "place_images"]

# Reasons for which an image stands in no class.
LOOSE, DEEPER, OUTSIDE, UNMATCHED = (
    "in no class's folder",
    "in folders inside the classes' folders",
    "outside the split folders",
    "not matched by --class-pattern",
)
_LISTED = 5


@dataclass
class Placed:
    """Images with their class and their split, in order.

    Attributes
    ----------
    split : one an image, -1 where its folders name none
    left : the images that are in no class, by reason
    empty : classes that folders name and that have no image
    notes : what looks odd, in words
    """

    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    split: list[int] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def put(self, name: str, label: str, split: int) -> None:
        self.names.append(name)
        self.classes.append(label)
        self.split.append(split)

    def leave(self, name: str, reason: str) -> None:
        self.left.setdefault(reason, []).append(name)


def place_images(
    tree: Tree, images: Sequence[str], left: dict[str, list[str]], options: DatasetOptions, what: str
) -> Placed:
    """Place images by their folders, or by what the options say of their paths.

    Parameters
    ----------
    left : the files that are no images, by reason

    Raises
    ------
    DataError
        Folders are links to nothing, are splits where classes are expected, or hold nothing that can be read.
    """
    split_names = dict(options.split_names)
    if options.unlabelled:
        placed = Placed()
        for name in images:
            placed.put(name, "", -1)
        return placed
    if options.class_pattern is not None:
        return _with_word_of_splits(_by_pattern(images, options.class_pattern, split_names, what))
    if options.class_level is not None:
        _refuse_nowhere(tree, options.class_level, options.exclude_classes, what)
        return _with_word_of_splits(_by_level(images, options.class_level, split_names, what))
    return _usual(tree, images, left, options, split_names, what)


def _by_pattern(images: Sequence[str], pattern: str, split_names: dict[str, str], what: str) -> Placed:
    compiled = re.compile(pattern)
    placed = Placed()
    for name in images:
        match = compiled.search(name)
        if match is None:
            placed.leave(name, UNMATCHED)
            continue
        label = match["class"] if "class" in compiled.groupindex else match[min(compiled.groups, 1)]
        if not label:
            placed.leave(name, UNMATCHED)
            continue
        said = match["split"] if "split" in compiled.groupindex else None
        split = find_split(said, split_names) if said else _split_of(name.split("/")[:-1], -1, split_names)
        placed.put(name, label, split)
    if images and not placed.names:
        raise DataError(
            f"{what} has no image whose path --class-pattern '{pattern}' matches, '{images[0]}' for one; expected a "
            "regular expression whose first group is the class."
        )
    return placed


def _with_word_of_splits(placed: Placed) -> Placed:
    """Say that folders look like splits where none has been read as one."""
    if max(placed.split, default=0) >= 0:
        return placed
    paths = [name.split("/")[:-1] for name in placed.names]
    for level in range(max(map(len, paths))):
        folders = {path[level] for path in paths if len(path) > level}
        likely = name_likely_splits(folders - set(placed.classes))
        if likely:
            placed.notes.append(
                f"folders look like splits and are not read as such: --split-names {likely} reads them, else splits "
                "are drawn"
            )
    return placed


def _split_of(folders: Sequence[str], but: int, split_names: dict[str, str]) -> int:
    """Return the split that the first of some folders names, the one at `but` left out; -1 if none does."""
    found = (find_split(name, split_names) for place, name in enumerate(folders) if place != but)
    return next((split for split in found if split >= 0), -1)


def _by_level(images: Sequence[str], level: int, split_names: dict[str, str], what: str) -> Placed:
    placed = Placed()
    for name in images:
        folders = name.split("/")[:-1]
        if len(folders) < level:
            placed.leave(name, LOOSE)
        else:
            placed.put(name, folders[level - 1], _split_of(folders, level - 1, split_names))
    found = sorted(set(placed.classes))
    if found and level < 2 and all(find_split(name, split_names) >= 0 for name in found):
        raise DataError(
            f"{what} has {quoted(found, _LISTED)} for classes with --class-level {level}, which are names of splits; "
            f"expected classes: --class-level {level + 1} takes the folders in them."
        )
    return _without_outsiders(placed)


def _without_outsiders(placed: Placed) -> Placed:
    """Leave out what is in no split, where folders of splits hold the rest."""
    if not placed.names or max(placed.split) < 0 or min(placed.split) >= 0:
        return placed
    kept = Placed(left=placed.left)
    for name, label, split in zip(placed.names, placed.classes, placed.split, strict=True):
        if split < 0:
            kept.leave(name, OUTSIDE)
        else:
            kept.put(name, label, split)
    return kept


def _refuse_nowhere(tree: Tree, depth: int, excluded: Sequence[str], what: str) -> None:
    """Refuse links to nothing where folders of classes or splits stand: a class would be missing without a word."""
    for name, target in sorted(tree.nowhere.items()):
        last = name.rpartition("/")[2]
        if name.count("/") < depth and kind_of_name(name) == "unknown" and last not in excluded:
            raise DataError(
                f"{what} has the folder '{name}', which is a link to nothing ('{target}'); expected images there: "
                f"mount or fetch it, or leave it out with --exclude-class {last}."
            )


def _usual(
    tree: Tree,
    images: Sequence[str],
    left: dict[str, list[str]],
    options: DatasetOptions,
    split_names: dict[str, str],
    what: str,
) -> Placed:
    """Place by ``SPLIT/CLASS/file`` where folders at the top are splits that hold folders, else by ``CLASS/file``."""
    files = [*images, *(name for names in left.values() for name in names)]
    tops = [name for name in tree.folders if "/" not in name]
    splits = {name: split for name in tops if (split := find_split(name, split_names)) >= 0}
    likely = None if splits else name_likely_splits(tops)
    if likely:
        raise DataError(
            f"{what} has folders of classes that look like splits, {quoted(tops, _LISTED)}; expected classes: "
            f"--split-names {likely} reads these as splits, --class-level 1 as classes."
        )
    filled = Counter(name.split("/")[0] for name in files if name.count("/") > 1)
    depth = 2 if any(filled[name] for name in splits) else 1
    placed = Placed()
    for name in images:
        folders = name.split("/")[:-1]
        if depth > 1 and folders and folders[0] not in splits:
            placed.leave(name, OUTSIDE)
        elif len(folders) < depth or (depth == 1 and folders[0] in splits):
            placed.leave(name, LOOSE)
        elif len(folders) > depth:
            placed.leave(name, DEEPER)
        else:
            placed.put(name, folders[-1], splits[folders[0]] if depth > 1 else -1)
    loose = [name for name in placed.left.get(LOOSE, ()) if name.split("/")[0] in splits]
    if depth == 1 and loose:
        raise DataError(_splits_for_classes(splits, tops, len(placed.left[LOOSE]), what))
    _refuse_nowhere(tree, depth, options.exclude_classes, what)
    _check_filled(tree, placed, left, splits if depth > 1 else None, options, what)
    return placed


def _splits_for_classes(splits: dict[str, int], tops: Sequence[str], loose: int, what: str) -> str:
    others = [name for name in tops if name not in splits]
    beside = f", beside {quoted(others, _LISTED)}" if others else ""
    several = len(splits) > 1
    return (
        f"{what} has {loose} {plural(loose, 'image')} but no folder that says of which class; {quoted(list(splits))} "
        f"{'are names of splits' if several else 'is the name of a split'}{beside}, and no class: expected "
        "SPLIT/CLASS/file or CLASS/file: sort them so, take the class from the path with --class-pattern, name them "
        "in a .csv table, or say --class-level 1 if these folders are the classes."
    )


def _check_filled(
    tree: Tree,
    placed: Placed,
    left: dict[str, list[str]],
    splits: dict[str, int] | None,
    options: DatasetOptions,
    what: str,
) -> None:
    """Refuse folders of classes whose files are all passed over, and note those that are empty."""
    depth = 1 if splits is None else 2
    folders = [
        name
        for name in tree.folders
        if name.count("/") == depth - 1 and (splits is None or name.split("/")[0] in splits)
    ]
    used = Counter("/".join(name.split("/")[:depth]) for name in placed.names)
    passed: dict[str, Counter[str]] = {}
    example: dict[str, str] = {}
    for reason, names in {**left, **placed.left}.items():
        for name in names:
            folder = "/".join(name.split("/")[:depth])
            passed.setdefault(folder, Counter())[reason] += 1
            if reason != DOCUMENTS:
                example.setdefault(folder, name)
    for folder in folders:
        last = folder.rpartition("/")[2]
        if used[folder] or last in options.exclude_classes:
            continue
        reasons = passed.get(folder, Counter())
        if any(reason != DOCUMENTS for reason in reasons) and placed.names:
            raise DataError(_unread(folder, reasons, example[folder], depth, what))
        placed.empty.append(folder)


def _unread(folder: str, reasons: Counter[str], example: str, depth: int, what: str) -> str:
    seen = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    remedy = "convert them to PNG"
    if DEEPER in reasons:
        remedy = f"--class-level {depth} takes images at any depth below the class's folder"
    return (
        f"{what} has the folder '{folder}' without an image that is read ({seen}; '{example}' for one); expected "
        f"images of every class: {remedy}, or leave it out with --exclude-class {PurePosixPath(folder).name}."
    )
