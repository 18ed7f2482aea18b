"""`.npz` files: any depth and layout that people save, and every mistake in a sentence."""

import pickle

import numpy as np
import pytest

from medal.cache.errors import DataError
from medal.cache.keys import array_key
from medal.pipeline.datasets import DatasetOptions
from medal.pipeline.datasets.opening import open_dataset


@pytest.fixture
def npz(tmp_path):
    def write(compress=False, **arrays):
        path = tmp_path / "set.npz"
        (np.savez_compressed if compress else np.savez)(path, **arrays)
        return path

    return write


def images(count, *shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (5, 6)))).astype(dtype)


def test_npz_real(pneumonia):
    dataset = open_dataset(str(pneumonia))
    assert (dataset.name, dataset.task, dataset.classes) == ("pneumoniamnist", "multiclass", ("0", "1"))
    assert [np.bincount(dataset.label[dataset.split == index]).tolist() for index in range(3)] == [
        [1214, 3494],
        [135, 389],
        [234, 390],
    ]
    with np.load(pneumonia) as real:
        np.testing.assert_array_equal(dataset.images.read(4708)[:, :, 0], real["val_images"][0])
        assert dataset.images.key(4708) == array_key(real["val_images"][0])
    assert dataset.images.describe(4708).startswith("image 0 of 'val_images' in file '")
    assert (dataset.domain == -1).all()
    assert (dataset.group == -1).all()
    assert dataset.label.dtype == np.int32


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3)])
def test_npz_shapes_and_some_splits(npz, shape):
    train, test = images(6, *shape), images(4, *shape, seed=1)
    path = npz(True, train_images=train, train_labels=[0, 1, 2] * 2, test_images=test, test_labels=[[2], [1], [0], [0]])
    dataset = open_dataset(path)
    assert dataset.split.tolist() == [0] * 6 + [2] * 4
    assert dataset.label.tolist() == [0, 1, 2, 0, 1, 2, 2, 1, 0, 0]
    np.testing.assert_array_equal(dataset.images.read(7), test[1].reshape(5, 6, -1))
    copy = pickle.loads(pickle.dumps(dataset.images))  # noqa: S301 - what a spawned worker does
    np.testing.assert_array_equal(copy.read(9), test[3].reshape(5, 6, -1))


def test_npz_labels(npz):
    multi = open_dataset(npz(train_images=images(3), train_labels=[[0, 1], [1, 255], [-1, 0]]))
    assert (multi.task, multi.classes, multi.label.dtype) == ("multilabel", ("0", "1"), np.uint8)
    assert multi.label.tolist() == [[0, 1], [1, 255], [255, 0]]
    single = open_dataset(npz(train_images=images(4), train_labels=np.array([7.0, 10, -1, 7])))
    assert single.classes == ("7", "10")
    assert single.label.tolist() == [0, 1, -1, 0]
    dropped = open_dataset(
        npz(train_images=images(4), train_labels=[0, 1, 2, 1]), DatasetOptions(exclude_classes=("1",))
    )
    assert (dropped.classes, dropped.label.tolist(), dropped.excluded) == (("0", "2"), [0, 1], ("1",))
    np.testing.assert_array_equal(dropped.images.read(1)[:, :, 0], images(4)[2])


def test_npz_classes_of_a_cache(npz):
    path = npz(train_images=images(4), train_labels=[0, 1, 2, 1])
    assert open_dataset(path, classes=("2", "1", "0")).label.tolist() == [2, 1, 0, 1]
    named = open_dataset(path, classes=("clear", "nodule", "mass"))
    assert (named.classes, named.label.tolist()) == (("clear", "nodule", "mass"), [0, 1, 2, 1])
    with pytest.raises(DataError, match=r"has the classes '0', '1', '2', and none of those of the cache, 'a', 'b'"):
        open_dataset(path, classes=("a", "b"))
    bits = npz(train_images=images(2), train_labels=[[0, 1], [1, 1]])
    assert open_dataset(bits, classes=("edema", "mass")).classes == ("edema", "mass")
    with pytest.raises(DataError, match="has the labels '0', '1'; expected 'a', 'b', 'c'"):
        open_dataset(bits, classes=("a", "b", "c"))


