"""NIfTI volumes: their slices are images, whatever way the file lies, and what is no such volume is refused."""

import gzip
import logging

import click
import drawn
import nibabel
import numpy as np
import pytest

from medal.cache.errors import DataError
from medal.cache.reader import open_cache
from medal.pipeline.datasets import DatasetOptions, draw_splits
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.datasets.options import dataset_options, take_dataset_options
from medal.pipeline.datasets.pixels.contrast import settle_intensity
from medal.pipeline.datasets.pixels.nifti.slices import choose_slices

SHAPE = (6, 8, 10)  # to the right, to the front, up
MM = np.diag([1.0, 1.0, 1.0, 1.0])


def body(start=0, dtype=np.int16):
    """A volume in RAS of which every voxel has a value of its own."""
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) + start).astype(dtype)


def save(path, values, affine=MM, slope=None, **header):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_slope_inter(*(slope or (None, None)))
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def lying(values, orientation, affine=MM):
    """The same body as another scanner writes it: its array and affine."""
    codes = nibabel.orientations.axcodes2ornt(orientation)
    image = nibabel.Nifti1Image(values, affine).as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), codes)
    )
    return np.asarray(image.dataobj), image.affine


@pytest.fixture
def wards(tmp_path):
    """Two classes of two volumes, a segmentation beside one and one that says that it is labels."""
    for number, name in enumerate(("a/1.nii.gz", "a/2.nii", "b/1_t1.nii.gz", "b/2.nii.gz")):
        save(tmp_path / name, body(1000 * number))
    save(tmp_path / "a/1_seg.nii.gz", body())
    save(tmp_path / "b/1_seg.nii.gz", body())
    save(tmp_path / "b/3.nii.gz", body(), intent_code=1002)
    return tmp_path


def read(folder, **options):
    return open_dataset(folder, DatasetOptions(intensity="0,10000", **options))


def grey(values):
    return np.clip(values.astype(np.float64) * 255 / 10000, 0, 255).astype(np.float32)


def test_every_slice_is_a_row_and_the_file_its_group(wards):
    found = read(wards)
    assert len(found) == 4 * 10
    assert found.images.describe(9) == "file 'a/1.nii.gz', frame 10"
    assert found.label.tolist() == [0] * 20 + [1] * 20
    assert [len(set(found.group[start : start + 10].tolist())) for start in range(0, 40, 10)] == [1] * 4
    assert len(set(found.group.tolist())) == 4
    assert found.account.used + sum(map(len, found.account.left.values())) == found.account.found == 7
    assert found.account.left["masks"] == ("a/1_seg.nii.gz", "b/1_seg.nii.gz")
    assert found.account.left["segmentations"] == ("b/3.nii.gz",)
    assert any("4 NIfTI volumes are cut into 40 axial slices" in note for note in found.notes)
    split = draw_splits(found, found.keys(), 3)
    assert all(len(set(split[start : start + 10].tolist())) == 1 for start in range(0, 40, 10))


@pytest.mark.parametrize(
    ("axis", "count", "seen"),
    [
        ("axial", 10, lambda ras, k: ras[::-1, ::-1, k].T),  # front above, the patient's right on the left
        ("coronal", 8, lambda ras, k: ras[::-1, k, ::-1].T),  # head above, right on the left
        ("sagittal", 6, lambda ras, k: ras[k, ::-1, ::-1].T),  # head above, front on the left
    ],
)
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "ASL"])
def test_a_slice_is_the_same_whatever_way_the_file_lies(tmp_path, axis, count, seen, orientation):
    values, affine = lying(body(), orientation)
    save(tmp_path / "a/1.nii.gz", values, affine)
    save(tmp_path / "b/1.nii", body(7))
    found = read(tmp_path, slice_axis=axis)
    assert len(found) == 2 * count
    for row in range(count):
        np.testing.assert_array_equal(found.images.read(row)[:, :, 0], grey(seen(body(), row)))
        np.testing.assert_array_equal(found.images.read(count + row)[:, :, 0], grey(seen(body(7), row)))


