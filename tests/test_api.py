"""The Python API reads like the command line, and soft targets serve a training loop that is not medal's."""

from html import escape

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import medal as library
from medal.cache.errors import CacheMismatch, DataError
from medal.pipeline.views.transforms import normalise, resize_images
from medal.student.network.model import build_model, describe_model
from medal.student.training.drawing import epoch_order, learning_rate, split_batches
from medal.student.training.losses import Answers, Objective, total_loss

SIDE, BATCH, SEED = 56, 32, 3
RUN = {
    "student": "test_resnet",
    "epochs": 1,
    "image_size": SIDE,
    "batch_size": BATCH,
    "seed": SEED,
    "precision": "fp32",
    "augment": "none",
    "device": "cpu",
    "workers": 0,
}


@pytest.fixture(scope="module")
def train(small_npz):
    with np.load(small_npz) as data:
        return data["train_images"], data["train_labels"].reshape(-1).astype(np.int64)


@pytest.fixture(scope="module")
def trained(small_cache, small_npz, tmp_path_factory):
    return library.train_student(small_cache, small_npz, tmp_path_factory.mktemp("runs") / "run", **RUN)


def test_stage_one_reuses_what_the_command_made(small_cache, small_npz, teacher):
    made = library.cache_teacher(small_npz, small_cache, teacher=str(teacher), image_size=56, batch_size=16)
    assert made.action == "reuse"
    assert made.cache.content_digest == library.open_cache(small_cache).content_digest


def test_stage_one_makes_a_cache(small_cache, small_npz, teacher, tmp_path):
    told = []
    made = library.cache_teacher(
        small_npz,
        tmp_path / "own.h5",
        sources=[small_cache],
        teacher=str(teacher),
        image_size=56,
        folds=3,
        tell=told.append,
    )
    assert (made.action, made.computed) == ("extend", 0)
    assert made.cache.manifest.size.probes == 4


def test_a_setting_that_is_none_is_refused(small_npz):
    with pytest.raises(TypeError, match="image_sise"):
        library.cache_teacher(small_npz, image_sise=56)


def test_stage_two_gives_a_student(trained):
    assert 0 <= trained.test["accuracy"] <= 1
    assert trained.teacher["test"]["auroc"] > 0.5
    model = trained.load()
    assert model(torch.zeros(1, 3, SIDE, SIDE)).shape == (1, 2)


def test_a_run_shows_itself(trained):
    assert repr(trained).startswith(f"<Trained '{trained.run}': ")
    assert "Whether distilling helped is not known" in repr(trained)
    page = trained._repr_html_()
    assert "student" in page
    assert escape(trained.result["verdict"]) in page


def test_a_cache_shows_itself(small_cache):
    cache = library.open_cache(small_cache)
    assert repr(cache).startswith("<Cache '")
    assert "train 180" in repr(cache)
    page = cache._repr_html_()
    assert cache.content_digest in page
    assert page.count("<tr>") >= 8


def test_plain_pytorch_loop_has_the_same_first_epoch_loss_as_train_student(small_cache, train, trained):
    images, labels = train
    pixels = resize_images([image[..., None] for image in images], SIDE, "squash")
    spec = describe_model("test_resnet", "random")
    own = TensorDataset(normalise(pixels, spec.mean, spec.std), torch.from_numpy(labels))

    pairs = library.SoftTargets(small_cache, "train", own, arrays=images)
    assert repr(pairs) == f"<SoftTargets from 'train' of cache '{small_cache}': 180 of 180 items, 2 classes>"

    order = split_batches(_by_key(pairs.key, epoch_order, SEED), BATCH)
    torch.manual_seed(SEED)
    model = build_model(spec, "random", 2, SIDE).train()
    decayed = [one for one in model.parameters() if one.ndim > 1]
    others = [one for one in model.parameters() if one.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1e-3)
    objective = Objective("multiclass", temperature=2.0, alpha=0.5)
    total = 0.0
    for step, (x, label, teacher) in enumerate(DataLoader(pairs, batch_sampler=[rows.tolist() for rows in order])):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, len(order), len(order) // 2, 1e-3)
        loss = total_loss(Answers(model(x), label, teacher), objective)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += float(loss.detach()) * len(x)
    with (trained.run / "history.csv").open() as file:
        names, values = (line.strip().split(",") for line in file)
    theirs = float(dict(zip(names, values, strict=True))["train_loss"])
    # Another layout in memory and an optimiser that is not fused sum in another order.
    assert total / len(pairs) == pytest.approx(theirs, rel=1e-3)


def _by_key(key, order, seed):
    """Positions in the order of an epoch: medal's is of rows sorted by key."""
    by_key = np.array(sorted(range(len(key)), key=lambda row: key[row].tobytes()))
    return by_key[order(key[by_key], seed, 0)]


def test_soft_targets_follow_the_images_in_any_order(small_cache, train):
    images, labels = train
    own = TensorDataset(torch.from_numpy(labels))
    one = library.SoftTargets(small_cache, "train", own, arrays=images)
    turned = library.SoftTargets(small_cache, "train", own, arrays=images[::-1])
    assert torch.equal(one.logits, turned.logits.flip(0))
    label, logits = one[5]
    assert int(label) == labels[5]
    assert torch.equal(logits, one.logits[5])


def test_soft_targets_by_files(medal, small_request, tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for split, count in (("train", 6), ("val", 3)):
        for name in ("ill", "well"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for row in range(count):
                files.append(tmp_path / "set" / split / name / f"{row}.png")
                Image.fromarray(random.integers(0, 255, (28, 28), np.uint8)).save(files[-1])
    medal("cache-teacher", tmp_path / "set", tmp_path / "a.zarr", *small_request)
    kept = files[:12]
    pairs = library.SoftTargets(tmp_path / "a.zarr", "train", kept, files=kept)
    assert len(pairs) == 12
    path, logits = pairs[3]
    assert path == kept[3]
    assert logits.shape == (2,)
    with pytest.raises(CacheMismatch, match="6 of 18 images"):
        library.SoftTargets(tmp_path / "a.zarr", "train", files, files=files)
    some = library.SoftTargets(tmp_path / "a.zarr", "train", files, files=files, on_missing="drop")
    assert some.rows.tolist() == list(range(12))


def test_soft_targets_refuse_what_cannot_be_paired(small_cache, train):
    images, labels = train
    with pytest.raises(DataError, match="exactly one"):
        library.SoftTargets(small_cache, "train", labels)
    with pytest.raises(DataError, match="one for each item"):
        library.SoftTargets(small_cache, "train", labels, arrays=images[:10])
    with pytest.raises(CacheMismatch, match="no split 'holdout'"):
        library.SoftTargets(small_cache, "holdout", labels, arrays=images)
    with pytest.raises(CacheMismatch, match="180 of 180"):
        library.SoftTargets(small_cache, "train", labels, arrays=255 - images, on_missing="drop")
