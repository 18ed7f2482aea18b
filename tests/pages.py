"""The pages under docs/ as what they are to a reader: text, and blocks to type in, one after the other.

A block is run unless the paragraph right before it says, for readers too, that it is not:

*Not run by the tests: needs a Slurm.*                 its command lines are parsed, nothing more
*Run by the tests where `lightning` is installed.*     run if that module is there

In a block, `$ ` begins a command, and the lines after it are what it prints: each has to come, in that order, `…`
standing for anything. A command whose comment says "exit status 1" has to end so.
"""

import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from medal.cache.errors import MedalError
from medal.cache.terminal.defaults import option_defaults, read_defaults
from medal.cli import COMMANDS, group

ROOT = Path(__file__).resolve().parent.parent
SITE = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)

# Languages of blocks that are run, of scripts whose medal commands are parsed, and of what is not code.
RUN, SCRIPTS, PROSE = {"console", "python", "toml"}, {"bash"}, {"text"}

_FENCE = re.compile(r"^(?P<ticks>```+)(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=ticks)$", re.DOTALL | re.MULTILINE)
_NOT_RUN = re.compile(r"^\*Not run by the tests: .+\*$")
_NEEDS = re.compile(r"^\*Run by the tests where `(\w+)` is installed\..*\*$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the last line of the paragraph before it."""

    place: str
    language: str
    body: str
    before: str

    @property
    def is_run(self):
        needed = _NEEDS.match(self.before)
        return not _NOT_RUN.match(self.before) and (needed is None or find_spec(needed[1]) is not None)


def read_blocks(path):
    """Return the blocks of a page. Directives of the site, whose language is in braces, are none."""
    return parse_blocks(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))


def parse_blocks(text, page):
    """Return the blocks of a page's text."""
    blocks = []
    for found in _FENCE.finditer(text):
        if found["language"].startswith("{"):
            continue
        above = text[: found.start()].rstrip("\n")
        place = f"{page}:{above.count(chr(10)) + 2}"
        blocks.append(Block(place, found["language"].strip(), found["body"], above.rpartition("\n")[2]))
    return blocks


def read_commands(body):
    """Return what is typed in a console block, continued lines joined, each with the lines that are to be printed."""
    commands = []
    for line in body.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], []))
        elif line.strip():
            commands[-1][1].append(line)
    return commands


def split_words(line):
    """Return the words of a command line as a shell does: a comment begins with a word, unlike in STORE#NAME."""
    return shlex.split(re.sub(r"(^|\s)#.*", "", line))


def medal_words(block):
    """Yield the words after `medal` of every command line of a block, whatever starts it: srun, torchrun."""
    lines = [command for command, _ in read_commands(block.body)] if block.language == "console" else None
    for line in lines or block.body.replace("\\\n", " ").splitlines():
        words = split_words(line)
        if "medal" in words:
            yield words[words.index("medal") + 1 :]


def check_words(words):
    """Parse a command line as click does, every option and its value, and run nothing."""
    if words[0].startswith("-"):
        return
    assert words[0] in COMMANDS, words
    command_named(words[0]).make_context(words[0], list(words[1:]))


def command_named(name):
    """Return a command of medal, without what this machine's files say of its defaults."""
    return group.get_command(click.Context(group, info_name="medal", resilient_parsing=True), name)


class Reader:
    """Somebody who types in what a page says, in the current folder, with small stand-ins for what is large or far.

    Parameters
    ----------
    stand_ins : what is written on pages → what is typed here
    shorter : command → options that are added to it
    """

    def __init__(self, stand_ins, shorter):
        self.stand_ins, self.shorter = stand_ins, shorter
        self.names = {"__name__": "page"}

    def follow(self, block):
        """Run one block.

        Raises
        ------
        AssertionError
            It ends or prints otherwise than the page says.
        """
        body = block.body
        for written, typed in self.stand_ins.items():
            body = body.replace(written, typed)
        if block.language == "toml":
            Path("medal.toml").write_text(body)
            for name in tomllib.loads(body):
                option_defaults(command_named(name), read_defaults(name, list(COMMANDS), [Path("medal.toml")]))
        elif block.language == "python":
            with warnings.catch_warnings():
                if _NEEDS.match(block.before):
                    warnings.simplefilter("ignore")  # what a library that is not ours warns of is not our page's fault
                exec(compile(body, block.place, "exec"), self.names)  # noqa: S102 - our own page
        else:
            for command, expected in read_commands(body):
                status, printed = self._type(command)
                wanted = int("exit status 1" in command)
                assert status == wanted, f"{block.place}: {command}\nexit status {status}\n{printed}"
                _compare(expected, printed, f"{block.place}: {command}")

    def _type(self, command):
        words = split_words(command)
        if words[0] == "medal" and not set(words) & {"|", ">", "&&", "2>"}:
            return _run_here([*words[1:], *self.shorter.get(words[1], [])])
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "PATH": path},
        )
        return done.returncode, done.stdout + done.stderr


def _run_here(words):
    """Run medal in this process, which has its libraries loaded; return the exit status and what it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            group.main(words, prog_name="medal", standalone_mode=False)
        except MedalError as error:
            return 1, f"{printed.getvalue()}medal: {error}\n"
        except SystemExit as ended:
            return int(ended.code or 0), printed.getvalue()
    return 0, printed.getvalue()


def _compare(expected, printed, what):
    """Look for the expected lines in what was printed, in their order; runs of spaces are one."""
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    for wanted in expected:
        parts = [re.escape(part) for part in " ".join(wanted.split()).split("…")]
        pattern = re.compile(".*".join(parts))
        assert any(pattern.fullmatch(line) for line in lines), f"{what}\nnot printed: {wanted}\nbut:\n{printed}"
