"""Heat maps: they follow what a class was drawn by, and random weights have others (Adebayo et al. 2018)."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import student_squares
import timm
import torch
from PIL import Image
from scipy.stats import spearmanr

from medal.cache.errors import DataError, StudentError
from medal.pipeline.views.transforms import normalise
from medal.student.using.explaining import explain, heat_layer
from medal.student.using.trained import open_run

pytest.importorskip("captum")
SIDE = 64


def draw_lesions(count, seed):
    """Noise with a lesion in every second image: stripes, which no random filter is drawn to more than to noise."""
    random = np.random.default_rng(seed)
    images = random.normal(128, 40, (count, SIDE, SIDE))
    masks = np.zeros((count, SIDE, SIDE), bool)
    for row in range(1, count, 2):
        x, y = random.integers(4, SIDE - 20, 2)
        masks[row, y : y + 16, x : x + 16] = True
        images[row, y : y + 16, x : x + 16] = 128 + 56 * np.sign(np.sin(np.arange(16) * np.pi / 2 + 0.5))
    pixels = np.repeat(images[:, None], 3, 1).clip(0, 255).astype(np.float32)
    return torch.from_numpy(pixels), torch.from_numpy(np.arange(count) % 2), masks


@pytest.fixture(scope="module")
def sees(squares):
    """A student that was trained, in seconds, to tell lesions from noise; it stands in the place of a run's."""
    run = open_run(squares / "run", "cpu")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    pixels, label, _ = draw_lesions(416, 1)
    given = normalise(pixels, run.preprocessing.mean, run.preprocessing.std)
    for step in range(26):
        rows = torch.arange(32) + 32 * (step % 13)
        loss = torch.nn.functional.cross_entropy(model(given[rows]), label[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    return replace(run, model=model, classes=("noise", "lesion"))


@pytest.fixture(scope="module")
def heats(sees):
    """The heat of 20 images with a lesion, and where it is."""
    pixels, _, masks = draw_lesions(40, 2)
    rows = range(1, 40, 2)
    return pixels[1::2], masks[1::2], np.array([explain(sees, pixels[row], "lesion").heat for row in rows])


def test_heat_follows_the_lesion(heats):
    _, masks, found = heats
    inside = [heat[mask].mean() for heat, mask in zip(found, masks, strict=True)]
    outside = [heat[~mask].mean() for heat, mask in zip(found, masks, strict=True)]
    pointed = [mask.ravel()[heat.argmax()] for heat, mask in zip(found, masks, strict=True)]
    assert np.mean(inside) > 3 * np.mean(outside)
    assert np.mean(pointed) > 0.7


def test_a_student_of_random_weights_loses_it(sees, heats):
    pixels, masks, found = heats
    inside, outside, alike = [], [], []
    for seed in range(3):
        torch.manual_seed(seed)
        blank = copy.deepcopy(sees.model)
        for module in blank.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        random = replace(sees, model=blank.eval())
        for image, mask, trained in zip(pixels, masks, found, strict=True):
            heat = explain(random, image, "lesion").heat
            inside.append(heat[mask].mean())
            outside.append(heat[~mask].mean())
            alike.append(spearmanr(heat.ravel(), trained.ravel()).statistic if heat.any() else 0)
    assert np.mean(inside) < 1.5 * np.mean(outside)
    assert abs(np.mean(alike)) < 0.3


def test_the_layer_is_the_last_that_is_not_too_coarse():
    model = timm.create_model("resnet18", num_classes=2).eval()
    for side, expected in ((224, model.layer4), (112, model.layer3), (64, model.layer2)):
        layer = heat_layer(model, torch.zeros(1, 3, side, side))
        assert any(layer is inner for inner in expected.modules())
    with pytest.raises(StudentError, match="no maps that a heat map could be made of"):
        heat_layer(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2))


def test_the_command_writes_pictures_and_a_page(squares, medal, terminal, tmp_path):
    (tmp_path / "new").mkdir()
    student_squares.lay_out_pictures(squares / "run", tmp_path / "new")
    images = sorted((tmp_path / "new/test").iterdir())[:2]
    found = medal("explain", squares / "run", *images, "--out", tmp_path / "heat")
    said = medal("predict", squares / "run", *images)["predictions"]
    for one, answer in zip(found["pictures"], said, strict=True):
        assert (one["file"], one["class"]) == (answer["file"], answer["prediction"])
        assert one["probability"] == pytest.approx(answer["probability"][one["class"]])
        with Image.open(tmp_path / "heat" / one["picture"]) as picture:
            assert picture.size == (448, 224)
    page = (tmp_path / "heat/index.html").read_text()
    assert "What a heat map does not show" in page
    assert len(re.findall("data:image/png;base64", page)) == 2
    other = medal("explain", squares / "run", images[0], "--out", tmp_path / "two", "--class", "2")
    assert other["pictures"][0]["class"] == "2"
    with pytest.raises(StudentError, match=r"'.*heat' is there already"):
        medal("explain", squares / "run", images[0], "--out", tmp_path / "heat")
    with pytest.raises(DataError, match="There is no class 'mass'; expected one of 0, 1, 2"):
        medal("explain", squares / "run", images[0], "--out", tmp_path / "three", "--class", "mass")
    (tmp_path / "broken.png").write_bytes(images[0].read_bytes()[:50])
    done = terminal("explain", squares / "run", tmp_path / "broken.png", images[1], "--out", tmp_path / "four")
    assert done.returncode == 1
    assert "1 of 2 images cannot be used" in done.stderr
    assert "Wrote 1 picture and" in done.stdout
