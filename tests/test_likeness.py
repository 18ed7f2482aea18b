"""An image that is unlike train is said to be: by the student's embedding, with a threshold from val."""

import csv

import numpy as np
import pytest
import student_squares
import timm
import torch
from PIL import Image
from scipy.spatial.distance import mahalanobis

from medal.student.network.likeness import embedding_of, fit_likeness, read_likeness, take_embeddings
from medal.student.using.trained import open_run


def draw(count, width=6, shift=0.0, seed=0):
    """Embeddings of two classes, spread unevenly."""
    random = np.random.default_rng(seed)
    label = np.arange(count) % 2
    return (random.normal(size=(count, width)) * np.arange(1, width + 1) + 9 * label[:, None] + shift), label


def test_distances_are_mahalanobis_to_the_nearest_class():
    train, label = draw(20_000)
    val, _ = draw(500, seed=1)
    found = fit_likeness(train.astype(np.float32), label, val.astype(np.float32))
    means = [train[label == one].mean(0) for one in (0, 1)]
    inverse = np.linalg.inv(np.cov((train - np.array(means)[label]).T))
    expected = [min(mahalanobis(row, mean, inverse) for mean in means) for row in val[:40]]
    np.testing.assert_allclose(found.distances(val[:40].astype(np.float32)) * found.threshold, expected, rtol=0.02)


def test_one_in_a_hundred_of_val_is_beyond_and_nearly_all_that_is_far():
    train, label = draw(2000, width=100)
    val, _ = draw(1000, width=100, seed=1)
    found = fit_likeness(train.astype(np.float32), label, val.astype(np.float32))
    assert (found.distances(val.astype(np.float32)) > 1).mean() == pytest.approx(0.01, abs=0.002)
    far, _ = draw(200, width=100, shift=40, seed=2)
    assert (found.distances(far.astype(np.float32)) > 1).mean() > 0.95


@pytest.mark.parametrize("label", [np.full(60, -1), np.ones((60, 3), np.uint8), np.arange(60) % 3 - 1])
def test_labels_that_are_unknown_or_several_leave_one_mean(label):
    train, _ = draw(60)
    found = fit_likeness(train.astype(np.float32), label, train.astype(np.float32))
    assert len(found.means) == (2 if label.ndim == 1 and label.max() > 0 else 1)
    assert np.isfinite(found.distances(train.astype(np.float32))).all()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_the_embedding_is_what_the_classifier_reads(name):
    model = timm.create_model(name, num_classes=3).eval()
    pixels = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), embedding_of(model) as heard:
        model(pixels)
        expected = model.forward_head(model.forward_features(pixels), pre_logits=True).numpy()
    np.testing.assert_allclose(take_embeddings(heard), expected, atol=1e-6)
    assert take_embeddings(heard).size == 0


def test_predict_says_how_unlike_train_an_image_is(squares, medal, terminal, tmp_path):
    (tmp_path / "known").mkdir()
    student_squares.lay_out_pictures(squares / "run", tmp_path / "known")
    strange = tmp_path / "strange.png"
    stripes = np.zeros((16, 16), np.uint8)
    stripes[::2] = 255
    Image.fromarray(stripes).save(strange)
    found = medal("predict", squares / "run", tmp_path / "known/val", strange, "--out", tmp_path / "preds.csv")
    rows = {row["file"]: row for row in found["predictions"]}
    assert rows[str(strange)]["unlike"]
    assert rows[str(strange)]["distance"] > max(one["distance"] for name, one in rows.items() if name != str(strange))
    # Of 24 images of val, one is beyond the quantile between the greatest two.
    assert sum(row["unlike"] for row in rows.values()) == 2
    with (tmp_path / "preds.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["unlike"] for row in table] == ["yes" if one["unlike"] else "" for one in found["predictions"]]
    shown = terminal("predict", squares / "run", strange)
    assert shown.stdout.splitlines()[0].split()[-1] == "distance"
    assert shown.stdout.splitlines()[1].endswith(" !")
    assert "1 of 1 image is unlike those of train" in shown.stderr


def test_a_run_of_an_older_medal_says_nothing_of_it(squares, medal, tmp_path):
    import shutil

    shutil.copytree(squares / "run", tmp_path / "run")
    assert read_likeness(tmp_path / "run/likeness.safetensors").means.shape[0] == 3
    (tmp_path / "run/likeness.safetensors").unlink()
    assert open_run(tmp_path / "run", "cpu").likeness is None
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "one.png")
    (row,) = medal("predict", tmp_path / "run", tmp_path / "one.png")["predictions"]
    assert "distance" not in row
