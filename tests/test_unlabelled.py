"""Images that never had labels: cached without any, and taught by the teacher of those that have some."""

import csv
import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from medal.cache.errors import CacheMismatch, DataError, StudentError
from medal.cache.reader import open_cache
from medal.pipeline.teacher.demo import tiny_teacher
from medal.student.members.ensemble import average_with_baseline
from medal.student.members.plan import ask
from medal.student.members.telling import list_warnings
from medal.student.settings import StudentSettings

squares = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "student_squares.py")))
REQUEST = ("--image-size", 28, "--precision", "fp32", "--batch-size", 32)
QUICK = ("--student", "test_resnet", "--image-size", 32, "--epochs", 1, "--precision", "fp32", "--batch-size", 16)
LABELLED, LOOSE = 72, 20

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(medal, tmp_path_factory):
    """A table of squares with labels; beside it loose squares without any, some of which stand in the table too."""
    folder = tmp_path_factory.mktemp("unlabelled")
    random = np.random.default_rng(5)
    rows = []
    (folder / "loose/more").mkdir(parents=True)
    for row in range(LABELLED + LOOSE):
        picture = random.integers(0, 120, (16, 16))
        picture[:8, :8] += row % 3 * 50
        name = f"{row}.png" if row < LABELLED else f"loose/{'more/' if row % 2 else ''}{row}.png"
        Image.fromarray(picture.astype(np.uint8)).save(folder / name)
        if row < LABELLED:
            rows.append([name, "abc"[row % 3], "train" if row < 40 else "val" if row < 56 else "test"])
    write(folder / "all.csv", rows)
    for row, copy in ((3, "a"), (45, "b"), (60, "c"), (60, "more/d")):  # of train, val and test
        (folder / f"loose/{copy}.png").write_bytes((folder / f"{row}.png").read_bytes())
    (folder / f"loose/{LABELLED}-again.png").write_bytes((folder / f"loose/{LABELLED}.png").read_bytes())
    tiny_teacher(folder).rename(folder / "teacher")
    cache(medal, folder, folder / "all.csv", folder / "all.h5", "--views", 2, "--augment", "small")
    cache(medal, folder, folder / "loose", folder / "loose.h5", "--views", 2, "--augment", "small", "--unlabelled")
    return folder


