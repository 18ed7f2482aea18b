"""A table may name the pages of a TIFF, one image each; without it the first page is the image."""

import numpy as np
import pytest
from PIL import Image

from medal.cache.errors import DataError
from medal.cache.keys import file_key
from medal.pipeline.datasets.opening import open_dataset

PAGES = 4


def page(stack: int, number: int) -> np.ndarray:
    return np.full((8, 6), 40 * stack + 10 * number, np.uint8)


@pytest.fixture
def table(tmp_path):
    """Write two TIFFs of several pages, one of a single page and a PNG; give a function that opens a table of them."""
    for stack, name in enumerate("ab"):
        first, *others = [Image.fromarray(page(stack, number)) for number in range(PAGES)]
        first.save(tmp_path / f"{name}.tif", save_all=True, append_images=others)
    Image.fromarray(page(3, 0)).save(tmp_path / "single.tif")
    Image.fromarray(page(4, 0)).save(tmp_path / "c.png")

    def make(*rows: str, header: str = "file,frame,label"):
        (tmp_path / "labels.csv").write_text("\n".join((header, *rows)) + "\n")
        return open_dataset(str(tmp_path / "labels.csv"))

    return make


def test_each_row_shows_its_page_and_has_a_key_of_its_own(table, tmp_path):
    rows = [(name, number) for name in "ab" for number in (3, 1, 4, 2)]
    dataset = table(*(f"{name}.tif,{number},{name}" for name, number in rows))
    assert len(dataset) == 2 * PAGES
    for row, (name, number) in enumerate(rows):
        np.testing.assert_array_equal(dataset.images.read(row)[:, :, 0], page("ab".index(name), number - 1))
        assert dataset.images.locate(row) == (f"{name}.tif", number, None, None)
    keys = dataset.keys()
    assert len(np.unique(keys, axis=0)) == len(rows)
    assert keys[1].tobytes() == file_key(
        (tmp_path / "a.tif").read_bytes()
    )  # the first page is the file, as without a table
    assert dataset.group.tolist() == [-1] * len(rows)  # who names pages one by one may name groups as well


def test_an_empty_frame_is_all_pages_and_these_stay_together(table):
    dataset = table("a.tif,,x", "b.tif,2,y", "c.png,7,y", "single.tif,9,x")
    assert len(dataset) == PAGES + 3
    assert [dataset.images.locate(row).frame for row in range(len(dataset))] == [1, 2, 3, 4, 2, None, None]
    assert dataset.group.tolist() == [0] * PAGES + [-1] * 3
    np.testing.assert_array_equal(dataset.images.read(2)[:, :, 0], page(0, 2))
    np.testing.assert_array_equal(
        dataset.images.read(5)[:, :, 0], page(4, 0)
    )  # of a PNG the column says something else


def test_without_a_column_the_first_page_is_the_image(table):
    dataset = table("a.tif,x", "b.tif,y", header="file,label")
    assert len(dataset) == 2
    np.testing.assert_array_equal(dataset.images.read(1)[:, :, 0], page(1, 0))


@pytest.mark.parametrize("frame", ["0", "5", "two"])
def test_a_page_that_is_not_there_is_refused(table, frame):
    with pytest.raises(DataError, match=f"asks for frame '{frame}' of file 'a.tif', which has 4; expected 1 to 4"):
        table(f"a.tif,{frame},x", "b.tif,1,y")
