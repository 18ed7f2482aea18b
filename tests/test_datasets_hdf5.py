"""PatchCamelyon's HDF5 files: images and labels in files of their own, read row by row in any process."""

import multiprocessing
import pickle

import h5py
import numpy as np
import pytest
from layout_cases import Read

from medal.cache.errors import DataError
from medal.cache.keys import array_key
from medal.pipeline.datasets import DatasetOptions
from medal.pipeline.datasets.opening import dataset_name, open_dataset

COUNTS = {"train": 20, "valid": 6, "test": 8}


def draw(split, **how):
    images = np.random.default_rng(len(split)).integers(0, 256, (COUNTS[split], 9, 9, 3)).astype(np.uint8)
    return images.astype(how.get("dtype", np.uint8))


@pytest.fixture
def pcam(tmp_path):
    """Write the files of a set; give a function that returns the one of a split and a letter."""

    def write(chunked=False, **how):
        for split, count in COUNTS.items():
            stored = {"chunks": (4, 9, 9, 3), "compression": "gzip"} if chunked else {}
            with h5py.File(name(split, "x"), "w") as file:
                file.create_dataset("x", data=draw(split, **how), **stored)
            with h5py.File(name(split, "y"), "w") as file:
                file.create_dataset("y", data=(np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1))
        return name

    def name(split, letter):
        return tmp_path / f"camelyonpatch_level_2_split_{split}_{letter}.h5"

    return write


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("named", [("train", "x"), ("valid", "y")])
def test_all_splits_beside_a_file_are_read(pcam, chunked, named):
    path = pcam(chunked)(*named)
    assert dataset_name(str(path)) == "camelyonpatch_level_2"
    read = Read(str(path))
    assert (read.sizes, read.counts) == ((20, 6, 8), {"0": 17, "1": 17})
    dataset = read.dataset
    for row, (split, place) in {0: ("train", 0), 21: ("valid", 1), 33: ("test", 7)}.items():
        np.testing.assert_array_equal(dataset.images.read(row), draw(split)[place])
        assert dataset.images.key(row) == array_key(draw(split)[place])
    assert dataset.images.describe(21) == (
        f"image 1 of 'camelyonpatch_level_2_split_valid_x.h5' in files '{path.parent}/camelyonpatch_level_2…'"
    )


def answer(images, rows, pipe):
    pipe.send([images.read(row).sum() for row in rows])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_rows_of_their_own(pcam, method):
    images = open_dataset(str(pcam(chunked=True)("train", "x"))).images
    rows = [0, 7, 21, 33]
    before = [images.read(row).sum() for row in rows]
    assert len(pickle.dumps(images)) < 2000
    context = multiprocessing.get_context(method)
    ends = [context.Pipe(duplex=False) for _ in range(2)]
    processes = [context.Process(target=answer, args=(images, rows, end)) for _, end in ends]
    for process in processes:
        process.start()
    assert [receiving.recv() for receiving, _ in ends] == [before, before]
    for process in processes:
        process.join()


def test_other_depths_are_read_into_memory(pcam):
    dataset = Read(str(pcam(dtype=np.uint16)("test", "x"))).dataset
    np.testing.assert_allclose(dataset.images.read(0), draw("train")[0], atol=0.01)


def test_mistakes(pcam, tmp_path):
    name = pcam()
    name("valid", "y").unlink()
    with pytest.raises(DataError, match=r"There is no file '.*valid_y.h5' with the labels of 'camelyon.*valid_x.h5'"):
        open_dataset(str(name("train", "x")))
    name("valid", "x").unlink()
    assert set(open_dataset(str(name("train", "x"))).split) == {0, 2}
    with pytest.raises(DataError, match=r"no image in folders of classes; did you mean '.*test_x.h5'"):
        open_dataset(str(tmp_path))
    with pytest.raises(DataError, match=r"is a pair of HDF5 files and has no columns for --label-column"):
        open_dataset(str(name("train", "x")), DatasetOptions(label_column="y"))
    content = name("test", "x").read_bytes()
    name("test", "x").write_bytes(content[:100])
    with pytest.raises(DataError, match=r"test_x.h5' is not an HDF5 file that can be read .*; download it again"):
        open_dataset(str(name("train", "x")))
    name("test", "x").write_bytes(content)
    with h5py.File(name("test", "x"), "a") as file:
        file["more"] = np.zeros(3)
    with pytest.raises(DataError, match=r"test_x.h5' holds 2 arrays \('more', 'x'\); expected one"):
        open_dataset(str(name("train", "x")))
    (tmp_path / "a_train_x.h5.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"is a file of another kind; expected .*: unpack it first\.$"):
        open_dataset(str(tmp_path / "a_train_x.h5.gz"))