@pytest.mark.parametrize(
    ("dtype", "factor", "white"),
    [(np.uint16, 257, 65535), (np.float32, 1 / 255, 1), (np.float64, 1, 255), (np.int64, 1, 255), (np.float16, 1, 255)],
)
def test_npz_depths(npz, dtype, factor, white):
    values = images(4) * factor if dtype != np.uint16 else images(4).astype(np.uint16) * 257
    dataset = open_dataset(npz(train_images=values.astype(dtype), train_labels=[0, 1, 0, 1]))
    read = dataset.images.read(2)
    assert read.dtype == (np.uint8 if dtype == np.int64 else np.float32)
    np.testing.assert_allclose(read[:, :, 0], values[2].astype(float) / white * 255, atol=0.01)


def test_npz_booleans_and_minmax(npz):
    masks = images(2) > 128
    read = open_dataset(npz(train_images=masks, train_labels=[0, 1])).images.read(0)
    np.testing.assert_array_equal(read[:, :, 0], masks[0] * 255.0)
    scan = (images(2).astype(np.int16) - 1000) * 3
    path = npz(train_images=scan, train_labels=[0, 1])
    with pytest.raises(DataError, match=r"int16 pixels from -3000 to .*expected 0…255 or uint16.*--intensity minmax"):
        open_dataset(path)
    read = open_dataset(path, DatasetOptions(intensity="minmax")).images.read(1)
    assert (read.min(), read.max()) == (0, 255)
    with pytest.raises(DataError, match="floating-point pixels from 0 to 3"):
        open_dataset(npz(train_images=np.full((2, 4, 4), [0, 1, 2, 300.0]), train_labels=[0, 1]))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [1]}, r"has the arrays 'x'; expected the MedMNIST layout"),
        ({"train_images": images(3)}, "lacks 'train_labels'"),
        ({"train_images": images(3), "train_labels": [0, 1]}, "3 images but 2 labels in 'train'"),
        ({"train_images": images(3, 8, 8, 8, 3), "train_labels": [0, 1, 0]}, r"shape \(3, 8, 8, 8, 3\); .*Volumes"),
        ({"train_images": images(3, 5, 8, 8), "train_labels": [0, 1, 0]}, r"expected \(N, H, W\), \(N, H, W, 3\) or"),
        ({"train_images": images(3, 8, 8, 4), "train_labels": [0, 1, 0]}, "fourth channel is no opaque alpha"),
        ({"x_train": images(3)}, "lacks 'y_train'"),
        ({"x_val": images(2), "y_val": [0, 1], "x_valid": images(2), "y_valid": [0, 1]}, "all of them val"),
        ({"train_images": images(3), "train_labels": [0, 1, -2]}, "labels from -2 to 1"),
        ({"train_images": images(3), "train_labels": [0, 1, 0.5]}, "not whole numbers"),
        ({"train_images": images(3), "train_labels": [["a", "b"]] * 3}, "names in several columns"),
        ({"images": images(6), "labels": np.uint8([0, 1, 255] * 2)}, r"has '255' \(2\) .* --unknown-label 255"),
        ({"images": images(6), "labels": [41, 57, 63] * 2}, "3 classes, which look like a measurement"),
        (
            {"train_images": images(2) / 255, "train_labels": [0, 1], "test_images": images(2) * 1.0}
            | {"test_labels": [0, 1]},
            r"up to 1 in 'train_images' and of up to 255 in 'test_images'; expected one scale in all splits",
        ),
        ({"train_images": images(2), "train_labels": [[0, 1], [2, 1]]}, "has 2 in column 0"),
        ({"train_images": images(2), "train_labels": [1, 1]}, r"has 1 class \('1'\); expected two or more"),
        ({"train_images": np.array([[["a"]]] * 2), "train_labels": [0, 1]}, "images of type <U1"),
        ({"train_images": images(0), "train_labels": np.zeros(0, int)}, "has 0 classes"),
    ],
)
def test_npz_refused(npz, arrays, message):
    with pytest.raises(DataError, match=message):
        open_dataset(npz(**arrays))


