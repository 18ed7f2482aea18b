"""The layouts of ../shared that are about pixels: views are the source images, as its README says."""

import runpy

import numpy as np
import pytest

from medal.pipeline.datasets.columns.dataset import DatasetOptions
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.datasets.pixels.contrast import flat_rows, settle_intensity

WINDOW = (-500.0, 1000.0)


@pytest.fixture(scope="module")
def layouts(shared, tmp_path_factory):
    """Return the sources by class and number, and a function that writes a case."""
    if not (shared / "layouts/make_layouts.py").is_file():
        pytest.skip("the script that makes the layouts is not at hand")
    script = runpy.run_path(str(shared / "layouts/make_layouts.py"))
    scans = script["read_scans"](shared / "data/busi_256")
    place = tmp_path_factory.mktemp("layouts")

    def make(name):
        if not (place / name).exists():
            (place / name).mkdir()
            script["CASES"][name](place / name, scans)
        return place / name

    return {(scan.name, scan.index): scan.image for scan in scans}, make


def settled(path, **options):
    asked = DatasetOptions(**options)
    dataset = open_dataset(str(path), asked)
    return settle_intensity(dataset, np.arange(len(dataset)), asked)


def named(place):
    """Return class and number of a source from where its image lies."""
    parts = place.file.split("/")
    stem = parts[-1].split(".")
    return parts[0], int(stem[4] if stem[-1] == "IMA" else stem[0])


def as_windowed(source):
    return np.clip(1.021 * np.asarray(source, float), 0, 255)


CASES = {
    "png16_12bit": ({}, np.asarray),
    "uint32_tiff": ({}, np.asarray),
    "ct_no_window": ({"window": WINDOW}, as_windowed),
    "siemens_ima": ({}, as_windowed),
    "no_preamble": ({}, as_windowed),
    "vr_declared_explicit_is_implicit": ({}, as_windowed),
}


@pytest.mark.parametrize("name", CASES)
def test_files_show_the_source(layouts, name):
    sources, make = layouts
    options, reference = CASES[name]
    dataset, _ = settled(make(name) / "set", **options)
    assert np.bincount(dataset.label).tolist() == [20, 20, 20]
    for row in range(len(dataset)):
        view = dataset.images.read(row)[:, :, 0]
        np.testing.assert_allclose(view, reference(sources[named(dataset.images.locate(row))]), atol=1)


def test_ct_that_says_nothing_shows_its_contrast_with_a_word(layouts):
    dataset, found = settled(layouts[1]("ct_no_window") / "set")
    assert "declare no window" in found.note
    spans = [np.ptp(np.quantile(dataset.images.read(row), (0.01, 0.99))) for row in range(len(dataset))]
    assert min(spans) >= 100


def test_deep_png_stretched_is_black_to_white(layouts):
    dataset, found = settled(layouts[1]("png16_12bit") / "set", intensity="minmax")
    assert found.intensity == "minmax"
    assert all((dataset.images.read(row).min(), dataset.images.read(row).max()) == (0, 255) for row in range(60))
    # As the files declare it, nothing is to be seen, and a look at the views finds that.
    dataset, _ = settled(layouts[1]("png16_12bit") / "set", intensity="declared")
    assert len(flat_rows(dataset.images, np.arange(60))[0]) == 60


@pytest.mark.parametrize("name", ["npz_float_overshoot", "npz_channels_first", "npz_onehot"])
def test_arrays_show_the_source_with_one_label_each(layouts, name):
    sources, make = layouts
    dataset, _ = settled(make(name) / "scans.npz")
    assert (dataset.task, np.bincount(dataset.split).tolist()) == ("multiclass", [42, 9, 9])
    for split in range(3):
        counts = np.bincount(dataset.label[dataset.split == split])
        assert counts.tolist() == [(14, 3, 3)[split]] * 3
    overshoots = name == "npz_float_overshoot"
    for row, source in enumerate(image for place, image in sources.items() if place[1] < 14):
        view, expected = dataset.images.read(row), np.asarray(source.resize((56, 56)), float)
        if overshoots and row == 0:
            expected[0, 0] = 255
        np.testing.assert_allclose(view, np.broadcast_to(expected[:, :, None], view.shape), atol=1)


def test_pages_of_a_tiff_are_images_of_their_own(layouts):
    sources, make = layouts
    dataset, _ = settled(make("tiff_frame") / "labels.csv")
    assert len(dataset) == len(np.unique(dataset.keys(), axis=0)) == 60
    assert np.bincount(dataset.label).tolist() == [20, 20, 20]
    assert dataset.split is None
    for row in range(60):
        file, frame, _, _ = dataset.images.locate(row)
        np.testing.assert_array_equal(dataset.images.read(row)[:, :, 0], sources[file[:-4], frame - 1])
