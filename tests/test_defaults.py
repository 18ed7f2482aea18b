"""Defaults from medal.toml: flag > environment > project > user, and what is wrong in a file is said."""

import json

import click
import pytest

from medal.cache.errors import MedalError
from medal.cache.terminal.defaults import find_files, read_defaults
from medal.cli import group


@pytest.fixture
def places(tmp_path):
    """The project's folder and the user's, and the environment of a command that is run there."""
    project, user = tmp_path / "project", tmp_path / "config/medal"
    project.mkdir()
    user.mkdir(parents=True)
    return project, user, {"XDG_CONFIG_HOME": str(user.parent)}


def limit(*words):
    """What `cache-teacher` would have as --limit, said so in words or not."""
    parent = click.Context(group, info_name="medal")
    command = group.get_command(parent, "cache-teacher")
    return command.make_context("cache-teacher", ["phantom", *words], parent=parent).params["limit"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from medal.pipeline.teacher.demo import tiny_teacher

    return tiny_teacher(tmp_path_factory.mktemp("tiny"))


def test_flag_then_environment_then_project_then_user(places, monkeypatch):
    project, user, env = places
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    (user / "medal.toml").write_text("[cache-teacher]\nlimit = 40\nimage-size = 28\n")
    monkeypatch.chdir(project)
    found = [limit()]
    (project / "medal.toml").write_text("[cache-teacher]\nlimit = 30\n")
    below = project / "scans/today"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    found.append(limit())
    monkeypatch.setenv("MEDAL_CACHE_TEACHER_LIMIT", "20")
    found += [limit(), limit("--limit", "10")]
    assert found == [40, 30, 20, 10]


def test_the_demo_does_what_it_shows(places, tiny, shell):
    project, _, env = places
    (project / "medal.toml").write_text("[cache-teacher]\nlimit = 0\n")  # which no command takes
    refused = shell("cache-teacher", "phantom", "--dry-run", cwd=project, env=env)
    assert refused.returncode == 2
    assert "--limit" in refused.stderr
    assert shell("demo", "--dry-run", "--teacher", tiny, cwd=project, env=env).returncode == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[cache-teach]\n", "has the table 'cache-teach'; expected a table named as a command, perhaps"),
        ("store = 1\n", "has the value outside of a table 'store'; expected a table named as a command, one of"),
        ("[show\n", "is not a TOML file: "),
        (
            "[cache-teacher]\nyes = true\n",
            ("has 'yes' in the table of 'cache-teacher'; this option is not allowed in a file"),
        ),
        ("[cache-teacher]\nimage_size = 3\n", "has 'image_size' in the table of 'cache-teacher', which has no such"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(text, told, places, shell):
    project, _, env = places
    (project / "medal.toml").write_text(text)
    done = shell("cache-teacher", "phantom", "--dry-run", cwd=project, env=env)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"'{project / 'medal.toml'}' {told}" in line
    assert shell("--help", cwd=project, env=env).returncode == 0


def test_what_only_a_person_may_say(places, shell, monkeypatch):
    project, _, env = places
    (project / "medal.toml").write_text("[clean]\nremove = true\n")
    refused = shell("clean", cwd=project, env=env)
    assert refused.returncode == 1
    assert "has 'remove' in the table of 'clean'; this option is not allowed in a file" in refused.stderr
    (project / "medal.toml").write_text("[pull]\nsigners = 'theirs'\n")
    assert "this option is not allowed in a file" in shell("pull", "x", "y", cwd=project, env=env).stderr
    monkeypatch.setenv("MEDAL_PUSH_YES", "1")
    monkeypatch.setenv("MEDAL_VERSION", "0.3")
    parent = click.Context(group, info_name="medal")
    command = group.get_command(parent, "push")
    assert not command.make_context("push", ["a", "b"], parent=parent).params["yes"]
    (project / "medal.toml").unlink()
    assert shell("clean", cwd=project, env=env).returncode == 0


def test_one_value_serves_an_option_that_may_be_repeated(places, monkeypatch):
    project, _, env = places
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project)
    (project / "medal.toml").write_text("[cache-teacher]\nexclude-class = 'basophil'\n")
    parent = click.Context(group, info_name="medal")
    command = group.get_command(parent, "cache-teacher")
    made = command.make_context("cache-teacher", ["phantom"], parent=parent)
    assert made.params["exclude_classes"] == ("basophil",)


def test_a_file_that_may_not_be_read_is_said(tmp_path):
    (tmp_path / "medal.toml").mkdir()
    with pytest.raises(MedalError, match=r"cannot be read \(Is a directory\)"):
        read_defaults("show", ["show"], [tmp_path / "medal.toml"])


def test_the_nearest_project_counts(places, monkeypatch):
    project, user, env = places
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    inner = project / "inner"
    inner.mkdir()
    for place in (project, inner, user):
        (place / "medal.toml").touch()
    assert find_files(inner) == [inner / "medal.toml", user / "medal.toml"]
    assert find_files(project) == [project / "medal.toml", user / "medal.toml"]
    assert find_files(user) == [user / "medal.toml"]
    (user / "medal.toml").unlink()
    assert find_files(inner) == [inner / "medal.toml"]


def test_doctor_says_which_defaults_are_in_effect_and_from_where(places, shell):
    project, user, env = places
    (user / "medal.toml").write_text("[cache-teacher]\nlimit = 40\nimage-size = 28\n[compare]\nout = 'forest.svg'\n")
    (project / "medal.toml").write_text("[cache-teacher]\nlimit = 30\nexclude-class = 'basophil'\n")
    env = {**env, "MEDAL_TRAIN_STUDENT_LR": "0.5"}
    found = json.loads(shell("doctor", "--config", "--json", cwd=project, env=env).stdout)
    assert found["files"] == [str(project / "medal.toml"), str(user / "medal.toml")]
    said = {(one["command"], one["option"]): (one["value"], one["source"], one["origin"]) for one in found["settings"]}
    assert said["cache-teacher", "--limit"] == (30, "project", str(project / "medal.toml"))
    assert said["cache-teacher", "--image-size"] == (28, "user", str(user / "medal.toml"))
    assert said["cache-teacher", "--exclude-class"] == (["basophil"], "project", str(project / "medal.toml"))
    assert said["compare", "--out"] == ("forest.svg", "user", str(user / "medal.toml"))
    assert said["train-student", "--lr"] == (0.5, "environment", "MEDAL_TRAIN_STUDENT_LR")
    assert said["train-student", "--batch-size"] == (64, "built in", None)
    assert said["train-student", "--epochs"] == (None, "built in", None)
    shown = shell("doctor", "--config", cwd=project, env=env).stdout
    assert f"cache-teacher --limit: 30   project, {project / 'medal.toml'}" in shown
    assert "--batch-size" not in shown
    wrong = shell("doctor", "--config", cwd=project, env={**env, "MEDAL_TRAIN_STUDENT_LR": "fast"})
    assert wrong.returncode == 2
    assert "'fast' is not a valid float" in wrong.stderr
