"""Names beside an axis: short, distinct, and in letters that a font on this machine has."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from ...cache.text import plain

__all__ = ["Lettering", "letter", "shorten"]

_LONGEST = 24  # signs of a name; longer ones would leave no room for what they name
_OWN = "DejaVu Sans"  # comes with matplotlib
# Families with the letters that it lacks, as systems have them; of those that are there, the first that helps counts.
_FURTHER = (
    *(f"Noto Sans CJK {where}" for where in ("SC", "JP", "KR", "TC")),
    *("Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC", "Source Han Sans CN"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "AR PL UMing CN"),
    *("IPAexGothic", "IPAGothic", "TakaoGothic", "NanumGothic"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic", "PingFang SC", "Hiragino Sans"),
    *("Noto Sans Arabic", "Noto Naskh Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS", "Unifont"),
)
# From this version on matplotlib joins and orders letters as Arabic needs.
_SHAPES = (3, 11)


class Lettering(NamedTuple):
    """How names are drawn.

    Attributes
    ----------
    labels : one for each name; a name that cannot be drawn is its number, from 1, in the order of the names
    families : fonts that have their letters, as matplotlib's ``font.family`` takes them
    legend : explains the numbers, empty if there are none
    """

    labels: list[str]
    families: list[str]
    legend: str


def shorten(names: Sequence[str]) -> list[str]:
    """Return names shortened to fit beside an axis, all different; characters that cannot be drawn are escaped."""
    cut = [safe if len(safe) <= _LONGEST else f"{safe[: _LONGEST - 1]}…" for safe in map(plain, names)]
    times = Counter(cut)
    return [f"{index} {one}" if times[one] > 1 else one for index, one in enumerate(cut, 1)]


def letter(names: Sequence[str], further: Sequence[str] = _FURTHER) -> Lettering:
    """Choose labels and fonts for names that matplotlib is to draw as a picture.

    Parameters
    ----------
    further : families to look for where matplotlib's own font lacks a letter
    """
    labels = shorten(names)
    families = [_OWN]
    for family in further:
        missing = {sign for label in labels for sign in label if not _has(families, sign)}
        if not missing:
            break
        if missing & _signs(family):
            families.append(family)
    numbered = [str(index) if not _readable(label, families) else label for index, label in enumerate(labels, 1)]
    legend = (
        ""
        if numbered == labels
        else ("Numbers are classes in the order of run.json: no font on this machine has their letters")
    )
    return Lettering(numbered, families, legend)


def _readable(label: str, families: Sequence[str]) -> bool:
    import matplotlib as mpl

    turned = any(unicodedata.bidirectional(sign) in ("R", "AL") for sign in label)
    if turned and tuple(mpl.__version_info__[:2]) < _SHAPES:
        return False
    return all(_has(families, sign) for sign in label)


def _has(families: Sequence[str], sign: str) -> bool:
    return any(sign in _signs(family) for family in families)


@cache
def _signs(family: str) -> frozenset[str]:
    """Return the characters that a family has; none where it is not installed."""
    from matplotlib import font_manager

    path = next((font.fname for font in font_manager.fontManager.ttflist if font.name == family), None)
    return frozenset(map(chr, font_manager.get_font(path).get_charmap())) if path else frozenset()