def test_a_key_is_of_the_content_the_axis_and_the_number(tmp_path):
    save(tmp_path / "a/1.nii", body())
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1.nii.gz").write_bytes(gzip.compress((tmp_path / "a/1.nii").read_bytes(), mtime=5))
    keys = {axis: read(tmp_path, slice_axis=axis).keys() for axis in ("axial", "coronal", "sagittal")}
    np.testing.assert_array_equal(keys["axial"][:10], keys["axial"][10:])  # the same volume, packed
    assert len(np.unique(np.concatenate(list(keys.values())), axis=0)) == 10 + 8 + 6
    middle = read(tmp_path, middle_slices=3).keys()
    np.testing.assert_array_equal(middle[:3], keys["axial"][3:6])


def test_slices_are_chosen_about_the_middle():
    def chosen(count, **options):
        return choose_slices(count, DatasetOptions(**options))

    assert chosen(5) == [1, 2, 3, 4, 5]
    assert chosen(10, slice_step=3) == [1, 4, 7, 10]
    assert chosen(9, slice_step=4) == [1, 5, 9]
    assert chosen(8, slice_step=4) == [2, 6]
    assert chosen(9, middle_slices=1) == [5]
    assert chosen(9, middle_slices=3, slice_step=2) == [3, 5, 7]
    assert chosen(3, middle_slices=50) == [1, 2, 3]
    for count in range(1, 40):
        for step in range(1, 9):
            numbers = chosen(count, slice_step=step)
            assert abs((numbers[0] - 1) - (count - numbers[-1])) <= 1
            assert set(np.diff(numbers).tolist()) <= {step}


def test_values_are_those_after_slope_and_intercept(tmp_path):
    hounsfield = np.full(SHAPE, 1024, np.int16)
    hounsfield[3:] = 1064
    for name in "ab":
        save(tmp_path / f"{name}/1.nii.gz", hounsfield, slope=(1, -1024))
    found = open_dataset(tmp_path, DatasetOptions(window=(40, 400)))
    np.testing.assert_allclose(np.unique(found.images.read(0)), [160 * 255 / 399, 200 * 255 / 399], rtol=1e-6)
    np.testing.assert_array_equal(np.unique(found.images.deep(0).values), [0, 40])


def test_eight_bits_are_as_they_are(tmp_path):
    values = (body() % 256).astype(np.uint8)
    for name in "ab":
        save(tmp_path / f"{name}/1.nii", values)
    found = open_dataset(tmp_path)
    assert found.images.deep(0) is None
    np.testing.assert_array_equal(found.images.read(4)[:, :, 0], values[::-1, ::-1, 4].T)
    assert found.images.read(4).dtype == np.uint8