def write(path, rows, columns=("file", "label", "split")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def cache(medal, place, dataset, out, *options):
    return medal("cache-teacher", dataset, out, "--teacher", place / "teacher", *REQUEST, *options)


def prepare(place, run, unlabelled=(("loose.h5", "loose"),), also=(), **changed):
    quick = {"student": "test_resnet", "image_size": 32, "epochs": 1, "precision": "fp32", "batch_size": 16}
    settings = StudentSettings(**{**quick, **changed})
    pairs = [(str(place / one), str(place / other)) for one, other in unlabelled]
    return ask(
        str(place / "all.h5"),
        str(place / "all.csv"),
        squares.DatasetOptions(),
        settings,
        run,
        overwrite=False,
        also=also,
        unlabelled=pairs,
    )


# ── Their cache ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_images_alone_are_cached_whatever_there_is_of_labels(place, medal, tmp_path):
    made = open_cache(place / "loose.h5")
    assert made.manifest.classes == ("unlabelled",)
    assert dict(made.manifest.rows) == {"train": LOOSE + 5}
    assert (made.read("train", "label") == -1).all()
    assert not made.read("train", "logits").any()
    assert made.read("train", "feature").any()
    for words in (("verify", place / "loose.h5"), ("verify", place / "loose.h5", place / "loose", "--sample", 3)):
        options = ("--teacher", place / "teacher") if len(words) > 2 else ()
        assert medal(*words, *options)["ok"]
    # The same images by a table of files, by one with labels, and from what another cache knows already.
    names = [[str(path.relative_to(place))] for path in sorted((place / "loose").rglob("*.png"))]
    bare = write(place / "bare.csv", names, ("file",))
    again = cache(medal, place, bare, tmp_path / "bare.h5", "--views", 2, "--augment", "small", "--unlabelled")
    assert again["cache_id"] == made.cache_id
    views = ("--views", 2, "--augment", "small")
    taken = cache(
        medal, place, place / "all.csv", tmp_path / "alone.h5", "--from", place / "all.h5", "--unlabelled", *views
    )
    assert taken["rows"] == {"train": LABELLED}
    assert taken["computed"] == 32  # of val and test there are no further views


def test_labels_are_not_forgotten_by_mistake(place, medal, tmp_path):
    with pytest.raises(DataError, match=r"has no column 'label' for the labels"):
        cache(medal, place, write(place / "bare.csv", [["0.png"]], ("file",)), tmp_path / "x.h5")
    for option, value in (("--label-column", "label"), ("--exclude-class", "a"), ("--split-column", "split")):
        with pytest.raises(DataError, match=rf"--unlabelled reads images alone, and {option} would go unheard"):
            cache(medal, place, place / "all.csv", tmp_path / "x.h5", "--unlabelled", option, value)
    with pytest.raises(DataError, match="--tune needs labels of val"):
        cache(medal, place, place / "all.csv", tmp_path / "x.h5", "--unlabelled", "--tune")
    with pytest.raises(CacheMismatch, match=r"has no labels.*--unlabelled .*loose.h5"):
        medal("train-student", place / "loose.h5", place / "loose", "--out", tmp_path / "run", *QUICK)


# ── What they are taught ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("changed", [{}, {"targets": "stored", "loss": "feature"}, {"label_fraction": 0.5}])
def test_they_join_train_with_the_first_cache_s_teacher(changed, place, tmp_path):
    plain = prepare(place, tmp_path / "run", unlabelled=(), **changed)
    asked = prepare(place, tmp_path / "run", **changed)
    train, before = asked.targets.splits["train"], plain.targets.splits["train"]
    assert len(train) == len(before) + LOOSE
    assert asked.targets.fit["unlabelled"] == LOOSE
    first, other = open_cache(place / "all.h5"), open_cache(place / "loose.h5")
    place_of = {bytes(key): row for row, key in enumerate(other.read("train", "key"))}
    held = {bytes(key) for split in first.splits for key in first.read(split, "key")}
    new = np.array([bytes(key) not in held for key in train.key])
    assert new.sum() == LOOSE
    assert (train.label[new] == -1).all()
    rows = [place_of[bytes(key)] for key in train.key[new]]
    if "label_fraction" in changed:
        weight, bias = asked.targets.head
        assert np.abs(weight - first.read("probe", "weight")[-1]).max() > 1e-4
    else:
        weight, bias = (first.read("probe", name)[-1] for name in ("weight", "bias"))
    feature = other.read("train", "feature")[rows][:, : train.logits.shape[1]]
    expected = feature.astype(np.float64) @ weight.T.astype(np.float64) + bias
    np.testing.assert_allclose(train.logits[new], expected, atol=1e-4)
    assert train.logits.shape[1] == (2 if changed.get("targets") == "stored" else 1)
    # What had a label is as it was, and every row leads to its own image.
    np.testing.assert_array_equal(train.logits[~new], before.logits)
    np.testing.assert_array_equal(train.label[~new], before.label)
    for row, key in zip(train.row, train.key, strict=True):
        assert asked.dataset.images.key(int(row)) == bytes(key)


def test_what_stands_in_val_or_test_is_left_out_and_said(place, tmp_path):
    asked = prepare(place, tmp_path / "run")
    said = " / ".join(list_warnings(asked))
    assert f"{LOOSE} unlabelled images are added to train, with the teacher's soft targets only" in said
    assert "3 unlabelled images are left out because they are also in val or test" in said
    assert "2 unlabelled images are left out because they are already in train" in said
    train = {bytes(key) for key in asked.targets.splits["train"].key}
    for split in ("val", "test"):
        assert not train & {bytes(key) for key in asked.targets.splits[split].key}


def test_a_run_with_unlabelled_images(place, medal, tmp_path):
    words = ("train-student", place / "all.h5", place / "all.csv", *QUICK, "--out", tmp_path / "run")
    result = medal(*words, "--unlabelled", place / "loose.h5", place / "loose")
    assert result["test"]["n"] == 16
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["rows"]["train"] == 40 + LOOSE
    assert record["request"]["unlabelled"] == [open_cache(place / "loose.h5").content_digest]
    assert str(place) not in json.dumps(record)
    card = (tmp_path / "run/README.md").read_text()
    assert f"images in train that never had a label: {LOOSE} of {40 + LOOSE}" in card
    assert medal(*words, "--unlabelled", place / "loose.h5", place / "loose")["action"] == "reuse"
    assert prepare(place, tmp_path / "new").request != prepare(place, tmp_path / "new", unlabelled=()).request


def test_unlabelled_images_are_taught_by_the_mean_of_probe_and_baseline(place, medal, tmp_path):
    words = ("train-student", place / "all.h5", place / "all.csv", *QUICK, "--out", tmp_path / "run")
    result = medal(*words, "--unlabelled", place / "loose.h5", place / "loose", "--label-fraction", 0.5)
    assert result["taught_by"]["chosen"] == "ensemble"
    asked = prepare(place, tmp_path / "new", label_fraction=0.5)
    train = asked.targets.splits["train"]
    answer = np.random.default_rng(0).normal(0, 2, (2, len(train), 3)).astype(np.float32)
    one, other = (average_with_baseline(asked.targets, said).splits["train"].logits for said in answer)
    changed = (one != other).any((1, 2))
    np.testing.assert_array_equal(changed, train.label == -1)
    assert changed.sum() > LOOSE


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "changed", "expected"),
    [
        (("--image-size", 42), {}, r"differ in preprocessing's image_size \('28' and '42'\)"),
        (("--resize", "pad"), {}, r"differ in preprocessing's resize \('squash' and 'pad'\)"),
        (("--no-features",), {}, r"made with --no-features, and the first cache's probe needs its features"),
        ((), {"targets": "stored"}, r"differ in views' count \('2' and '1'\)"),
    ],
)
def test_features_that_the_probe_cannot_read(options, changed, expected, place, medal, tmp_path):
    cache(medal, place, place / "loose", tmp_path / "other.h5", "--unlabelled", *options)
    with pytest.raises(CacheMismatch, match=expected):
        prepare(place, tmp_path / "run", unlabelled=[(tmp_path / "other.h5", "loose")], **changed)


def test_other_images_than_the_cache_s(place, tmp_path):
    with pytest.raises(CacheMismatch, match=r"3 of 72 match, .*all.csv OUT --unlabelled, or give --on-missing drop"):
        prepare(place, tmp_path / "run", unlabelled=[("loose.h5", "all.csv")])


def test_options_that_exclude_it(place, tmp_path):
    for changed, expected in (
        ({"leave_one_domain_out": True}, "--leave-one-domain-out and --unlabelled exclude each other"),
        ({"also": [(str(place / "all.h5"), 1.0)]}, "--unlabelled and --also-cache exclude each other"),
        ({"alpha": 0.0}, "only have soft targets, which --no-distill"),
    ):
        with pytest.raises(StudentError, match=expected):
            prepare(place, tmp_path / "run", **changed)
