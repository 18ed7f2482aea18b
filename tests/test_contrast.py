"""Deep images show what is in them: black and white are found once for a set, and what comes out grey is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from medal.cache.errors import DataError
from medal.pipeline.datasets.columns.dataset import Dataset, DatasetOptions
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.datasets.pixels.contrast import flat_rows, is_flat, settle_intensity

COUNT, HEIGHT, WIDTH = 12, 40, 36


def drawn(row: int, seed: int = 0) -> np.ndarray:
    """A grey image with a bright spot, a ramp and noise, from black to white: uint8 (H, W)."""
    rng = np.random.default_rng([seed, row])
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    spot = 150 * np.exp(-((y - rng.integers(8, 32)) ** 2 + (x - rng.integers(8, 28)) ** 2) / 60)
    image = spot + 2.5 * x + rng.normal(0, 6, (HEIGHT, WIDTH))
    image = (image - image.min()) / np.ptp(image) * 255
    return image.round().astype(np.uint8)


def colour(row: int) -> np.ndarray:
    return np.stack([drawn(row, seed) for seed in range(3)], 2)


def tiff(values, **how) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **{"photometric": "minisblack"} | how)
    return file.getvalue()


def png(image: Image.Image, **how) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **how)
    return file.getvalue()


def png_rgb16(values: np.ndarray) -> bytes:
    """Write 16-bit colours, which Pillow cannot: (H, W, 3) uint16."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def sixteen(values) -> np.ndarray:
    return values.astype(np.uint16)


# What is written of an image S, the suffix, and what is found. Shown has to be S, within a grey.
GREY = {
    "8 bits": (lambda s: png(Image.fromarray(s)), ".png", "declared"),
    "16 bits": (lambda s: png(Image.fromarray(sixteen(s) * 257)), ".png", "declared"),
    "12 bits in 16": (lambda s: png(Image.fromarray(sixteen(s) * 16)), ".png", "0,4095"),
    "10 bits in 16": (lambda s: png(Image.fromarray(sixteen(s) * 4)), ".png", "0,1023"),
    "8 bits in 16": (lambda s: png(Image.fromarray(sixteen(s))), ".png", "0,255"),
    "8 bits, TIFF": (tiff, ".tif", "declared"),
    "signed 8 bits": (lambda s: tiff((s.astype(np.int16) - 128).astype(np.int8)), ".tif", "declared"),
    "signed 16 bits": (lambda s: tiff((s.astype(np.int32) * 257 - 32768).astype(np.int16)), ".tif", "declared"),
    "12 bits in signed 16": (lambda s: tiff(s.astype(np.int16) * 16), ".tif", "0,4095"),
    "big endian": (lambda s: tiff(sixteen(s) * 16, byteorder=">"), ".tif", "0,4095"),
    "unsigned 32 bits": (lambda s: tiff(s.astype(np.uint32) * 0x01010101), ".tif", "declared"),
    "12 bits in unsigned 32": (lambda s: tiff(s.astype(np.uint32) * 16), ".tif", "0,4095"),
    "16 bits in unsigned 64": (lambda s: tiff(s.astype(np.uint64) * 257), ".tif", "0,65535"),
    "0 is white": (lambda s: tiff(sixteen(255 - s) * 16, photometric="miniswhite"), ".tif", "0,4095"),
    "float16": (lambda s: tiff((s / 255).astype(np.float16)), ".tif", "declared 0,1"),
    "float32": (lambda s: tiff((s / 255).astype(np.float32)), ".tif", "declared 0,1"),
    "float64": (lambda s: tiff(s / 255), ".tif", "declared 0,1"),
    "float to 255": (lambda s: tiff(s.astype(np.float32)), ".tif", "declared 0,255"),
    "float that overshoots": (lambda s: tiff((s / 255 + 2e-7).astype(np.float32)), ".tif", "0,1"),
    "grey with alpha": (
        lambda s: tiff(np.dstack([sixteen(s) * 257, np.full_like(sixteen(s), 65535)]), extrasamples=["unassalpha"]),
        ".tif",
        "declared",
    ),
}
COLOUR = {
    "8 bits": (lambda s: tiff(s, photometric="rgb"), ".tif", "declared"),
    "planes of 16 bits": (
        lambda s: tiff(np.moveaxis(sixteen(s) * 257, 2, 0), photometric="rgb", planarconfig="separate"),
        ".tif",
        "declared",
    ),
    "planes of 12 bits": (
        lambda s: tiff(np.moveaxis(sixteen(s) * 16, 2, 0), photometric="rgb", planarconfig="separate"),
        ".tif",
        "0,4095",
    ),
    "12 bits in 16": (lambda s: tiff(sixteen(s) * 16, photometric="rgb"), ".tif", "0,4095"),
    "16 bits, PNG": (lambda s: png_rgb16(sixteen(s) * 257), ".png", "declared"),
    "12 bits in 16, PNG": (lambda s: png_rgb16(sixteen(s) * 16), ".png", "0,4095"),
    "floats": (lambda s: tiff((s / 255).astype(np.float32), photometric="rgb"), ".tif", "declared 0,1"),
}


