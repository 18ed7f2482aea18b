"""`medal reprobe`: another probe on cached features, equal to the bit to what stage one would make."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from medal.cache.errors import CacheMismatch, DataError
from medal.cache.making.work import WorkDirectory, work_path
from medal.cache.reader import open_cache
from medal.cache.verify import verify_path
from medal.pipeline.teacher.demo import tiny_teacher

COLUMNS = ("file", "label", "split", "domain", "group")
ROWS = 120


@pytest.fixture(scope="module")
def place(medal, tmp_path_factory):
    """Squares of three classes and three domains, of patients and with copies, as a table, and a cache of them."""
    folder = tmp_path_factory.mktemp("reprobe")
    random = np.random.default_rng(3)
    rows = []
    for row in range(ROWS):
        picture = random.integers(0, 150, (16, 16))
        picture[:8, :8] += row % 3 * 45
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{row}.png")
        split = "train" if row < 72 else "val" if row < 96 else "test"
        rows.append([f"{row}.png", "abc"[row % 3], split, "xyz"[row // 4 % 3], f"p{row // 2}" if row % 7 else ""])
    rows += [["6.png", "a", "train", "x", ""], ["6.png", "a", "train", "z", "p9"]]
    write(folder / "all.csv", rows)
    teacher = tiny_teacher(folder)
    request = ("--teacher", teacher, "--image-size", 28, "--precision", "fp32", "--batch-size", 32)
    medal("cache-teacher", folder / "all.csv", folder / "all.zarr", *request)
    return folder, request


def write(path, rows, columns=COLUMNS):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def same(one, other):
    return (one["cache_id"], one["content_digest"]) == (other["cache_id"], other["content_digest"])


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_with_nothing_changed_every_bit_is_the_same(suffix, small_cache, medal, tmp_path):
    made = medal("reprobe", small_cache, tmp_path / f"again{suffix}")
    cache = open_cache(small_cache)
    assert (made["action"], made["cache_id"]) == ("create", cache.cache_id)
    assert made["content_digest"] == cache.content_digest
    assert made["teacher"] == made["before"]
    assert verify_path(tmp_path / f"again{suffix}") == []
    assert [path.name for path in tmp_path.iterdir()] == [f"again{suffix}"]


@pytest.mark.parametrize("views", [1, 3])
def test_other_folds_are_what_stage_one_makes(views, place, medal, tmp_path):
    folder, request = place
    several = ("--views", views, "--augment", "small") if views > 1 else ()
    source = folder / "all.zarr"
    if several:
        source = tmp_path / "views.zarr"
        medal("cache-teacher", folder / "all.csv", source, *request, *several)
    made = medal("reprobe", source, tmp_path / "two.h5", "--folds", 2)
    anew = medal("cache-teacher", folder / "all.csv", tmp_path / "anew.zarr", *request, *several, "--folds", 2)
    assert anew["computed"] == len(read(folder / "all.csv"))
    assert same(made, anew)
    assert open_cache(tmp_path / "two.h5").read("train", "feature").shape[1] == views


@pytest.mark.parametrize("what", ["class", "domain", "several"])
def test_amended_rows_are_what_stage_one_makes_of_them(what, place, medal, tmp_path):
    folder, request = place
    rows, options, stage_one = read(folder / "all.csv"), [], ()
    keys = keys_of(folder)
    if what == "several":
        # Labels of one image that stands three times, and of one whose label becomes unknown.
        write(tmp_path / "right.csv", [[keys["6.png"], "c"], [keys["10.png"], ""]], ("key", "label"))
        options += ["--labels", tmp_path / "right.csv"]
        rows = [[row[0], {"6.png": "c", "10.png": ""}.get(row[0], row[1]), *row[2:]] for row in rows]
    if what == "several":
        (tmp_path / "gone.txt").write_text("".join(f"{keys[f'{row}.png'].upper()}\r\n\n" for row in (0, 1, 80)))
        options += ["--exclude-keys", tmp_path / "gone.txt"]
        rows = [row for row in rows if row[0] not in ("0.png", "1.png", "80.png")]
    if what in ("domain", "several"):
        options += ["--exclude-domain", "y"]
        rows = [row for row in rows if row[3] != "y"]
    if what in ("class", "several"):
        options += ["--exclude-class", "b"]
        stage_one = ("--exclude-class", "b")
    write(folder / f"{what}.csv", rows)
    made = medal("reprobe", folder / "all.zarr", tmp_path / "out.zarr", *options)
    anew = medal(
        "cache-teacher",
        folder / f"{what}.csv",
        tmp_path / "anew.zarr",
        *request,
        *stage_one,
        "--from",
        folder / "all.zarr",
    )
    assert anew["computed"] == 0
    assert same(made, anew)
    assert verify_path(tmp_path / "out.zarr") == []
    one, other = (open_cache(tmp_path / name).manifest for name in ("out.zarr", "anew.zarr"))
    for name in ("classes", "domains", "excluded_classes", "rows", "repeats", "label_columns"):
        assert one.dataset[name] == other.dataset[name]
    assert one.probe == other.probe
    left_out = len(read(folder / "all.csv")) - sum(made["rows"].values())
    assert sum(made["left_out"].values()) == left_out
    assert made["relabelled"] == (4 if what == "several" else 0)


def keys_of(folder):
    from medal.pipeline.datasets.opening import open_dataset

    dataset = open_dataset(str(folder / "all.csv"))
    return {f"{row}.png": dataset.images.key(row).hex() for row in range(ROWS)}


def test_what_was_left_out_trains_a_student(place, medal, tmp_path):
    folder, _ = place
    medal("reprobe", folder / "all.zarr", tmp_path / "out.zarr", "--exclude-class", "b", "--exclude-domain", "y")
    result = medal(
        "train-student",
        tmp_path / "out.zarr",
        folder / "all.csv",
        "--out",
        tmp_path / "run",
        "--student",
        "test_resnet",
        "--image-size",
        32,
        "--epochs",
        1,
        "--precision",
        "fp32",
        "--on-missing",
        "drop",
    )
    assert set(result["test"]["per_class"]) == {"a", "c"}


def test_several_labels(place, medal, tmp_path):
    folder, request = place
    rows = [
        [row[0], int(row[1] == "a"), int(row[1] != "c"), int(row[0].removesuffix(".png")) % 2, row[2]]
        for row in read(folder / "all.csv")
    ]
    columns = ("file", "p", "q", "r", "split")
    labels = ("--label-columns", "p,q,r")
    medal("cache-teacher", write(folder / "bits.csv", rows, columns), tmp_path / "bits.zarr", *request, *labels)
    write(tmp_path / "right.csv", [[keys_of(folder)["3.png"], 1, ""]], ("key", "r", "p"))
    made = medal(
        "reprobe",
        tmp_path / "bits.zarr",
        tmp_path / "out.zarr",
        "--labels",
        tmp_path / "right.csv",
        "--exclude-class",
        "q",
    )
    rows[3][1], rows[3][3] = "", 1
    anew = medal(
        "cache-teacher",
        write(folder / "right.csv", rows, columns),
        tmp_path / "anew.zarr",
        *request,
        *labels,
        "--exclude-class",
        "q",
        "--from",
        tmp_path / "bits.zarr",
    )
    assert same(made, anew)
    assert open_cache(tmp_path / "out.zarr").manifest.classes == ("p", "r")


def test_a_dry_run_writes_nothing_and_knows_the_address(small_cache, medal, tmp_path):
    out = tmp_path / "ten.h5"
    said = medal("reprobe", small_cache, out, "--folds", 10, "--dry-run")
    assert list(tmp_path.iterdir()) == []
    made = medal("reprobe", small_cache, out, "--folds", 10)
    assert (said["action"], said["cache_id"], said["rows"]) == ("create", made["cache_id"], made["rows"])
    assert 0 < said["bytes"] <= 2 * out.stat().st_size
    assert medal("reprobe", small_cache, out, "--folds", 10, "--dry-run")["action"] == "reuse"
    before = out.read_bytes()
    assert medal("reprobe", small_cache, out, "--folds", 10)["action"] == "reuse"
    with pytest.raises(CacheMismatch, match=r"differs in probe.folds \(10, asked for: 3\)"):
        medal("reprobe", small_cache, out, "--folds", 3)
    assert out.read_bytes() == before


def test_a_cache_may_be_replaced_by_what_is_made_of_it(small_cache, medal, tmp_path):
    medal("convert", small_cache, tmp_path / "c.zarr")
    with pytest.raises(CacheMismatch, match="--overwrite"):
        medal("reprobe", tmp_path / "c.zarr", tmp_path / "c.zarr", "--folds", 3)
    made = medal("reprobe", tmp_path / "c.zarr", tmp_path / "c.zarr", "--folds", 3, "--overwrite")
    assert verify_path(tmp_path / "c.zarr") == []
    assert open_cache(tmp_path / "c.zarr").content_digest == made["content_digest"]


@pytest.mark.parametrize(
    ("options", "file", "expected"),
    [
        (("--exclude-class", "d"), None, "has no class 'd' to leave out; its classes are 'a', 'b', 'c'"),
        (("--exclude-domain", "w"), None, "has no domain 'w' to leave out; its domains are 'x', 'y', 'z'"),
        (("--folds", "1"), None, "number of folds should be 0"),
        (("--exclude-keys",), "00ff\n", "has '00ff' in line 1; expected a content key, 32 hexadecimal digits"),
        (("--exclude-keys",), "\n", "has no key"),
        (("--exclude-keys",), "0" * 32, "None of the 1 keys that .* names is in the cache"),
        (("--labels",), "key,class\n", "no rows"),
        (("--labels",), "key,class\n1,2\n", "has the columns 'key', 'class'; expected 'key' and 'label'"),
        (("--labels",), "key,label\nKEY,d\n", "has the label 'd' in row 2; expected a class of the cache"),
        (("--labels",), "key,label\nKEY,a\nKEY,b\n", "row 2 another label in row 3"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options, file, expected, place, medal, tmp_path):
    folder, _ = place
    if file is not None:
        (tmp_path / "file").write_text(file.replace("KEY", keys_of(folder)["0.png"]))
        options = (*options, tmp_path / "file")
    with pytest.raises(DataError, match=expected):
        medal("reprobe", folder / "all.zarr", tmp_path / "out.zarr", *options)
    assert not (tmp_path / "out.zarr").exists()


def test_keys_that_are_not_there_are_counted(place, shell, tmp_path):
    folder, _ = place
    (tmp_path / "gone").write_text(f"{keys_of(folder)['0.png']}\n{'0' * 32}\n")
    said = shell("reprobe", folder / "all.zarr", tmp_path / "o.zarr", "--exclude-keys", tmp_path / "gone", "--dry-run")
    assert said.returncode == 0
    assert "1 of the 2 keys that" in said.stderr
    assert "121 images, 1 left out" in said.stdout


def test_who_withdrew_is_named_nowhere(place, medal, tmp_path):
    folder, request = place
    (folder / "bad.png").write_bytes(b"no image")
    rows = [*read(folder / "all.csv"), ["bad.png", "a", "train", "x", ""]]
    medal(
        "cache-teacher",
        write(folder / "bad.csv", rows),
        tmp_path / "bad.zarr",
        *request,
        "--on-bad-image",
        "skip",
        "--from",
        folder / "all.zarr",
    )
    ((bad,),) = open_cache(tmp_path / "bad.zarr").manifest.dataset["skipped"]["keys"].values()
    key = keys_of(folder)["9.png"]
    (tmp_path / "gone").write_text(f"{key}\n{bad}\n")
    made = medal("reprobe", tmp_path / "bad.zarr", tmp_path / "out.h5", "--exclude-keys", tmp_path / "gone")
    assert made["left_out"]["key"] == 1
    assert verify_path(tmp_path / "out.h5") == []
    assert bad not in json.dumps(open_cache(tmp_path / "out.h5").manifest.raw)
    assert bytes.fromhex(key) not in (tmp_path / "out.h5").read_bytes()


def test_without_features_the_remedy_is_said(place, medal, tmp_path):
    folder, request = place
    medal("cache-teacher", folder / "all.csv", tmp_path / "lean.zarr", *request, "--no-features")
    with pytest.raises(CacheMismatch, match=r"made with --no-features.*make it again without"):
        medal("reprobe", tmp_path / "lean.zarr", tmp_path / "out.zarr")


def test_a_kill_leaves_what_the_same_command_clears_up(small_cache, medal, tmp_path):
    medal("reprobe", small_cache, tmp_path / "out.zarr", "--folds", 2)
    old = open_cache(tmp_path / "out.zarr").content_digest
    words = ["reprobe", small_cache, tmp_path / "out.zarr", "--folds", 20, "--overwrite", "--json"]
    process = subprocess.Popen([sys.executable, "-m", "medal", *map(str, words)], stdout=-1, stderr=-1, text=True)
    deadline = time.monotonic() + 120
    work = work_path(tmp_path / "out.zarr")
    while not list(work.glob(".known-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert WorkDirectory(work).read_settings() is not None
    assert verify_path(tmp_path / "out.zarr") == []
    assert open_cache(tmp_path / "out.zarr").content_digest == old
    assert "work directory" in {one["kind"] for one in medal("clean", tmp_path)["found"]}
    made = medal(*words[:-1])
    assert made["action"] == "create"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr"]


def test_stage_one_goes_on_from_a_killed_reprobe(place, medal, tmp_path):
    folder, request = place
    from medal.pipeline.caching.reprobe import ReprobeSettings, _record, prepare

    asked = prepare(str(folder / "all.zarr"), str(tmp_path / "o.zarr"), ReprobeSettings(folds=3))
    WorkDirectory(work_path(tmp_path / "o.zarr")).begin(json.loads(json.dumps(_record(asked))))
    made = medal("cache-teacher", folder / "all.csv", tmp_path / "o.zarr", *request, "--folds", 3)
    assert made["computed"] == len(read(folder / "all.csv"))
    assert made["cache_id"] == asked.cache_id
