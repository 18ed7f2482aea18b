"""Checks settings when they are given, so that a value of the wrong kind is named at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import MedalError

__all__ = ["check_kinds", "make_settings"]

T = TypeVar("T")
_KINDS: Mapping[Any, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    type(None): (type(None), "None"),
}


def make_settings(kind: type[T], given: Mapping[str, Any]) -> T:
    """Return settings of a dataclass.

    Raises
    ------
    TypeError
        There is no setting of this name; similar names are listed.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in given:
        if name not in names:
            near = get_close_matches(name, names)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}."
            raise TypeError(f"There is no setting '{name}'; {hint}")
    return kind(**given)


def check_kinds(settings: object, error: type[MedalError]) -> None:
    """Refuse a value that is not of its field's kind; a float may be a whole number, numpy's numbers are numbers.

    Raises
    ------
    MedalError
        Of the kind `error`.
    """
    kinds = get_type_hints(type(settings))
    for field in fields(settings):  # type: ignore[arg-type]
        name, kind, value = field.name, kinds[field.name], getattr(settings, field.name)
        if not _is(value, kind):
            raise error(f"The setting '{name}' is {value!r}; expected {' or '.join(dict.fromkeys(_say(kind)))}.")


def _is(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is(value, part) for part in parts)
    if origin is Literal:
        return any(value is part or (isinstance(value, str) and value == part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(item, parts[0]) for item in value)
    if kind in _KINDS:
        # Python counts True as a number; here it is a mistake.
        return isinstance(value, _KINDS[kind][0]) and (kind is bool or not isinstance(value, bool))
    return True


def _say(kind: Any) -> list[str]:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return [word for part in parts for word in _say(part)]
    if origin is Literal:
        return [repr(part) for part in parts]
    if origin is tuple:
        return [f"a tuple, each {' or '.join(_say(parts[0]))}"]
    return [_KINDS[kind][1]] if kind in _KINDS else [str(kind)]
