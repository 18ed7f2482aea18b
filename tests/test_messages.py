"""Errors read well: every sentence is on record, and bad input of many kinds gives the one that is meant.

A change of a sentence fails here until somebody has read it and run ``python tests/messages.py --update``.
"""

import difflib
import re
import shutil
import traceback

import messages
import numpy as np
import pytest
from PIL import Image

from medal.cache.errors import MedalError

FOUND = messages.find_messages()


def test_every_sentence_is_on_record():
    old, new = messages.GOLDEN.read_text(encoding="utf-8"), messages.as_text(FOUND)
    changed = "\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1))
    assert old == new, f"read what changed, then: python tests/messages.py --update\n{changed}"


def test_sentences_have_an_end_and_a_capital():
    """One sentence or two, for people: no newline of its own, no exclamation, no stray space."""
    for one in FOUND:
        text = re.sub(r"\{.*?\}", "x", one.sentence)
        assert re.match(r"[A-Zx'-]|medal|pip|timm|dataset|file", text), one
        assert not re.search(r" [.,;:](?: |$)|!|\?\?|\.\.(?!\.)", text), one


# ── What people do wrong ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def place(tmp_path_factory, medal):
    """A folder with a small set, a cache of it from a tiny teacher, and much that is wrong."""
    from medal.pipeline.teacher.demo import tiny_teacher

    folder = tmp_path_factory.mktemp("messages")
    tiny_teacher(folder).rename(folder / "tiny")
    random = np.random.default_rng(0)
    good = {}
    for split, count in {"train": 24, "val": 8, "test": 8}.items():
        good[f"{split}_images"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        good[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez(folder / "good.npz", **good)
    medal("cache-teacher", folder / "good.npz", folder / "good.zarr", "--teacher", folder / "tiny", "--image-size", 28)
    medal("convert", folder / "good.zarr", folder / "good.h5")
    np.savez(folder / "other.npz", **{name: 255 - array for name, array in good.items()})
    np.savez(folder / "flat.npz", **{**good, "train_images": np.zeros((24, 5), np.uint8)})
    np.savez(folder / "fewer.npz", **{**good, "val_labels": good["val_labels"][:3]})
    np.savez(folder / "halves.npz", **{**good, "train_labels": good["train_labels"] / 2})
    np.savez(folder / "one.npz", **{name: np.zeros_like(array) for name, array in good.items()})
    np.savez(folder / "lacking.npz", train_images=good["train_images"])
    np.savez(folder / "strange.npz", scans=good["train_images"])
    (folder / "no.npz").write_bytes(b"no archive")
    np.save(folder / "single", good["train_images"])
    (folder / "single.npy").rename(folder / "single.npz")
    _write_tables(folder)
    _damage_caches(folder)
    (folder / "empty").mkdir()
    (folder / "weights").mkdir()
    shutil.copy(folder / "tiny/config.json", folder / "weights")
    (folder / "pickle").mkdir()
    shutil.copy(folder / "tiny/config.json", folder / "pickle")
    (folder / "pickle/pytorch_model.bin").write_bytes(b"")
    return folder


def _write_tables(folder):
    for number in range(4):
        Image.fromarray(np.full((20, 20), 60 * number, np.uint8)).save(folder / f"{number}.png")
    rows = "".join(f"{number}.png,{'ab'[number % 2]}\n" for number in range(4))
    for name, text in {
        "table": "file,label\n" + rows,
        "onlya": "file,label\n" + rows.replace("b", "a"),
        "nofile": "image,label\n" + rows.replace(".png", ".gone"),
        "gone": "file,label\n" + rows + "9.png,a\n",
        "twice": "file,label,label\n",
        "norows": "file,label\n",
        "ragged": "file,label\n0.png\n",
        "badsplit": "file,label,split\n" + "".join(f"{n}.png,a,dev\n" for n in range(4)),
        "bits": "file,x,y\n" + "".join(f"{n}.png,1,maybe\n" for n in range(4)),
    }.items():
        (folder / f"{name}.csv").write_text(text)
    (folder / "latin.csv").write_bytes("file,label\nä.png,a\n".encode("latin-1"))


def _damage_caches(folder):
    shutil.copytree(folder / "good.zarr", folder / "unsealed.zarr")
    (folder / "unsealed.zarr/seal.json").unlink()
    shutil.copytree(folder / "good.zarr", folder / "sealed.zarr")
    (folder / "sealed.zarr/manifest.json").write_text("{}")
    body = bytearray((folder / "good.h5").read_bytes())
    body[-3000] ^= 1
    (folder / "damaged.h5").write_bytes(body)
    (folder / "text.h5").write_text("no cache")


STUDENT = ("--out", "run", "--student", "test_resnet", "--epochs", 1)
WRONG = [
    ("show", "none.zarr"),
    ("show", "none"),
    ("show", "good.npz"),
    ("show", "none.h5"),
    ("show", "unsealed.zarr"),
    ("show", "sealed.zarr"),
    ("show", "text.h5"),
    ("show", "damaged.h5"),
    ("show", "lab#chest"),
    ("show", "ftp://lab#chest"),
    ("convert", "good.zarr", "good.h5"),
    ("audit", "good.zarr", "other.npz"),
    ("audit", "good.zarr", "good.npz", "--csv", "table.csv"),
    ("reprobe", "good.zarr", "new.zarr", "--exclude-class", "7"),
    ("reprobe", "good.zarr", "new.zarr", "--exclude-keys", "none.txt"),
    ("reprobe", "good.zarr", "new.zarr", "--exclude-keys", "table.csv"),
    ("reprobe", "good.zarr", "new.zarr", "--folds", "1"),
    ("reprobe", "good.zarr", "new.zarr", "--exclude-domain", "moon"),
    ("push", "good.zarr", "nosuch://lab"),
    ("pull", "chest", "empty"),
    ("list", "none"),
    ("train-student", "good.zarr", "other.npz", *STUDENT),
    ("train-student", "good.npz", "good.zarr", *STUDENT),
    ("train-student", "good.zarr", "good.npz", *STUDENT, "--student", "resnet0"),
    ("train-student", "good.zarr", "good.npz", *STUDENT, "--loss", "kl"),
    ("train-student", "good.zarr", "good.npz", *STUDENT, "--loss", "kd+kd"),
    ("train-student", "good.zarr", "good.npz", *STUDENT, "--alpha", "2"),
    ("train-student", "good.zarr", "good.npz", *STUDENT, "--temperature", "0"),
    ("train-student", "good.zarr", "good.npz", *STUDENT, "--targets", "stored"),
    ("train-student", "good.zarr", "good.npz", *STUDENT, "--label-column", "x"),
    ("compare", "empty", "empty"),
    ("predict", "empty", "0.png"),
    ("evaluate", "empty", "good.npz"),
    *[
        ("cache-teacher", name, "new.zarr", "--teacher", "tiny", "--image-size", 28)
        for name in (
            "none.npz",
            "no.npz",
            "single.npz",
            "flat.npz",
            "fewer.npz",
            "halves.npz",
            "one.npz",
            "lacking.npz",
            "strange.npz",
            "empty",
            "nowhere",
            "good.zarr",
            "medmnist:nomnist",
            "medmnist:pneumoniamnist@30",
            "medmnist:organmnist3d",
            "none.csv",
            "nofile.csv",
            "gone.csv",
            "twice.csv",
            "norows.csv",
            "ragged.csv",
            "badsplit.csv",
            "latin.csv",
            "onlya.csv",
        )
    ],
    ("cache-teacher", "bits.csv", "new.zarr", "--teacher", "tiny", "--label-columns", "x,y"),
    ("cache-teacher", "bits.csv", "new.zarr", "--teacher", "tiny", "--label-columns", "x,z"),
    ("cache-teacher", "bits.csv", "new.zarr", "--teacher", "tiny", "--label-columns", "x,x"),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "tiny", "--split-column", "x"),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "tiny", "--window", "40,400"),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "tiny", "--exclude-class", "9"),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "tiny", "--image-size", 29),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "tiny", "--image-size", 28, "--folds", 1),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "tiny", "--image-size", 28, "--views", 3),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "tiny", "--revision", "main"),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "tiny", "--device", "cuda:77"),
    ("cache-teacher", "good.npz", "new", "--teacher", "tiny", "--image-size", 28),
    ("cache-teacher", "good.npz", "good.zarr", "--teacher", "tiny", "--image-size", 42),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "empty"),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "weights"),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "pickle"),
    ("cache-teacher", "good.npz", "new.zarr", "--teacher", "./nowhere"),
]


def where(error):
    """The message of the code that an error was raised with; None where a function of its own had put it together."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        for one in FOUND:
            if frame.filename.endswith(one.module) and one.first <= frame.lineno <= one.last:
                return one
    return None


@pytest.mark.parametrize("words", WRONG, ids=lambda words: " ".join(map(str, words)))
def test_what_is_wrong_is_said_as_it_is_on_record(words, medal, place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(MedalError) as caught:
        medal(*words)
    said = str(caught.value)
    one = where(caught.value)
    # The text as it stands in the code, with anything where something is filled in.
    if one is not None:
        fixed = [part for part in re.split(r"\{[^{}]*\}", one.sentence) if len(part) > 3 and not set(part) & set("{}")]
        assert all(part.strip() in " ".join(said.split()) for part in fixed), (one, said)
    # What the user named is quoted, and the sentence is no fragment.
    assert re.search(r"'[^']+'|--[a-z]", said), said
    assert len(said.split()) >= 6, said
    assert "Traceback" not in said
    assert not (place / "new.zarr").exists()
