"""How commands show and take options: help in groups, flags that can be switched off, lines of JSON for clusters."""

import json
import re
import subprocess
import sys

import click
import pytest

from medal.cache.progress import Alert
from medal.cache.terminal.command import show_all
from medal.cache.terminal.console import note, progress
from medal.cli import COMMANDS, group


def made(name, *words):
    """A command, and its parameters as it takes these words."""
    parent = click.Context(group, info_name="medal")
    command = group.get_command(parent, name)
    return command, command.make_context(name, list(words), parent=parent)


def options_of(command):
    return [option for option in command.params if isinstance(option, click.Option)]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_option_once(name):
    command = group.get_command(click.Context(group, info_name="medal"), name)
    lines = show_all(click.Context(command, info_name=name)).splitlines()
    begin = next(number for number, line in enumerate(lines) if line.rstrip(":") in {*command.groups, "Options"})
    shown = re.findall(r"^  (?:-\w, )?(--[\w-]+)", "\n".join(lines[begin:]), re.MULTILINE)
    there = [option.opts[0] for option in options_of(command) if option.opts[0].startswith("--")]
    assert sorted(shown) == sorted([*there, "--help", *(["--help-all"] if command.brief else [])])


@pytest.mark.parametrize("name", COMMANDS)
def test_groups_name_options_that_there_are_and_each_once(name):
    command = group.get_command(click.Context(group, info_name="medal"), name)
    named = [flag for flags in command.groups.values() for flag in flags]
    assert len(named) == len(set(named))
    assert set(named) <= {flag for option in options_of(command) for flag in option.opts}


def test_the_longest_help_is_in_groups():
    for name, titles in (("cache-teacher", ("Teacher", "Sharing")), ("train-student", ("Student", "Soft targets"))):
        command = group.get_command(click.Context(group, info_name="medal"), name)
        text = show_all(click.Context(command, info_name=name))
        assert all(f"\n{title}:\n" in text for title in (*titles, "Options", "Reading DATASET"))


@pytest.mark.parametrize("name", ["cache-teacher", "train-student"])
def test_a_short_help_has_what_matters_and_says_where_the_rest_is(name, terminal):
    short, whole = terminal(name, "--help").stdout, terminal(name, "--help-all").stdout
    command, _ = made(name, "x", *(() if name == "cache-teacher" else ("y", "--out", "z")))
    options = re.findall(r"^  (?:-\w, )?(--[\w-]+)", short, re.MULTILINE)
    assert set(options) == command.brief | {"--help", "--help-all"}
    assert len(options) <= 13
    assert short.rstrip().endswith(
        f"{len(options_of(command)) - len(command.brief)} more options: medal {name} --help-all"
    )
    assert len(short.splitlines()) < 60 < len(whole.splitlines())
    assert "more options" not in whole


def test_what_a_file_switches_on_the_command_line_switches_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("c.zarr", "d.npz", "--out", "run")
    assert "--no-baseline" not in made("train-student", *words)[0].get_help(made("train-student", *words)[1])
    # Where nothing has switched it on it is taken as well: a script need not know.
    assert not made("train-student", *words, "--no-baseline")[1].params["baseline"]
    (tmp_path / "medal.toml").write_text("[train-student]\nbaseline = true\nno-distill = true\n")
    command, context = made("train-student", *words)
    assert context.params["baseline"]
    assert context.params["no_distill"]
    assert "--baseline / --no-baseline" in command.get_help(context)
    off = made("train-student", *words, "--no-baseline", "--distill")[1].params
    assert not off["baseline"]
    assert not off["no_distill"]


def test_no_flag_takes_the_name_of_another():
    for name in COMMANDS:
        command = group.get_command(click.Context(group, info_name="medal"), name)
        flags = [flag for option in options_of(command) for flag in (*option.opts, *option.secondary_opts)]
        assert len(flags) == len(set(flags)), name
        assert not {"--no-yes", "--no-overwrite", "--no-remove"} & set(flags)


def records(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def json_lines(monkeypatch):
    monkeypatch.setenv("MEDAL_LOG_JSON", "1")


@pytest.mark.usefixtures("json_lines")
def test_notes_and_progress_are_lines_of_json(capsys):
    note(Alert("the sky\nis falling"))
    with progress("teacher", 4) as advance:
        advance(4)
    warned, went = records(capsys.readouterr().err)
    assert (warned["level"], warned["message"]) == ("warning", "the sky\nis falling")
    assert warned["time"].endswith("Z")
    assert {"host", "pid"} <= set(warned)
    assert {name: went[name] for name in ("level", "what", "done", "total", "unit")} == {
        "level": "info",
        "what": "teacher",
        "done": 4,
        "total": 4,
        "unit": "images",
    }
    assert went["per_second"] > 0
    assert went["seconds_left"] == 0


def test_errors_and_misuse_are_lines_of_json_and_results_stay(shell, tmp_path):
    refused = shell("--log-json", "show", tmp_path / "none.zarr")
    (said,) = records(refused.stderr)
    assert (refused.returncode, said["level"], refused.stdout) == (1, "error", "")
    assert f"'{tmp_path / 'none.zarr'}'" in said["message"]
    misused = shell("show", env={"MEDAL_LOG_JSON": "1"})
    (said,) = records(misused.stderr)
    assert (misused.returncode, said["level"]) == (2, "error")
    assert "Missing argument" in said["message"]
    listed = shell("--log-json", "doctor", "--config", "--json", cwd=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert json.loads(listed.stdout)["files"] == []


def test_warnings_of_libraries_are_lines_of_json(tmp_path):
    code = "import warnings; from medal.cache.terminal.console import log_json; log_json(); warnings.warn('old thing')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    (said,) = records(done.stderr)
    assert (said["level"], said["logger"]) == ("warning", "py.warnings")
    assert "old thing" in said["message"]
