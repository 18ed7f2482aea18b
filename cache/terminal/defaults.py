"""Defaults of the command line from files: a project's `medal.toml`, and the user's own.

A table for each command, its options without the dashes:

    [cache-teacher]
    teacher = "facebook/dinov2-small"
    image-size = 112

The command line overrides environment variables (``MEDAL_CACHE_TEACHER_IMAGE_SIZE=112``), which override the project's
file, which overrides the user's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from ..errors import MedalError
from ..machine.home import expand_home

__all__ = [
    "TYPED",
    "Defaults",
    "Setting",
    "find_files",
    "name_variables",
    "option_defaults",
    "read_defaults",
    "settings_in_effect",
]

_NAME = "medal.toml"
# Only allowed on the command line, because they confirm, delete or show patients' images: a folder from somebody else
# may hold a medal.toml.
TYPED = ("yes", "overwrite", "remove", "with-images")
# Only the user decides whom they trust, not a project.
_OWN = ("signers", "revoked", "key-secret")


class Defaults(NamedTuple):
    """The defaults of one command from files.

    Attributes
    ----------
    values : option without its dashes → value
    origin : the same option → the file it comes from
    """

    values: Mapping[str, Any]
    origin: Mapping[str, Path]


class Setting(NamedTuple):
    """The default of an option, and where it comes from.

    Attributes
    ----------
    source : ``environment``, ``project``, ``user`` or ``built in``
    origin : the variable or the file; None for what is built in
    """

    command: str
    option: str
    value: Any
    source: str
    origin: str | None


def find_files(folder: Path | None = None) -> list[Path]:
    """Return the existing files, by precedence: the nearest one upwards from this folder, then the user's."""
    here = (folder or Path.cwd()).absolute()
    project = next((place / _NAME for place in (here, *here.parents) if (place / _NAME).is_file()), None)
    user = _user_file()
    found = [project] if project is not None else []
    return found + ([user] if user.is_file() and user != project else [])


def read_defaults(command: str, commands: Sequence[str], files: Sequence[Path]) -> Defaults:
    """Read a command's defaults from files.

    Parameters
    ----------
    commands : names of all commands; a file may have no other tables
    files : by precedence

    Raises
    ------
    MedalError
        A file cannot be read, is not TOML, or has a table that is not a command.
    """
    values: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for file in reversed(files):
        for name, table in _read(file).items():
            if name not in commands or not isinstance(table, dict):
                what = "table" if isinstance(table, dict) else "value outside of a table"
                raise MedalError(
                    f"'{file}' has the {what} '{name}'; expected a table named as a command, {_meant(name, commands)}."
                )
            if name == command:
                values |= table
                origin |= dict.fromkeys(table, file)
    return Defaults(values, origin)


def option_defaults(command: click.Command, found: Defaults) -> dict[str, Any]:
    """Return defaults by the names of a command's parameters, as click takes them.

    Raises
    ------
    MedalError
        The command has no such option, or the option is not allowed in a file.
    """
    names = {
        flag.lstrip("-"): parameter.name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    for name in found.values:
        if name in TYPED or (name in _OWN and found.origin[name] != _user_file()):
            where = "on the command line" if name in TYPED else f"there, or in '{_user_file()}'"
            raise MedalError(
                f"'{found.origin[name]}' has '{name}' in the table of '{command.name}'; this option is not allowed in "
                f"a file: remove it, and give --{name} {where}."
            )
        if name not in names:
            raise MedalError(
                f"'{found.origin[name]}' has '{name}' in the table of '{command.name}', which has no such option; "
                f"expected {_meant(name, list(names))}."
            )
    several = {parameter.name for parameter in command.params if parameter.multiple}
    return {
        str(names[name]): [value] if names[name] in several and not isinstance(value, list) else value
        for name, given in found.values.items()
        for value in [expand_home(given) if isinstance(given, str) else given]
    }


def settings_in_effect(group: click.Group, files: Sequence[Path]) -> list[Setting]:
    """Return the default of every option of every command.

    Raises
    ------
    MedalError
        As `read_defaults` and `option_defaults`.
    click.BadParameter
        A file or a variable has an invalid value for an option.
    """
    settings = []
    commands = group.list_commands(click.Context(group))
    for name in commands:
        parent = click.Context(group, info_name="medal")
        command = group.get_command(parent, name)
        if command is None:
            continue
        context = click.Context(command, info_name=name, parent=parent)
        files_say = read_defaults(name, commands, files).origin
        settings += [
            _setting(name, option, context, files_say) for option in command.params if isinstance(option, click.Option)
        ]
    return settings


def _setting(name: str, option: click.Option, context: click.Context, files_say: Mapping[str, Path]) -> Setting:
    given, source = option.consume_value(context, {})
    flag = max(option.opts, key=len)
    if source is ParameterSource.ENVIRONMENT:
        return Setting(name, flag, _plain(option.type_cast_value(context, given)), "environment", str(option.envvar))
    if source is ParameterSource.DEFAULT_MAP:
        said = (word.lstrip("-") for word in (*option.opts, *option.secondary_opts))
        file = next(files_say[word] for word in said if word in files_say)
        level = "user" if file == _user_file() else "project"
        return Setting(name, flag, _plain(option.type_cast_value(context, given)), level, str(file))
    # Some versions of click mark a missing default with a special object.
    known = given is None or isinstance(given, str | int | float | list | tuple)
    return Setting(name, flag, given if known else None, "built in", None)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def name_variables(command: click.Command, name: str) -> None:
    """Let environment variables set options, named after them: MEDAL_CACHE_TEACHER_IMAGE_SIZE."""
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None:
            flag = max(option.opts, key=len).lstrip("-")
            if flag not in TYPED:
                option.envvar = f"MEDAL_{name}_{flag}".replace("-", "_").upper()


def _user_file() -> Path:
    return Path(click.get_app_dir("medal")) / _NAME


def _read(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MedalError(f"'{file}' cannot be read ({error.strerror}); fix that, or move it away.") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise MedalError(f"'{file}' is not a TOML file: {error}. Fix it, or move it away.") from error


def _meant(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=3)
    return f"perhaps '{close[0]}'" if close else f"one of {', '.join(sorted(known))}"
