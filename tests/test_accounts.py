"""Every row of a table and every file of a folder of DICOM is used or left out with a reason, whatever they are."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from layout_cases import draw, save

from medal.cache.errors import DataError
from medal.pipeline.datasets import DatasetOptions, open_dataset

pytest.importorskip("pydicom", "3.0", reason="DICOM needs the extra [dicom]")
make = runpy.run_path(str(Path(__file__).with_name("dicom_files.py")))["make"]
STORAGE = "1.2.840.10008.5.1.4.1.1"
# Of a DICOM file: frames, and whether it is an image of the study.
KINDS = {
    "plain": (1, True, {}),
    "three": (3, True, {}),
    "scout": (1, None, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
    "segmentation": (1, False, {"SOPClassUID": f"{STORAGE}.66.4"}),
    "dose": (2, False, {"SOPClassUID": f"{STORAGE}.481.2"}),
    "report": (1, False, {"SOPClassUID": f"{STORAGE}.88.11"}),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """One file of each kind of DICOM, and pictures, to be named by tables and linked into folders."""
    folder = tmp_path_factory.mktemp("library")
    for number, (name, (frames, _, elements)) in enumerate(KINDS.items()):
        pixels = np.full((frames, 4, 4), number, np.uint8)
        made = make(pixels if frames > 1 else pixels[0], frames=frames > 1, PatientID=name, **elements)
        made.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    for number in range(4):
        save(folder / "pictures" / f"{number}.png", "picture", number)
        draw("picture", number + 10).save(folder / "pictures" / f"{number}.tif")
    return folder


def frames_of(names, skip):
    """Return how many images some files of the library have together."""
    found = 0
    for name in names:
        frames, image, _ = KINDS.get(Path(name).stem, (1, True, {}))
        found += frames if image or (image is None and not skip) else 0
    return found


FILES = [
    *(f"{name}.dcm" for name in KINDS),
    *(f"pictures/{number}.{kind}" for number in range(4) for kind in ("png", "tif")),
]
ROWS = st.lists(st.tuples(st.sampled_from(FILES), st.sampled_from(["a", "b", "c", ""])), min_size=1, max_size=16)


@examples(60)
@given(ROWS, st.booleans(), st.sampled_from([(), ("c",)]), st.sampled_from(["refuse", "first"]), st.booleans())
def test_every_row_of_any_table_is_used_or_left_out(library, rows, skip, exclude, repeated, search):
    table = library / "labels.csv"
    lines = [f"{name.rpartition('/')[2] if search else name},{label}" for name, label in rows]
    table.write_text("\n\n".join(["file,label", *lines]) + "\n,\n")
    options = DatasetOptions(
        skip_localizers=skip,
        exclude_classes=exclude,
        repeated=repeated,
        image_folders=(str(library),) if search else (),
    )
    try:
        dataset = open_dataset(table, options)
    except DataError:
        return  # said in a sentence, and nothing is read
    account = dataset.account
    assert (account.unit, account.found) == ("rows", len(rows))
    assert account.found == account.used + account.left_out
    # Of what is left, all frames of each file are images, once.
    kept = {name for name, label in rows if label not in exclude}
    assert len(dataset) == frames_of(kept, skip)
    assert account.used == len({dataset.images.locate(row).file for row in range(len(dataset))})
    named = {name for name, _ in rows}
    assert sum(map(len, account.beside.values())) == (len(FILES) + 1 - len(named) if search else 0)  # and the table


ENTRIES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "b/deep", "masks", ""]), st.sampled_from([*FILES, "notes.txt", "junk.dcm"])),
    min_size=1,
    max_size=14,
    unique=True,
)


@examples(60)
@given(ENTRIES, st.booleans(), st.sampled_from([{}, {"class_level": 1}, {"unlabelled": True}]))
def test_every_file_of_any_folder_of_dicom_is_used_or_left_out(library, tmp_path_factory, entries, skip, options):
    folder = tmp_path_factory.mktemp("tree")
    for inside, name in entries:
        path = folder / inside / name.replace("/", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in FILES:
            path.symlink_to(library / name)
        else:
            path.write_bytes(b"some bytes")
    try:
        dataset = open_dataset(folder, DatasetOptions(skip_localizers=skip, **options))
    except DataError:
        return  # said in a sentence, and nothing is read
    account = dataset.account
    assert (account.unit, account.found) == ("files", len(entries))
    assert account.found == account.used + account.left_out
    used = {dataset.images.locate(row).file for row in range(len(dataset))}
    left = {name for names in account.left.values() for name in names}
    assert (len(used), len(left), used & left) == (account.used, account.left_out, set())
    assert len(dataset) == sum(frames_of([name], skip) for name in used)