@pytest.fixture
def folder(tmp_path):
    """Write images of two classes; give a function that opens them."""

    def make(write, suffix=".png", source=drawn):
        for row in range(COUNT):
            place = tmp_path / "set" / "ab"[row % 2] / f"{row:03d}{suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(write(source(row)))
        return tmp_path / "set"

    return make


def settled(path, **options) -> tuple[Dataset, str, str | None]:
    asked = DatasetOptions(**options)
    dataset = open_dataset(str(path), asked)
    dataset, found = settle_intensity(dataset, np.arange(len(dataset)), asked)
    return dataset, found.intensity, found.note


def number(dataset: Dataset, row: int) -> int:
    return int(str(dataset.images.locate(row).file)[2:5])


def assert_shows(dataset: Dataset, reference) -> None:
    for row in range(len(dataset)):
        view = dataset.images.read(row)
        assert view.dtype in (np.uint8, np.float32)
        np.testing.assert_allclose(view.astype(float), reference(number(dataset, row)), atol=1)


@pytest.mark.parametrize("name", GREY)
def test_grey_files_show_what_was_written(folder, name):
    write, suffix, intensity = GREY[name]
    dataset, found, note = settled(folder(write, suffix))
    assert (found, note is None) == (intensity, intensity.startswith("declared"))
    assert_shows(dataset, lambda row: drawn(row)[:, :, None])


@pytest.mark.parametrize("name", COLOUR)
def test_colour_files_show_what_was_written(folder, name):
    write, suffix, intensity = COLOUR[name]
    dataset, found, _ = settled(folder(write, suffix, colour))
    assert found == intensity
    assert_shows(dataset, colour)


def test_values_about_32768_are_shown_by_percentiles_or_as_told(folder):
    path = folder(lambda s: png(Image.fromarray(sixteen(s) * 4 + 31768)))  # HU from −1000 to 20, as DeepLesion has them
    dataset, found, note = settled(path)
    low, high = map(float, found.split(","))
    assert 31768 <= low < high <= 31768 + 4 * 255
    assert "declare nothing that shows them" in note
    assert "--window C,W" in note
    assert_shows(
        dataset, lambda row: np.clip((drawn(row)[:, :, None] * 4.0 + 31768 - low) * 255 / (high - low), 0, 255)
    )
    dataset, found, note = settled(path, intensity="31768,32788")
    assert (found, note) == ("31768,32788", None)
    assert_shows(dataset, lambda row: drawn(row)[:, :, None])
    dataset, found, _ = settled(path, window=(32278.0, 1021.0))  # the window's ends are half a step within
    assert found == "declared"
    assert_shows(dataset, lambda row: drawn(row)[:, :, None])


def test_letters_burned_in_and_padding_count_for_neither_end(folder):
    def burned(s):
        values = sixteen(s) * 16
        values[:4, :8] = 65535
        return png(Image.fromarray(values))

    dataset, found, _ = settled(folder(burned))
    assert found == "0,4095"
    views = dataset.images.read(0)
    np.testing.assert_allclose(views[4:, :, 0], drawn(number(dataset, 0))[4:], atol=1)
    assert (views[:4, :8] == 255).all()


def test_one_image_of_a_set_is_no_law_for_the_set(folder):
    """A dark frame of floats in 0…255 is dark, and stays so; alone it would be taken for 0…1."""

    def write(s):
        values = s.astype(np.float32)
        return tiff(values / 300 if s[0, 0] == drawn(0)[0, 0] and (s == drawn(0)).all() else values)

    dataset, found, _ = settled(folder(write, ".tif"))
    assert found == "0,255"
    dark = next(row for row in range(COUNT) if number(dataset, row) == 0)
    assert dataset.images.read(dark).max() < 1


def test_floats_on_no_scale_are_refused(folder):
    path = folder(lambda s: tiff((s / 25.0).astype(np.float32)), ".tif")
    dataset = open_dataset(str(path))
    assert dataset.images.read(0).max() == pytest.approx(10.2)
    path = folder(lambda s: tiff((s / 40.0 - 3).astype(np.float32)), ".tif")
    with pytest.raises(
        DataError, match=r"floating-point pixels from -3 to 3.375; expected 0…1 or 0…255.*--intensity LOW"
    ):
        settled(path)
    dataset, found, _ = settled(path, intensity="-3,3.375")
    assert found == "-3,3.375"
    assert_shows(dataset, lambda row: drawn(row)[:, :, None])


