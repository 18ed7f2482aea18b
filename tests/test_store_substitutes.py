"""Without the teacher's weights: the error names what others computed by such a teacher, and how it is pulled."""

import re
import shlex

import pytest
from store_cases import make_cache, whole

from medal.cache.errors import TeacherError
from medal.pipeline.teacher.demo import tiny_teacher

SETTINGS = ("--image-size", 56, "--batch-size", 64, "--limit", 40)


@pytest.fixture(scope="module")
def lab(medal, small_npz, tmp_path_factory):
    """A store with a cache of the small set by the teacher `tiny`, and others of another set."""
    folder = tmp_path_factory.mktemp("lab")
    tiny_teacher(folder).rename(folder / "tiny")
    made = medal("cache-teacher", small_npz, folder / "ana.zarr", "--teacher", folder / "tiny", *SETTINGS)
    for seed in range(4):
        medal("push", "--yes", make_cache(folder / f"{seed}.zarr", seed, name="skin").path, folder / "our store")
    medal("push", "--yes", folder / "ana.zarr", folder / "our store", "--as", "Ana")
    return folder / "our store", made


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    # What the environment says is read once, and perhaps long ago.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path / "home"))


def refusal(medal, dataset, out, teacher, *more):
    with pytest.raises(TeacherError) as refused:
        medal("cache-teacher", dataset, out, "--teacher", teacher, *SETTINGS, *more)
    assert not out.exists()
    return str(refused.value)


@pytest.mark.parametrize("teacher", ["lab/tiny", "facebook/tiny", "somebody/tiiny", "./tiny"])
@pytest.mark.parametrize("when", [(), ("--dry-run",), ("--tune",)])
def test_the_command_that_is_named_pulls_it(teacher, when, lab, small_npz, medal, tmp_path):
    store, made = lab
    said = refusal(medal, small_npz, tmp_path / "got it.h5", teacher, "--store", store, *when)
    assert f"('{small_npz.stem}' by 'tiny', 56 px)" in said
    assert "'skin'" not in said
    (command,) = re.findall(r"medal (pull .*?) \(", said)
    assert medal(*shlex.split(command))["content_digest"] == made["content_digest"]
    assert whole(tmp_path / "got it.h5").cache_id == made["cache_id"]
    (command,) = re.findall(r"medal (show .*)", said)
    words = shlex.split(command.replace("CACHE", shlex.quote(str(tmp_path / "got it.h5"))))
    assert medal(*words)["fit"]["matched"] == {"train": 40, "val": 40, "test": 40}


def test_as_many_are_named_as_can_be_read(lab, small_npz, medal, tmp_path):
    store, _ = lab
    said = refusal(medal, small_npz, tmp_path / "x.zarr", "facebook/dinov2-small", "--store", store)
    assert said.count("medal pull") == 3
    assert f"(1 more: medal list '{store}')" in said


def test_who_must_have_signed_is_asked_of_a_pull_too(lab, small_npz, medal, tmp_path):
    (tmp_path / "signers").touch()
    said = refusal(
        medal, small_npz, tmp_path / "x.zarr", "lab/tiny", "--store", lab[0], "--signers", tmp_path / "signers"
    )
    assert f"x.zarr --signers {tmp_path / 'signers'} (" in said


def test_where_nothing_is_near_or_no_store_is_there_it_is_as_ever(lab, small_npz, medal, tmp_path, capsys):
    out = tmp_path / "x.zarr"
    plain = refusal(medal, small_npz, out, "lab/tiny")
    assert "could not be downloaded" in plain
    assert refusal(medal, small_npz, out, "lab/tiny", "--store", tmp_path / "none") == plain
    assert f"'{tmp_path / 'none'}'" in capsys.readouterr().err
    assert "medal pull" not in refusal(medal, small_npz, out, "lab/vit-large", "--store", lab[0])
    assert "medal pull" in refusal(medal, small_npz, out, "lab/vit-small", "--store", lab[0])


def test_python_is_told_the_same(lab, small_npz, tmp_path):
    import medal

    with pytest.raises(TeacherError, match=r"medal pull [0-9a-f]{12} .* \('chest' by 'tiny', 56 px\)"):
        medal.cache_teacher(small_npz, tmp_path / "x.zarr", lab=medal.open_lab(lab[0]), teacher="lab/tiny")
