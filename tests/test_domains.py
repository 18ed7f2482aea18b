"""Leave-one-domain-out: nothing that is trained, chosen or fitted has seen the domain that it is measured on."""

import csv
import json
import signal
import subprocess
import sys
import textwrap

import domain_cases
import numpy as np
import pytest
import timm
import torch
from domain_cases import SITES, furnish, prepare, train, write
from student_squares import same_bits as same_bits_of_one

from medal.cache.errors import CacheMismatch, StudentError
from medal.cache.reader import open_cache
from medal.cli import group
from medal.pipeline.metrics import score
from medal.pipeline.threads import threads_restored
from medal.student.api import Trained
from medal.student.members.telling import list_warnings
from medal.student.run.folder import _PART_FOLDER as RUN_PART
from medal.student.run.folder import RUN_KIND
from medal.student.run.predictions import read_predictions
from medal.student.targets.domains import _folder, leave_out
from medal.student.training.checkpoint import Checkpoint
from medal.student.using.trained import open_run

WORDS = ("--student", "test_resnet", "--image-size", 32, "--precision", "fp32", "--batch-size", 16)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(medal, tmp_path_factory):
    """Squares of three classes from two sites, some of unknown site, one patient and one image in both; their cache."""
    return furnish(medal, tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def sites(place):
    """A run of one seed with a baseline, and its result."""
    with threads_restored():
        torch.set_num_threads(1)
        return place / "sites", train(place, place / "sites", baseline=True)


def keys(part):
    return set(map(bytes, part.key))


# ── What is learned from ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [0, 1])
def test_train_and_val_have_nothing_of_the_domain_and_test_all_of_it(code, place, tmp_path):
    asked = prepare(place, tmp_path / "run")
    whole = asked.targets.splits
    left = leave_out(asked.targets, code).splits
    assert asked.targets.domains == SITES
    of_domain = set().union(*(keys(part.take(part.domain == code)) for part in whole.values()))
    assert keys(left["test"]) == of_domain
    assert len(left["test"]) == sum((part.domain == code).sum() for part in whole.values())
    patients = set(left["test"].group)
    for name in ("train", "val"):
        assert (left[name].domain == 1 - code).all()
        assert not keys(left[name]) & of_domain
        assert not set(left[name].group) & patients
        assert keys(left[name]) < keys(whole[name])
    # In each direction the patient and the image that stand on both sides, as far as they were in train or val.
    other = whole["train"].take(whole["train"].domain == 1 - code)
    assert len(left["train"]) == len(other) - (2 if code == 1 else 0)
    order = np.lexsort((left["test"].label, *left["test"].key.T[::-1]))
    np.testing.assert_array_equal(order, np.arange(len(order)))


def test_python_loads_the_student_of_a_domain(sites):
    run, result = sites
    trained = Trained(run=run, test=None, val=None, teacher={}, seconds=0.0, result=result)
    assert trained.load("south/2").num_classes == 3
    with pytest.raises(StudentError, match=r"without the domain None; domains held out: north, south/2"):
        trained.load()


def test_what_is_left_out_is_said(place, tmp_path):
    said = " ".join(list_warnings(prepare(place, tmp_path / "run")))
    assert (
        "with 'south/2' held out, 2 other images are left out too: they show its patients, or are copies of its images"
    ) in said
    assert "2 images without a known domain are left out: they may belong to the domain held out" in said


def test_the_probe_is_that_of_a_cache_without_the_domain(place, medal, tmp_path):
    """The same probe from the other end: a new cache of the images that are left alone."""
    part = prepare(place, tmp_path / "run").without("south/2").targets.splits
    whole = open_cache(place / "all.h5")
    gone = set().union(*(set(map(bytes, whole.read(name, "key"))) for name in ("train", "val")))
    gone -= keys(part["train"]) | keys(part["val"])
    (tmp_path / "gone").write_text("\n".join(sorted(key.hex() for key in gone)))
    medal("reprobe", place / "all.h5", tmp_path / "left.zarr", "--exclude-keys", tmp_path / "gone")
    left = open_cache(tmp_path / "left.zarr")
    for name in ("train", "val"):
        np.testing.assert_array_equal(part[name].key, left.read(name, "key"))
        np.testing.assert_array_equal(part[name].logits, left.read(name, "logits"))
    weight, bias = (left.read("probe", name)[-1].astype(np.float64) for name in ("weight", "bias"))
    feature = {
        bytes(key): row
        for name in whole.splits
        for key, row in zip(whole.read(name, "key"), whole.read(name, "feature")[:, 0], strict=True)
    }
    expected = np.stack([feature[bytes(key)] for key in part["test"].key]).astype(np.float64) @ weight.T + bias
    np.testing.assert_allclose(part["test"].teacher, expected, atol=1e-4)


def test_a_share_of_the_labels_that_are_left(place, tmp_path):
    part = prepare(place, tmp_path / "run", label_fraction=0.5).without("north").targets
    assert part.fit["labelled"] == (part.splits["train"].label >= 0).sum() < len(part.splits["train"])
    assert (part.splits["test"].label >= 0).all()


def test_alpha_per_class_is_of_the_probe_without_the_domain(place, tmp_path):
    asked = prepare(place, tmp_path / "run", alpha="per-class")
    one, other = (asked.without(name).settings.alpha for name in SITES)
    assert len(one) == 3
    assert one != other
    assert asked.request["alpha"] == "per-class"


# ── What comes out ───────────────────────────────────────────────────────────────────────────────────────────────


def test_every_domain_has_a_run_of_its_own(sites, place):
    run, result = sites
    assert {path.name for path in run.iterdir()} == {
        "domain-north",
        "domain-south-2",
        "metrics.json",
        "README.md",
        "run.json",
    }
    assert RUN_KIND.is_part(run)
    assert [found["folder"] for found in result["domains"].values()] == ["domain-north", "domain-south-2"]
    for name, found in result["domains"].items():
        folder = run / found["folder"]
        timm.create_model(f"local-dir:{folder}", pretrained=True)
        record = json.loads((folder / "run.json").read_text())
        assert record["request"]["held_out"] == name
        part = read_predictions(folder)["test"]
        figures = score(part.logits, part.label, "multiclass", ("a", "b", "c"))
        assert found["test"]["auroc"] == figures.auroc
        assert found["test"]["n"] == len(part.key) == found["rows"]["test"]
        assert open_run(folder / "baseline", "cpu").description["alpha"] == 0
        assert f"held out: `{name}`" in (folder / "README.md").read_text()
    assert str(place) not in (run / "run.json").read_text()


def test_the_mean_gives_every_domain_the_same_weight(sites):
    run, result = sites
    for arm in ("student", "baseline", "teacher"):
        each = [(one if arm == "student" else one[arm])["test"] for one in result["domains"].values()]
        mean = (result if arm == "student" else result[arm])["test"]
        for name in ("auroc", "accuracy", "brier"):
            assert mean[name] == pytest.approx(np.mean([one[name] for one in each]))
            assert mean["ci95"][name][0] <= mean[name] <= mean["ci95"][name][1]
        assert mean["n"] == sum(one["n"] for one in each)
        assert list(mean["domains"]) == list(SITES)
    for name, one, other in (
        ("student_minus_baseline", result, result["baseline"]),
        ("teacher_minus_baseline", result["teacher"], result["baseline"]),
    ):
        found = result["comparison"]["test"][name]
        assert found["auroc"]["difference"] == pytest.approx(one["test"]["auroc"] - other["test"]["auroc"])
        each = [part["comparison"]["test"][name]["mcnemar"] for part in result["domains"].values()]
        assert found["mcnemar"]["only_first"] == sum(part["only_first"] for part in each)
    assert result["val"] is None
    assert result["verdict"].endswith("These are means over the domains held out: north, south/2.")
    parts = [one["test"]["rests_on"] for one in result["domains"].values()]
    assert result["test"]["rests_on"] == {name: min(part[name] for part in parts) for name in ("units", "rarest")}
    assert json.loads((run / "metrics.json").read_text())["verdict"] == result["verdict"]
    card = (run / "README.md").read_text()
    assert f"| mean |  | teacher | {result['test']['n']} |" in card
    assert "not a medical device" in card


@pytest.mark.slow
def test_a_class_that_a_domain_lacks_is_left_out_of_its_mean_and_named(place, medal, tmp_path):
    """Three sites, so that the class can be learned from the two others."""
    with (place / "all.csv").open() as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    for number, row in enumerate(rows):
        row[3] = ("north", "south", "east")[number // 3 % 3]
    rows = [row for row in rows if (row[1], row[3]) != ("c", "east")]
    write(place / "three.csv", rows)
    request = ("--image-size", 28, "--precision", "fp32", "--batch-size", 32)
    medal("cache-teacher", place / "three.csv", place / "three.h5", "--teacher", place / "teacher", *request)
    result = train(place, tmp_path / "run", cache="three.h5", dataset="three.csv", epochs=1)
    assert {name: one["absent"] for name, one in result["test"]["domains"].items()} == {
        "east": ["c"],
        "north": [],
        "south": [],
    }
    assert result["domains"]["east"]["test"]["absent"] == ["c"]
    assert result["test"]["auroc"] == pytest.approx(
        np.mean([one["test"]["auroc"] for one in result["domains"].values()])
    )
    assert len({one["rows"]["train"] for one in result["domains"].values()}) > 1


# ── Killed, and added to ─────────────────────────────────────────────────────────────────────────────────────────


def kill_after(place, run, epochs, **settings):
    """Train in a process that is killed when it has said that so many epochs are done."""
    script = textwrap.dedent(
        f"""
        import os, runpy, signal
        from pathlib import Path
        import torch
        import medal.student.training.checkpoint as checkpoint
        torch.set_num_threads(1)
        checkpoint.Checkpoint.__init__.__defaults__ = (0.0,)
        train = runpy.run_path({domain_cases.__file__!r})["train"]
        done = []

        def report(text):
            done.extend([text] if text.startswith("epoch") else [])
            if len(done) == {epochs}:
                os.kill(os.getpid(), signal.SIGKILL)

        train(Path({str(place)!r}), Path({str(run)!r}), report, **{settings!r})
        """
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr


def same_bits(one, other):
    parts = [path.parent.relative_to(other) for path in other.rglob("member.json")]
    return len(parts) > 1 and all(same_bits_of_one(one / part, other / part) for part in parts)


def test_killed_it_goes_on_at_the_domain_and_epoch_and_ends_with_the_same_bits(sites, place, tmp_path, monkeypatch):
    run, result = sites
    # Of two domains with two members of two epochs each, the last member's first epoch is done.
    kill_after(place, tmp_path / "run", 7, baseline=True)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))
    heard = []
    again = train(place, tmp_path / "run", heard.append, baseline=True)
    assert again["action"] == "resume"
    assert "resuming after epoch 1 of 2" in heard
    assert sum(text.startswith("epoch") for text in heard) == 1
    assert again["test"] == result["test"]
    assert same_bits(tmp_path / "run", run)
    assert train(place, tmp_path / "run", baseline=True) == {**again, "action": "reuse"}


@pytest.mark.slow
def test_seeds_and_baseline_are_added_without_training_again(sites, place, tmp_path):
    _, result = sites
    train(place, tmp_path / "run")
    heard = []
    added = train(place, tmp_path / "run", heard.append, baseline=True, seeds=2)
    assert added["action"] == "extend"
    assert sum(text.startswith("epoch") for text in heard) == 2 * 3 * 2
    assert [one["seed"] for one in added["seeds"]] == [0, 1]
    assert added["test"]["spread"]["auroc"] >= 0
    first = [json.loads(path.read_text()) for path in (tmp_path / "run").rglob("member.json")]
    assert len(first) == 8
    kept = {one["test"]["auroc"] for part in added["domains"].values() for one in part["seeds"] if one["seed"] == 0}
    assert kept == {one["test"]["auroc"] for one in result["domains"].values()}


# ── The command ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_shows_domains_side_by_side(place, medal, capsys, tmp_path):
    words = ("train-student", place / "all.h5", place / "all.csv", *WORDS, "--epochs", 1, "--leave-one-domain-out")
    foreseen = medal(*words, "--out", tmp_path / "run", "--dry-run")
    assert [one["train"] for one in foreseen["domains"].values()] == [30, 27]
    capsys.readouterr()
    group.main([*map(str, words), "--out", str(tmp_path / "run")], prog_name="medal", standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    for domain in (*SITES, "mean"):
        for arm in ("student  ", "teacher  ", "student − teacher"):
            assert any(line.startswith(f"{domain} ") and arm in line for line in lines), (domain, arm)
    with pytest.raises(StudentError, match=r"has one student for each of 2 domains held out; give .*domain-north'"):
        medal("predict", tmp_path / "run", place / "0.png")
    with pytest.raises(StudentError, match=r"compare domain by domain, for instance .*domain-north'"):
        medal("compare", tmp_path / "run", tmp_path / "run/domain-south-2")
    assert medal("predict", tmp_path / "run/domain-north", place / "0.png")["images"] == 1


def test_without_domains_it_is_refused_in_a_sentence(place, medal, tmp_path):
    with (place / "all.csv").open() as file:
        rows = [list(row.values())[:3] for row in csv.DictReader(file)]
    write(place / "none.csv", rows, ("file", "label", "split"))
    request = ("--image-size", 28, "--precision", "fp32", "--batch-size", 32)
    medal("cache-teacher", place / "none.csv", place / "none.h5", "--teacher", place / "teacher", *request)
    with pytest.raises(CacheMismatch, match=r"none.h5' has no domains; nothing was trained. .*--domain-column"):
        prepare(place, tmp_path / "run", cache="none.h5", dataset="none.csv")
    medal("reprobe", place / "all.h5", place / "north.h5", "--exclude-domain", "south/2")
    with pytest.raises(CacheMismatch, match="has only the domain 'north'"):
        prepare(place, tmp_path / "run", cache="north.h5", on_missing="drop")
    with pytest.raises(StudentError, match="--leave-one-domain-out and --also-cache exclude each other"):
        prepare(place, tmp_path / "run", also=[(str(place / "none.h5"), 1.0)])


def test_a_domain_that_others_cannot_do_without_is_named_with_the_remedy(place, medal, tmp_path):
    cache = open_cache(place / "all.h5")
    columns = ("key", "label", "domain")
    gone = {
        split: [
            bytes(key).hex()
            for key, label, domain in zip(*(cache.read(split, name) for name in columns), strict=True)
            if domain == 0 and (label == 2 or split == "val")
        ]
        for split in cache.splits
    }
    for name, keys_gone, expected in (
        (
            "rare",
            [*gone["train"], *gone["test"]],
            r"Without the domain 'south/2', train .*too few images of 'c' \(0\).*--exclude-class c, then train",
        ),
        ("val", gone["val"], r"Without the domain 'south/2', .* has no image left in val"),
    ):
        (tmp_path / "gone").write_text("\n".join(keys_gone))
        medal("reprobe", place / "all.h5", tmp_path / f"{name}.h5", "--exclude-keys", tmp_path / "gone")
        with pytest.raises(CacheMismatch, match=expected):
            prepare(place, tmp_path / "run", cache=tmp_path / f"{name}.h5", on_missing="drop")


def test_folders_have_safe_names_that_differ():
    taken = []
    for name in ("../../etc", "Ward A", "ward a", "Ward/A", "肺", "x" * 300, ""):
        folder = _folder(name, taken)
        assert RUN_PART.fullmatch(folder)
        assert folder.lower() not in [one.lower() for one in taken]
        taken.append(folder)
