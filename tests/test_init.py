"""`medal init`: a file of defaults that commands take, for a dataset and a kind of machine."""

import tomllib

import click
import drawn
import pytest

from medal.cache.terminal.defaults import option_defaults, read_defaults
from medal.cli import COMMANDS, group

WORDS = ("--label-columns", "Platelets,RBC_many", "--file-column", "file")
KINDS = ("laptop", "gpu", "cluster")


@pytest.mark.parametrize("kind", KINDS)
def test_every_line_is_an_option_that_commands_take(kind, terminal, tmp_path):
    done = terminal("init", "--preset", kind, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "medal.toml").read_text()
    # What is switched off is as right as what is on.
    lines = [line.removeprefix("# ") if " = " in line else line for line in text.splitlines()]
    (tmp_path / "medal.toml").write_text("\n".join(lines))
    for name in ("cache-teacher", "train-student"):
        command = group.get_command(click.Context(group), name)
        found = read_defaults(name, list(COMMANDS), [tmp_path / "medal.toml"])
        assert found.values
        taken = option_defaults(command, found)
        context = click.Context(command, info_name=name, default_map=taken)
        for option in command.params:
            if option.name in taken:
                option.type_cast_value(context, taken[option.name])
    assert all("  # " in line for line in text.splitlines() if " = " in line)


def test_a_dataset_is_described_and_its_options_are_kept(terminal, tmp_path):
    smears = drawn.save_smears(tmp_path / "smears")
    done = terminal("init", smears, *WORDS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "medal.toml").read_text()
    table = tomllib.loads(text)
    for name in ("cache-teacher", "train-student"):
        assert table[name]["label-columns"] == WORDS[1]
        assert table[name]["file-column"] == "file"
    assert f"# {smears}" in text
    assert "#   splits: " in text
    assert table["train-student"]["baseline"] is True


def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(terminal, tmp_path):
    (tmp_path / "medal.toml").write_text("# mine")
    refused = terminal("init", cwd=tmp_path)
    assert refused.returncode == 1
    assert "is there already; give --overwrite" in refused.stderr
    assert (tmp_path / "medal.toml").read_text() == "# mine"
    assert terminal("init", "--overwrite", cwd=tmp_path).returncode == 0
    assert tomllib.loads((tmp_path / "medal.toml").read_text())


def test_the_machine_is_looked_at(terminal, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "lab")
    assert "for a cluster, because Slurm is here" in terminal("init", cwd=tmp_path).stdout
    assert tomllib.loads((tmp_path / "medal.toml").read_text())["cache-teacher"]["on-bad-image"] == "skip"
