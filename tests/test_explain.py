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
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from medal.cache.errors import DataError, StudentError
from medal.pipeline.views.transforms import normalise
from medal.student.using.explaining import explain, heat_layer
from medal.student.using.trained import open_run

pytest.importorskip("captum")
SIDE = 64


def draw_lesions(count, seed):
    """Noise with a lesion anywhere in every second image: stripes of its own mean and deviation, so that no map of
    brightness, of contrast or of the middle of the image finds it."""
    random = np.random.default_rng(seed)
    images = random.normal(128, 40, (count, SIDE, SIDE))
    masks = np.zeros((count, SIDE, SIDE), bool)
    for row in range(1, count, 2):
        x, y = random.integers(0, SIDE - 16, 2)
        masks[row, y : y + 16, x : x + 16] = True
        stripes = 128 + 40 * np.sign(np.sin((np.arange(16) + random.integers(4)) * np.pi / 2 + 0.5))
        images[row, y : y + 16, x : x + 16] = stripes if row % 4 == 1 else stripes[:, None]
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
    for step in range(39):
        rows = torch.arange(32) + 32 * (step % 13)
        loss = torch.nn.functional.cross_entropy(model(given[rows]), label[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    fresh, truth, _ = draw_lesions(100, 3)
    answers = model(normalise(fresh, run.preprocessing.mean, run.preprocessing.std)).argmax(1)
    assert (answers == truth).float().mean() > 0.95  # else heat has nothing to follow
    return replace(run, model=model, classes=("noise", "lesion"))


@pytest.fixture(scope="module")
def lesions():
    """20 images with a lesion, and where it is."""
    pixels, _, masks = draw_lesions(40, 2)
    return pixels[1::2], masks[1::2]


def heats(run, pixels):
    return np.array([explain(run, image, "lesion").heat for image in pixels])


@pytest.fixture(scope="module")
def trained(sees, lesions):
    return heats(sees, lesions[0])


def in_lesion(maps, masks):
    """How many times as much of a map lies in the lesion as its area has, mean over images; of nothing, 1."""
    shares = [one[mask].sum() / one.sum() if one.any() else mask.mean() for one, mask in zip(maps, masks, strict=True)]
    return float(np.mean(shares) / masks.mean())


def likeness(maps, others):
    """Rank correlation of maps, mean over images; that of a map without any heat is 0."""
    pairs = zip(maps, others, strict=True)
    return float(np.mean([spearmanr(one.ravel(), two.ravel()).statistic if two.any() else 0 for one, two in pairs]))


def test_heat_follows_the_lesion(lesions, trained):
    pixels, masks = lesions
    grey = pixels[:, 0].numpy()
    away = (np.arange(SIDE) - SIDE / 2) ** 2
    middle = np.broadcast_to(np.exp(-(away[:, None] + away) / SIDE), grey.shape)
    brightness = gaussian_filter(grey, (0, 4, 4))
    contrast = gaussian_filter((grey - 128) ** 2, (0, 4, 4))
    # An image's middle is in a lesion more often than its edges are.
    assert in_lesion(trained, masks) > 2 * max(in_lesion(one, masks) for one in (middle, brightness, contrast))
    assert in_lesion(trained, masks) > 5


def test_randomised_students_lose_it(sees, lesions, trained):
    """Adebayo et al. 2018: weights are drawn anew from the head down, and each time the maps are others."""
    pixels, masks = lesions
    alike, followed = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        model = copy.deepcopy(sees.model)
        for part in (model.fc, model.layer4, model.layer3, model.layer2, model):
            for module in part.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            maps = heats(replace(sees, model=model.eval()), pixels)
            alike.append(likeness(trained, maps))
            followed.append(in_lesion(maps, masks))
    stages = np.array(alike).reshape(3, 5).mean(0), np.array(followed).reshape(3, 5).mean(0)
    # As a control, the same student with all its weights a little moved: the measures can be high.
    moved = copy.deepcopy(sees.model)
    for weight in moved.parameters():
        weight.add_(torch.randn_like(weight) * 0.02 * weight.abs().mean())
    maps = heats(replace(sees, model=moved), pixels)
    assert likeness(trained, maps) > 0.8
    assert in_lesion(maps, masks) > 5
    assert (np.abs(stages[0]) < 0.5).all()
    assert (stages[1] < 3).all()
    assert abs(stages[0][-1]) < 0.2
    assert stages[1][-1] < 1.5


def test_the_layer_is_the_last_that_is_not_too_coarse():
    model = timm.create_model("resnet18", num_classes=2).eval()
    for side, expected in ((224, model.layer4), (112, model.layer3), (64, model.layer2)):
        layer = heat_layer(model, torch.zeros(1, 3, side, side))
        assert any(layer is inner for inner in expected.modules())
    with pytest.raises(StudentError, match="no feature maps to make a heat map from"):
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
