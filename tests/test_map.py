"""The map of the embeddings on the page of an audit, and the images most like one."""

import re

import numpy as np
import pytest
from PIL import Image
from store_cases import quiet

from medal.cache.errors import DataError
from medal.cache.reader import open_cache
from medal.pipeline.audit.report import audit
from medal.pipeline.datasets.columns.dataset import DatasetOptions
from medal.pipeline.metrics.embedding import MOST, lay_out, right_or_wrong
from medal.pipeline.teacher.demo import tiny_teacher


def test_what_lies_together_in_the_features_does_so_on_the_map():
    random = np.random.default_rng(0)
    kind = np.arange(120) % 3
    feature = (random.normal(size=(120, 20)) + 12 * np.eye(3, 20)[kind]).astype(np.float16)
    rows, place = lay_out(feature)
    assert rows.tolist() == list(range(120))
    again = lay_out(feature)[1]
    assert place.tobytes() == again.tobytes()
    distance = np.linalg.norm(place[:, None] - place, axis=2) + 1e9 * np.eye(120)
    assert (kind[distance.argmin(1)] == kind).mean() > 0.98


def test_of_many_images_an_even_sample_is_shown(monkeypatch):
    from medal.pipeline.metrics import embedding as module

    monkeypatch.setattr(module, "MOST", 40)
    rows, place = lay_out(np.random.default_rng(0).normal(size=(100, 8)).astype(np.float16))
    assert rows.tolist() == list(range(0, 100, 3))
    assert len(place) == 34
    assert MOST == 3000


def test_answers_are_right_or_wrong():
    logits = np.array([[1.0, -1], [-1, 1], [1, 1], [1, 1]])
    assert right_or_wrong(logits, np.array([0, 0, -1, 0])) == ["right", "wrong", "unknown", "right"]
    labels = np.array([[1, 0], [1, 0], [255, 1], [0, 1]], np.uint8)
    assert right_or_wrong(logits, labels) == ["right", "several wrong", "right", "one wrong"]


@pytest.fixture(scope="module")
def pictures(medal, tmp_path_factory):
    """A folder of two classes, a picture and a brighter copy of it in another split, and its cache."""
    folder = tmp_path_factory.mktemp("map")
    random = np.random.default_rng(1)
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        for row in range(count):
            place = folder / "set" / split / ("dark", "light")[row % 2] / f"{row}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            picture = random.integers(0, 100, (32, 32)) + 120 * (row % 2)
            Image.fromarray(picture.astype(np.uint8)).save(place)
    with Image.open(folder / "set/train/dark/4.png") as picture:
        Image.fromarray(np.asarray(picture) + 9).save(folder / "set/test/dark/copy.png")
    words = ("--teacher", tiny_teacher(folder), "--image-size", 28, "--precision", "fp32", "--batch-size", 8)
    medal("cache-teacher", folder / "set", folder / "set.zarr", *words)
    return folder


def test_a_copy_is_the_nearest_neighbour(pictures, medal, terminal):
    found = medal("neighbours", pictures / "set.zarr", pictures / "set", "test/dark/copy.png", "--count", 3)
    assert found["image"]["label"] == "dark"
    assert len(found["neighbours"]) == 3
    assert found["neighbours"][0]["image"].endswith("train/dark/4.png")
    cosines = [one["cosine"] for one in found["neighbours"]]
    assert cosines == sorted(cosines, reverse=True)
    by_key = medal("neighbours", pictures / "set.zarr", pictures / "set", found["image"]["key"][:12], "--count", 3)
    assert by_key["neighbours"] == found["neighbours"]
    said = terminal("neighbours", pictures / "set.zarr", pictures / "set", "test/dark/copy.png").stdout
    assert "copy.png (test, dark) is most like:" in said
    assert said.count("\n") == 11


@pytest.mark.parametrize(
    ("image", "told"), [("nothing.png", "has none"), ("4.png", ("3 images of 'set' have this name"))]
)
def test_an_image_that_is_not_one_is_refused(pictures, medal, image, told):
    with pytest.raises(DataError, match=told):
        medal("neighbours", pictures / "set.zarr", pictures / "set", image)


def test_without_features_there_are_no_neighbours_and_no_map(pictures, medal, tmp_path):
    words = ("--from", pictures / "set.zarr", "--image-size", 28, "--precision", "fp32", "--batch-size", 8)
    teacher = tiny_teacher(pictures)
    medal("cache-teacher", pictures / "set", tmp_path / "lean.zarr", *words, "--teacher", teacher, "--no-features")
    with pytest.raises(DataError, match="has no features"):
        medal("neighbours", tmp_path / "lean.zarr", pictures / "set", "test/dark/copy.png")
    medal("audit", tmp_path / "lean.zarr", pictures / "set", "--html", tmp_path / "page.html")
    assert "A map of the images" not in (tmp_path / "page.html").read_text()


def test_the_page_has_a_map_in_every_colour(pictures, medal, tmp_path):
    medal("audit", pictures / "set.zarr", pictures / "set", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert re.findall(r"<figcaption>by ([^<]+)</figcaption>", page) == ["class", "split", "the teacher&#39;s answer"]
    assert len(re.findall("data:image/png;base64", page)) == 3
    cache = open_cache(pictures / "set.zarr")
    drawn = audit(cache, str(pictures / "set"), DatasetOptions(), quiet).draw_map()
    assert (drawn.shown, drawn.rows) == (25, 25)
    assert {name: count for name, _, count in drawn.panels[0].names} == {"dark": 13, "light": 12}
