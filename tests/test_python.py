"""`medal.predict`, `medal.evaluate` and settings from Python; soft targets beside dictionaries."""

import numpy as np
import pytest
import student_squares
import torch

import medal as library
from medal.cache.errors import DataError, MedalError, StudentError
from medal.pipeline.planning.request import CacheSettings
from medal.student.settings import StudentSettings


@pytest.fixture(scope="module")
def pictures(squares, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    student_squares.lay_out_pictures(squares / "run", folder)
    return folder


def test_predict_says_what_the_command_says(squares, pictures, medal):
    told = medal("predict", squares / "run", pictures / "test")
    found = library.predict(squares / "run", pictures / "test")
    assert found.to_dicts() == told["predictions"]
    assert found.temperature == told["temperature"]["value"]
    assert found.bad == ()
    one = library.predict(str(squares / "run"), [next((pictures / "test").iterdir())])
    assert len(one.places) == 1


def test_what_cannot_be_read_is_an_error_or_left_out(squares, pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    asked = [pictures / "val", tmp_path / "broken.png"]
    with pytest.raises(DataError, match=r"1 of 25 images cannot be used.*on_bad_image='skip'"):
        library.predict(squares / "run", asked)
    found = library.predict(squares / "run", asked, on_bad_image="skip")
    assert (len(found.places), len(found.bad)) == (24, 1)


def test_evaluate_measures_what_the_command_measures(squares, medal):
    told = medal("evaluate", squares / "run", squares / "squares.npz", "--split", "val")
    said = []
    found = library.evaluate(squares / "run", squares / "squares.npz", split="val", tell=said.append)
    assert found.result.items() <= told.items()
    assert (found.split, found.images) == ("val", 24)
    assert found.auroc == told["student"]["auroc"]
    assert found.accuracy == told["student"]["accuracy"]
    assert list(found.warnings) == said == told["warnings"]


def test_tables(squares, pictures):
    pandas = pytest.importorskip("pandas", reason="pandas is not needed otherwise")
    found = library.predict(squares / "run", pictures / "test")
    table = found.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert table["prediction"].tolist() == found.decisions
    np.testing.assert_allclose(table[[f"probability:{name}" for name in found.classes]], found.probability)
    worth = library.evaluate(squares / "run", squares / "squares.npz").to_pandas()
    assert worth["rows"].tolist() == ["all"]
    assert (worth["auroc_low"] <= worth["auroc"]).all()


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("epochs", "3", "a whole number or None"),
        ("epochs", 2.5, "a whole number or None"),
        ("epochs", True, "a whole number or None"),
        ("lr", "fast", "a number or None"),
        ("weight_decay", "much", "a number"),
        ("baseline", 1, "True or False"),
        ("student", 18, "text"),
        ("class_weight", "balance", "'none' or 'balanced'"),
        ("alpha", "all", "a number or a tuple, each a number or 'auto' or 'per-class'"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(setting, value, expected):
    with pytest.raises(StudentError) as raised:
        StudentSettings(**{setting: value})
    assert str(raised.value) == f"The setting '{setting}' is {value!r}; expected {expected}."


def test_settings_of_stage_one_are_checked_too(small_npz, tmp_path):
    with pytest.raises(MedalError, match="'folds' is '5'; expected a whole number"):
        library.cache_teacher(small_npz, tmp_path / "x.zarr", folds="5")
    with pytest.raises(MedalError, match="'image_size' is None; expected a whole number or 'auto'"):
        CacheSettings(image_size=None)


def test_numbers_of_numpy_are_numbers():
    found = StudentSettings(epochs=np.int64(3), lr=np.float64(0.1), temperature=2)
    assert (found.epochs, found.temperature) == (3, 2)


def test_a_name_that_is_none_has_near_ones_said(squares, tmp_path):
    with pytest.raises(TypeError, match="no setting 'epoch'; did you mean epochs"):
        library.train_student(squares / "squares.zarr", squares / "squares.npz", tmp_path / "run", epoch=3)


def test_soft_targets_stand_in_a_dictionary(small_cache, small_npz):
    images = np.load(small_npz)["train_images"]

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, row):
            return {"image": torch.from_numpy(images[row]), "label": row % 2}

    pairs = library.SoftTargets(small_cache, "train", Items(), arrays=images)
    assert list(pairs[3]) == ["image", "label", "teacher_logits"]
    assert torch.equal(pairs[3]["teacher_logits"], pairs.logits[3])
    batch = next(iter(torch.utils.data.DataLoader(pairs, batch_size=4)))
    assert batch["teacher_logits"].shape == (4, 2)
