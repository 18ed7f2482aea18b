"""A command's options: shown in named groups, with flags that can be switched off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from ..machine.home import expand_home

__all__ = ["OTHERS", "Command", "options_of", "show_all", "undo_flags"]

F = TypeVar("F", bound=Callable[..., Any])

# Title of the options of no group.
OTHERS = "Options"


class Command(click.Command):
    """A command whose help lists options in groups, each but a flag with its default.

    Parameters
    ----------
    groups : title → flags, with a space between them; options of no group come last, or where `OTHERS` stands
    brief : flags that --help shows, if it does not show all; --help-all shows the rest
    """

    def __init__(self, *args: Any, groups: Mapping[str, str] | None = None, brief: str = "", **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"show_default": True})
        super().__init__(*args, **kwargs)
        self.groups = {title: flags.split() for title, flags in (groups or {}).items()}
        self.brief = frozenset(brief.split())
        for option in self.params:
            if isinstance(option, click.Option) and option.is_flag:
                option.show_default = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words of a command line; a ~ that the shell did not expand (quoted, or after a =) is expanded."""
        return super().parse_args(ctx, [_expand(word) for word in args])

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters, --help-all among them where --help does not show all."""
        more = [_HELP_ALL] if self.brief else []
        return [*super().get_params(ctx), *more]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section for each group that has any."""
        shown = self.brief | {"--help", "--help-all"} if self.brief and not ctx.meta.get(_ALL) else None
        title = {flag: name for name, flags in self.groups.items() for flag in flags}
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in (*self.groups, OTHERS)}
        for parameter in self.get_params(ctx):
            record = _record(parameter, ctx) if isinstance(parameter, click.Option) else None
            if record is not None and (shown is None or shown.intersection(parameter.opts)):
                sections[next((title[flag] for flag in parameter.opts if flag in title), OTHERS)].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
        if shown is not None:
            rest = sum(isinstance(one, click.Option) for one in self.params) - len(self.brief)
            formatter.write_paragraph()
            formatter.write_text(f"{rest} more options: medal {ctx.info_name} --help-all")


# Of a context's `meta`: whether help is of all options.
_ALL = "medal.help_all"


def show_all(ctx: click.Context) -> str:
    """Return a command's help with all of its options."""
    ctx.meta[_ALL] = True
    return ctx.get_help()


def _help_all(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(show_all(ctx))
        ctx.exit()


_HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_help_all,
    help="Show all options and exit.",
)
_HELP_ALL.show_default = False


def options_of(settings: object) -> Callable[..., Callable[[F], F]]:
    """Return what declares an option for a field of some settings, whose default and choices are the field's.

    Parameters
    ----------
    settings : a dataclass with its defaults
    """
    kinds = get_type_hints(type(settings))

    def option(flag: str, text: str, *, field: str | None = None, **more: Any) -> Callable[[F], F]:
        name = field or flag.removeprefix("--").replace("-", "_")
        parts = [part for part in (kinds[name], *get_args(kinds[name])) if get_origin(part) is Literal]
        if parts:
            more.setdefault("type", click.Choice([choice for part in parts for choice in get_args(part)]))
        if kinds[name] is bool:
            more["is_flag"] = True
        return click.option(flag, name, default=getattr(settings, name), help=text, **more)

    return option


def undo_flags(command: click.Command, typed: Sequence[str]) -> None:
    """Give every flag an opposite, in case a file or a variable switched it on: --no-push, --features.

    Parameters
    ----------
    typed : flags, without dashes, that only the command line can give and that need no opposite
    """
    flags = {flag for parameter in command.params for flag in parameter.opts}
    for option in command.params:
        if isinstance(option, click.Option) and option.is_bool_flag and not option.secondary_opts:
            name = max(option.opts, key=len).removeprefix("--")
            contrary = f"--{name.removeprefix('no-')}" if name.startswith("no-") else f"--no-{name}"
            if name not in typed and contrary not in flags:
                option.secondary_opts = [contrary]


def _expand(word: str) -> str:
    flag, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{flag}{sign}{expand_home(value)}"


def _record(parameter: click.Option, ctx: click.Context) -> tuple[str, str] | None:
    """Return a parameter's lines of help; a flag's opposite is shown only if the flag is on."""
    record = parameter.get_help_record(ctx)
    if record is None or not parameter.secondary_opts:
        return record
    value, _ = parameter.consume_value(ctx, {})
    names, text = record
    return record if parameter.type_cast_value(ctx, value) else (names.partition(" / ")[0], text)