def test_magnetic_resonance_is_shown_by_percentiles(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        save(tmp_path / f"{name}/1.nii.gz", rng.gamma(2, 900, SHAPE).astype(np.float32))
    dataset, found = settle_intensity(open_dataset(tmp_path), np.arange(20), DatasetOptions())
    low, high = map(float, found.intensity.split(","))
    assert 0 <= low < 300
    assert 4000 < high < 10000
    assert "declare no window" in found.note
    assert np.ptp(dataset.images.read(0)) > 100


def test_what_is_no_volume_of_greys_is_refused_and_named(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}/1.nii.gz", body())
    save(tmp_path / "a/run.nii.gz", np.zeros((4, 4, 4, 7), np.int16))
    save(tmp_path / "a/phase.nii", np.zeros((4, 4, 4), np.complex64))
    whole = (tmp_path / "b/1.nii.gz").read_bytes()
    (tmp_path / "b/cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b/text.nii").write_text("not a volume")
    found = open_dataset(tmp_path)
    with pytest.raises(DataError, match="4 of 24 images") as error:
        found.keys()
    for said in (
        "file 'a/run.nii.gz' is a NIfTI volume of 4 × 4 × 4 × 7; expected three dimensions",
        "file 'a/phase.nii' is a NIfTI volume of colours, complex numbers or bits",
        "file 'b/cut.nii.gz' is no NIfTI volume that can be read",
        "file 'b/text.nii' is no NIfTI volume that can be read",
    ):
        assert said in str(error.value)


def test_a_volume_that_ends_too_early_and_one_that_is_not_finite(tmp_path):
    values = body().astype(np.float32)
    values[0, 0, 5] = np.nan
    save(tmp_path / "a/1.nii", values)
    path = save(tmp_path / "b/1.nii", body())
    path.write_bytes(path.read_bytes()[:-100])
    found = read(tmp_path)
    found.images.read(4)
    with pytest.raises(DataError, match=r"'a/1.nii', frame 6 has pixels that are not finite"):
        found.images.read(5)
    with pytest.raises(DataError, match=r"'b/1.nii', frame 1 cannot be read as a NIfTI volume"):
        found.images.read(10)


def test_an_axis_of_one_behind_the_third_is_none(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}/1.nii.gz", body()[..., None])
    assert len(read(tmp_path)) == 20
    np.testing.assert_array_equal(read(tmp_path).images.read(0)[:, :, 0], grey(body()[::-1, ::-1, 0].T))


def test_an_orientation_that_is_missing_or_another_axis_is_said(tmp_path, caplog):
    save(tmp_path / "a/1.nii.gz", body(), affine=None)
    save(tmp_path / "b/1.nii.gz", body(), np.diag([4.0, 1.0, 1.0, 1.0]))
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert "1 NIfTI files say nothing of their orientation" in caplog.text
    assert "1 NIfTI files have their thickest slices across the sagittal axis" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        read(tmp_path, slice_axis="sagittal")
    assert "thickest" not in caplog.text


def test_a_table_names_slices_and_leaves_suffixes_out(tmp_path):
    for name in ("p1", "p2"):
        save(tmp_path / f"scans/{name}.nii.gz", body())
    table = tmp_path / "t.csv"
    table.write_text("file,frame,label\np1,3,x\np1,4,x\np2,,y\n")
    found = read(table, image_folders=(str(tmp_path / "scans"),), middle_slices=2)
    assert [found.images.locate(row).frame for row in range(len(found))] == [3, 4, 5, 6]
    assert found.group[0] == found.group[1] != found.group[2] == found.group[3]
    table.write_text("file,frame,label\np1,11,x\np2,1,y\n")
    with pytest.raises(DataError, match=r"asks for frame '11' of file .*, which has 10"):
        read(table, image_folders=(str(tmp_path / "scans"),))


def test_options_of_slices_that_go_unheard_are_said_or_refused(tmp_path):
    drawn.save_pictures(tmp_path, {"a": 4, "b": 4})
    assert any(
        "no NIfTI volume for --slice-step 2" in note
        for note in open_dataset(tmp_path, DatasetOptions(slice_step=2)).notes
    )
    with pytest.raises(DataError, match="--slice-axis would go unheard"):
        open_dataset("phantom", DatasetOptions(slice_axis="coronal"))
    path = save(tmp_path / "x.nii.gz", body())
    with pytest.raises(DataError, match="put volumes into a folder of CLASS/file"):
        open_dataset(str(path))


def test_the_command_line_takes_them():
    found = {}

    @click.command()
    @dataset_options
    def command(**chosen):
        found["options"] = take_dataset_options(chosen)

    command.main(["--slice-axis", "coronal", "--slice-step", "3", "--middle-slices", "20"], standalone_mode=False)
    options = found["options"]
    assert (options.slice_axis, options.slice_step, options.middle_slices) == ("coronal", 3, 20)


def test_both_stages_and_prediction_cut_alike(tmp_path, shell):
    """A cache records how volumes were cut; what comes after it is not told again."""
    rng = np.random.default_rng(1)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for kind, name in enumerate(("calm", "rough")):
            for number in range(count):
                values = rng.normal(1000, 30 + 500 * kind, (24, 24, 12)).clip(0).astype(np.int16)
                save(tmp_path / f"scans/{split}/{name}/{number}.nii.gz", values)
    drawn.draw_teacher(tmp_path / "teacher")
    cut = ("--slice-axis", "coronal", "--slice-step", 4, "--middle-slices", 3)
    commands = (
        ("cache-teacher", "scans", "cache.zarr", "--teacher", "teacher", "--image-size", 28, *cut),
        ("train-student", "cache.zarr", "scans", "--out", "run", "--epochs", 1, "--no-baseline", "--device", "cpu"),
        ("predict", "run", "scans/test", "--out", "said.csv", "--by", "group"),
    )
    for words in commands:
        done = shell(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    cache = open_cache(tmp_path / "cache.zarr")
    assert cache.manifest.dataset["reading"] == {"slice_axis": "coronal", "slice_step": 4, "middle_slices": 3}
    assert len(cache.read("train", "key")) == 16 * 3
    lines = (tmp_path / "said.csv").read_text().splitlines()
    assert len(lines) == 1 + 8
