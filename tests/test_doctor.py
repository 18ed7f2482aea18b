"""`medal doctor`: what it finds is what is there, and what it chooses is what a run chooses."""

import json
import os
from collections import namedtuple
from importlib.metadata import version

import pytest
import torch

from medal.cache.store.place.store import open_store
from medal.cli import group
from medal.pipeline.features import doctor
from medal.pipeline.teacher.demo import tiny_teacher


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_teacher(tmp_path_factory.mktemp("teachers"))


@pytest.fixture
def quick(monkeypatch):
    """A moment of forward passes rather than seconds of them."""
    monkeypatch.setattr(doctor, "_SECONDS", 0.05)


def run(capsys, *words):
    """A command in this process, its exit status, and its result."""
    status = 0
    try:
        group.main(["doctor", *map(str, words), "--json"], prog_name="medal", standalone_mode=False)
    except SystemExit as ended:
        status = ended.code
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("quick")
def test_what_a_dataset_needs_is_set_beside_what_there_is(capsys, tiny, small_npz):
    status, found = run(capsys, small_npz, "--teacher", tiny, "--image-size", 28)
    assert (status, found["ok"], found["problems"]) == (0, True, [])
    assert found["versions"]["torch"] == version("torch")
    assert found["devices"][0]["kind"] == "cpu"
    assert found["teacher"]["name"] == tiny.name
    assert found["teacher"]["image_size"] == 28
    assert found["teacher"]["batch_size"] == found["chosen"]["batch_size"]["value"]
    needs = found["dataset"]
    assert needs["images"] == 300
    # At least the features, twice, of 96 numbers of two bytes.
    assert 2 * 300 * 96 * 2 < needs["bytes"] < needs["free_bytes"]
    assert needs["peak_bytes"] > 100e6
    assert needs["seconds"] == pytest.approx(300 / found["teacher"]["images_per_second"])
    if not torch.cuda.is_available():
        assert found["chosen"]["device"] == {"value": "cpu", "why": "no GPU"}
        assert found["chosen"]["threads"]["value"] == torch.get_num_threads()


@pytest.mark.usefixtures("quick")
def test_what_doctor_chooses_a_run_takes(medal, capsys, tiny, small_npz, tmp_path):
    _, found = run(capsys, "--teacher", tiny, "--image-size", 28)
    made = medal("cache-teacher", small_npz, tmp_path / "c.zarr", "--teacher", tiny, "--image-size", 28)
    teacher = json.loads((tmp_path / "c.zarr/manifest.json").read_text())["teacher"]
    assert made["computed"] == 300
    assert teacher["precision_used"] == found["chosen"]["precision"]["value"]
    assert teacher["batch_size"] == found["chosen"]["batch_size"]["value"]


@pytest.mark.usefixtures("quick")
def test_nothing_is_written(capsys, tiny, small_npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(capsys, small_npz, "--teacher", tiny, "--image-size", 28)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_told_with_what_mends_them(capsys, monkeypatch):
    there = [
        "numpy>=2.0",
        "no-such-library>=3.1",
        "torch>=9999",
        'no-such-extra>=1.0; extra == "dicom"',
        "pillow>=10; extra == 'demo'",
    ]
    monkeypatch.setattr(doctor, "requires", lambda _: there)
    status, found = run(capsys, "--teacher", "nowhere/none")
    assert status == 1
    assert "no-such-library>=3.1 is needed, found none: pip install 'no-such-library>=3.1'" in found["problems"]
    assert f"torch>=9999 is needed, found {version('torch')}: pip install 'torch>=9999'" in found["problems"]
    assert found["versions"]["no-such-library"] is None
    extra = {"missing": ["no-such-extra>=1.0"], "remedy": 'pip install "medalmighty[dicom]"'}
    assert found["extras"] == {"dicom": extra, "demo": {"missing": [], "remedy": None}}


def test_a_teacher_that_is_not_there_is_a_problem_and_none_at_all_is_not(capsys, tmp_path, monkeypatch):
    status, found = run(capsys, "--teacher", "nowhere/none")
    assert status == 1
    assert "'nowhere/none' is not in the local Hugging Face cache" in found["problems"][0]
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_HUB_TEACHERS", ("nowhere/none",))
    monkeypatch.delenv("MEDAL_TEACHER", raising=False)
    status, found = run(capsys)
    assert (status, found["problems"]) == (0, [])
    assert "--teacher" in found["teacher"]["why_not"]


@pytest.mark.usefixtures("quick")
def test_too_little_disk_is_told(capsys, tiny, small_npz, monkeypatch):
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(1000, 0, 1000))
    status, found = run(capsys, small_npz, "--teacher", tiny, "--image-size", 28)
    assert status == 1
    assert "GB of disk while its cache is made" in found["problems"][0]
    assert "--no-features" in found["problems"][0]


def test_a_dataset_that_is_not_there_is_told(capsys):
    status, found = run(capsys, "nowhere.npz")
    assert status == 1
    assert "nowhere.npz" in found["problems"][0]


@pytest.mark.usefixtures("quick")
def test_a_store_is_reached_or_it_is_said_why_not(capsys, tiny, tmp_path, monkeypatch):
    words = ("--teacher", tiny, "--image-size", 28)
    monkeypatch.chdir(tmp_path)
    assert run(capsys, *words)[1]["store"] is None
    status, found = run(capsys, *words, "--store", tmp_path / "lab")
    assert status == 1
    assert found["store"]["why_not"] == found["problems"][0]
    assert "There is no store at" in found["problems"][0]
    open_store(str(tmp_path / "lab")).begin()
    status, found = run(capsys, *words, "--store", tmp_path / "lab")
    assert (status, found["store"]["why_not"]) == (0, None)
    assert found["store"]["access"].startswith("can be read")
    # The one that cache-teacher would ask, where a file names it.
    (tmp_path / "medal.toml").write_text("[cache-teacher]\nstore = 'elsewhere'\n")
    status, found = run(capsys, *words)
    assert (status, found["store"]["url"]) == (1, "elsewhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_home_that_may_not_be_written_to_is_told(capsys, tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path))
    assert "MEDAL_HOME" in run(capsys)[1]["problems"][0]


@pytest.mark.usefixtures("quick")
def test_what_people_read(capsys, tiny):
    group.main(["doctor", "--teacher", str(tiny), "--image-size", "28"], prog_name="medal", standalone_mode=False)
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert first[:2] == ["versions", "device"]
    assert {"precision", "batch", "threads", "engine", "teacher", "extra"} <= set(first)