def test_npz_labels_may_be_names(npz):
    for names in (np.array(["b", "a", ""] * 2), np.array([b"b", b"a", b""] * 2)[:, None]):
        dataset = open_dataset(npz(images=images(6), labels=names))
        assert (dataset.classes, dataset.label.tolist()) == (("a", "b"), [1, 0, -1] * 2)


def test_npz_labels_of_further_axes_of_length_one(npz):
    assert open_dataset(npz(images=images(4), labels=np.arange(4).reshape(4, 1, 1, 1) % 2)).label.tolist() == [0, 1] * 2


def test_npz_classes_can_be_settled(npz):
    path = npz(images=images(6), labels=np.uint8([0, 1, 255] * 2))
    told = open_dataset(path, DatasetOptions(unknown_labels=("255",)))
    assert (told.classes, told.label.tolist()) == (("0", "1"), [0, 1, -1] * 2)
    assert told.reading == {"unknown_labels": ["255"]}
    assert open_dataset(path, DatasetOptions(accept_classes=True)).classes == ("0", "1", "255")


def test_npz_arrays_that_are_not_read_are_said(npz):
    path = npz(images=images(6), labels=[0, 1] * 3, patient_ids=[1, 1, 2, 2, 3, 3], more=np.zeros(3))
    dataset = open_dataset(path)
    assert dataset.notes[0] == "2 arrays not read: 'patient_ids', 'more'"
    assert dataset.notes[1] == (
        "array 'patient_ids' looks like patients: --group-column patient_ids keeps each in one split"
    )
    grouped = open_dataset(path, DatasetOptions(group_column="patient_ids"))
    assert (grouped.group.tolist(), grouped.notes) == ([0, 0, 1, 1, 2, 2], ("1 array not read: 'more'",))
    with pytest.raises(DataError, match=r"no array 'pid' for --group-column; its other .* 'patient_ids', 'more'"):
        open_dataset(path, DatasetOptions(group_column="pid"))


def test_npz_patients_of_splits(npz):
    parts = {"x_train": images(4), "y_train": [0, 1, 0, 1], "x_test": images(2, seed=1), "y_test": [0, 1]}
    path = npz(**parts, train_patients=["a", "a", "b", "c"], patients_test=["c", "d"])
    assert open_dataset(path, DatasetOptions(group_column="patients")).group.tolist() == [0, 0, 1, 2, 2, 3]
    path = npz(**parts, train_patients=["a", "a", "b"], patients_test=["c", "d"])
    with pytest.raises(DataError, match=r"'train_patients' in .* has the shape \(3,\), and there are 4 images"):
        open_dataset(path, DatasetOptions(group_column="patients"))


def test_npz_rows_that_are_nearly_one_hot_are_said(npz):
    labels = np.eye(3, dtype=int)[np.arange(30) % 3]
    labels[4] = 1, 1, 0
    said = open_dataset(npz(images=images(30), labels=labels))
    assert (said.task, "all but 1 of 30 rows of the labels have exactly one 1" in said.notes[0]) == ("multilabel", True)


def test_npz_never_unpickles(npz, tmp_path):
    with pytest.raises(DataError, match=r"'train_labels' in .* holds Python objects"):
        open_dataset(npz(train_images=images(2), train_labels=np.array([{}, []], object)))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"train_images": 1}))
    with pytest.raises(DataError, match=r"pickle.npz' is not an .npz file that can be read") as error:
        open_dataset(tmp_path / "pickle.npz")
    assert "allow_pickle" not in str(error.value)


def test_npz_damaged(npz, tmp_path):
    path = npz(True, train_images=images(40), train_labels=[0, 1] * 20)
    content = path.read_bytes()
    for share in (0, 0.1, 0.5, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(DataError, match=r"set.npz' is not an .npz file that can be read.*copy or download"):
            open_dataset(path)
    path.write_bytes(content[:200] + bytes(20) + content[220:])
    with pytest.raises(DataError, match=r"'train_images' in .* cannot be read"):
        open_dataset(path)
    np.save(tmp_path / "one.npy", images(2))
    (tmp_path / "one.npy").rename(path)
    with pytest.raises(DataError, match="holds a single array"):
        open_dataset(path)
