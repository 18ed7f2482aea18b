"""One domain held out: rows for training, rows for measuring, and checks that this is possible.

A domain is where images come from: a laboratory, a hospital, a scanner. To measure how good a student is in an unseen
domain, it is trained without that domain, once for each (leave-one-domain-out; Gulrajani and Lopez-Paz, In search of
lost domain generalization, ICLR 2021, arXiv:2007.01434). Epoch, α and temperature are chosen on val of the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...cache.errors import CacheMismatch
from ...cache.reader import Cache
from ...pipeline.datasets import exclude_flags
from ...pipeline.datasets.columns.units import find_units
from .load import SplitTargets, Targets

__all__ = ["HeldOut", "find_domains", "leave_out"]

_FEWEST = 2  # train images of a class, as stage one has it
_LONGEST = 40


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A domain to be held out.

    Attributes
    ----------
    code : index into `Targets.domains`
    folder : its folder in the run; not every domain's name is a valid folder name
    rows : of each split, once it is held out
    tied : images of other domains that are left out with it: of its patients, or copies of its images
    epochs : passes over train without it
    """

    name: str
    code: int
    folder: str
    rows: Mapping[str, int]
    tied: int
    epochs: int = 0


def find_domains(targets: Targets, cache: Cache) -> tuple[HeldOut, ...]:
    """Return the domains that have images; refuse if training without one of them is impossible.

    Raises
    ------
    CacheMismatch
        Fewer than two domains are known, or the others of one leave a class or val without images.
    """
    codes = np.unique(np.concatenate([part.domain for part in targets.splits.values()]))
    codes = codes[codes >= 0]
    if len(codes) < 2:
        known = f"only the domain '{targets.domains[codes[0]]}'" if len(codes) else "no domains"
        raise CacheMismatch(
            f"--leave-one-domain-out needs images of two domains or more, and cache '{cache.path}' has {known}; "
            "nothing was trained. Make the cache from a table with a column 'domain' (--domain-column)."
        )
    found: list[HeldOut] = []
    for code in codes.tolist():
        name = targets.domains[code]
        left = leave_out(targets, code)
        _check(left, name, cache)
        taken = [one.folder for one in found]
        rows = {split: len(part) for split, part in left.splits.items()}
        tied = left.fit["tied_to_domain"]
        found.append(HeldOut(name=name, code=code, folder=_folder(name, taken), rows=rows, tied=tied))
    return tuple(found)


def leave_out(targets: Targets, code: int) -> Targets:
    """Return train and val without a domain, and all of its images as test, whatever their split.

    An image of unknown domain may be of the one that is left out, and a patient or a copy of an image in it is known to
    it, so these are in neither.

    Parameters
    ----------
    code : index into `targets.domains`
    """
    names = list(targets.splits)
    key, group, domain = (
        np.concatenate([getattr(targets.splits[name], column) for name in names])
        for column in ("key", "group", "domain")
    )
    unit = find_units(key, group)
    tied = np.isin(unit, unit[domain == code]) & (domain != code) & (domain >= 0)
    learned = (domain >= 0) & (domain != code) & ~tied
    ends = np.cumsum([len(targets.splits[name]) for name in names])[:-1]
    by_split = dict(zip(names, np.split(learned, ends), strict=True))
    splits = {name: targets.splits[name].take(by_split[name]) for name in ("train", "val")}
    splits["test"] = SplitTargets.together([part.take(part.domain == code) for part in targets.splits.values()])
    # Rows of the old test from other domains are not used here.
    old = np.concatenate([np.full(len(targets.splits[name]), name != "test") for name in names])
    fit = {**targets.fit, "without_domain": int(((domain < 0) & old).sum()), "tied_to_domain": int((tied & old).sum())}
    return replace(targets, splits=splits, fit=fit)


def _check(left: Targets, name: str, cache: Cache) -> None:
    train, val = left.splits["train"], left.splits["val"]
    if not len(val) or not len(train):
        where = "val" if len(train) else "train"
        raise CacheMismatch(
            f"Without the domain '{name}', cache '{cache.path}' has no image left in {where}, and "
            "--leave-one-domain-out trains and chooses on the other domains only; nothing was trained. Put images of "
            f"another domain into {where}."
        )
    rare = [
        (one, count)
        for one, count in zip(left.classes, _count(train.label, left).tolist(), strict=True)
        if count < _FEWEST
    ]
    if rare:
        listed = ", ".join(f"'{one}' ({count})" for one, count in rare)
        raise CacheMismatch(
            f"Without the domain '{name}', train of cache '{cache.path}' has too few images of {listed}; expected "
            f"{_FEWEST} or more. Nothing was trained. Leave these classes out: medal reprobe {cache.path} OTHER "
            f"{exclude_flags([one for one, _ in rare])}, then train with OTHER."
        )


def _count(label: npt.NDArray[np.generic], targets: Targets) -> npt.NDArray[np.int64]:
    """Return how many rows have each class, (C,); of a label, how many are 0 or how many are 1, the fewer."""
    if targets.task == "multilabel":
        return np.asarray(np.minimum((label == 0).sum(0), (label == 1).sum(0)), np.int64)
    return np.array([(label == code).sum() for code in range(len(targets.classes))], np.int64)


def _folder(name: str, taken: Sequence[str]) -> str:
    """Return a folder's name of letters, digits, dots, dashes and underscores that no other domain has."""
    safe = "domain-" + (re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_LONGEST].strip("-.") or "x")
    if safe.lower() not in (one.lower() for one in taken):  # some file systems know no case
        return safe
    number = 2
    while f"{safe}-{number}".lower() in (one.lower() for one in taken):
        number += 1
    return f"{safe}-{number}"