# ── Arrays ───────────────────────────────────────────────────────────────────────────────────────────────────────

STACK = np.stack([drawn(row) for row in range(COUNT)])
ARRAYS = {
    "uint8": (STACK, "declared"),
    "int8": ((STACK.astype(np.int16) - 128).astype(np.int8), "declared"),
    "int64 of 8 bits": (STACK.astype(np.int64), "declared"),
    "uint16": (sixteen(STACK) * 257, "declared"),
    "12 bits in uint16": (sixteen(STACK) * 16, "0,4095"),
    "12 bits in int32": (STACK.astype(np.int32) * 16, "0,4095"),
    "uint32": (STACK.astype(np.uint32) * 0x01010101, "declared"),
    "float16": ((STACK / 255).astype(np.float16), "declared 0,1"),
    "float64": (STACK.astype(np.float64), "declared 0,255"),
    "float that overshoots": ((STACK / 255 * (1 + 2e-7)).astype(np.float32), "0,1"),
    "a channel at the end": (STACK[..., None], "declared"),
    "a channel at the beginning": (STACK[:, None], "declared"),
    "three channels at the beginning": (np.repeat(STACK[:, None], 3, 1), "declared"),
    "an opaque alpha": (np.stack([STACK, STACK, STACK, np.full_like(STACK, 255)], -1), "declared"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_show_what_was_written(tmp_path, name):
    images, intensity = ARRAYS[name]
    np.savez(tmp_path / "set.npz", x_train=images, y_train=np.arange(COUNT) % 2)
    dataset, found, note = settled(tmp_path / "set.npz")
    assert (found, note is None) == (intensity, intensity.startswith("declared"))
    assert dataset.split.tolist() == [0] * COUNT
    for row in range(COUNT):
        view = dataset.images.read(row).astype(float)
        np.testing.assert_allclose(view, np.broadcast_to(drawn(row)[:, :, None], view.shape), atol=1)


def test_turned_channels_keep_the_keys_of_channels_last(tmp_path):
    last = np.stack([colour(row) for row in range(4)])
    np.savez(tmp_path / "last.npz", images=last, labels=[0, 1, 0, 1])
    np.savez(tmp_path / "first.npz", images=np.moveaxis(last, 3, 1), labels=[0, 1, 0, 1])
    first, second = (open_dataset(str(tmp_path / f"{name}.npz")) for name in ("last", "first"))
    assert first.split is None
    np.testing.assert_array_equal(first.keys(), second.keys())
    np.testing.assert_array_equal(second.images.read(2), last[2])


def test_one_hot_labels_are_one_each_unless_several_are_meant(tmp_path):
    hot = np.eye(3, dtype=np.uint8)[np.arange(COUNT) % 3]
    np.savez(tmp_path / "set.npz", train_images=STACK, train_labels=hot)
    dataset = open_dataset(str(tmp_path / "set.npz"))
    assert (dataset.task, dataset.label.tolist()) == ("multiclass", [0, 1, 2] * 4)
    several = open_dataset(str(tmp_path / "set.npz"), DatasetOptions(several_labels=True))
    assert (several.task, several.label.tolist()) == ("multilabel", hot.tolist())
    hot[0] = 1
    np.savez(tmp_path / "set.npz", train_images=STACK, train_labels=hot)
    assert open_dataset(str(tmp_path / "set.npz")).task == "multilabel"


# ── Views ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_flat():
    image = drawn(0).astype(np.float32)
    assert not is_flat(image)
    assert is_flat(image / 16)
    assert is_flat(image / 64 + 124)
    hot = image / 16
    hot[0, 0] = 255
    assert is_flat(hot)  # a dead pixel
    padded = image / 32 + 247
    padded[:, :10] = 0
    assert is_flat(padded)  # tissue of eight greys on a black ground
    mask = np.zeros((64, 64), np.float32)
    mask[10:30, 10:30] = 255
    assert not is_flat(mask)
    assert not is_flat(np.pad(image, 40))  # an image within much black


def test_images_of_one_value_are_no_fault_of_the_scale(folder):
    dataset, _, _ = settled(folder(lambda s: png(Image.fromarray(s * 0 if s.sum() % 3 else s))))
    assert flat_rows(dataset.images, np.arange(COUNT))[0] == []
