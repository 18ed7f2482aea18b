"""Decoding: what a radiologist would expect to see, from every kind of file that people have."""

import contextlib
import io
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from medal.cache.errors import DataError
from medal.cache.keys import file_key
from medal.pipeline.datasets.pixels.files import FileImages

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.fixture
def read(tmp_path):
    """Write one image and read it back through `FileImages`."""

    def read(image, name="x.png", intensity="declared", **save):
        if isinstance(image, bytes):
            (tmp_path / name).write_bytes(image)
        else:
            image = image if isinstance(image, Image.Image) else Image.fromarray(image)
            image.save(tmp_path / name, **save)
        pixels = FileImages(tmp_path, (name,), intensity).read(0)
        assert pixels.ndim == 3
        assert pixels.shape[2] in (1, 3)
        assert pixels.flags.writeable
        assert pixels.dtype in (np.uint8, np.float32)
        return pixels

    return read


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.bmp", "x.TIFF"])
def test_grey_stays_as_it_is(read, name):
    np.testing.assert_array_equal(read(RAMP, name), RAMP[:, :, None])


def test_colour_stays_as_it_is(read):
    colour = np.stack([RAMP, RAMP[::-1], 255 - RAMP], 2)
    np.testing.assert_array_equal(read(colour), colour)
    assert read(colour, "x.jpg").shape == (3, 4, 3)


def test_transparency_is_composited_on_black(read):
    alpha = np.array([[255, 0, 128, 255]] * 3, np.uint8)
    expected = (RAMP.astype(int) * alpha + 127) // 255
    np.testing.assert_array_equal(read(Image.fromarray(np.stack([RAMP, alpha], 2)))[:, :, 0], expected)
    rgba = np.stack([RAMP, RAMP, RAMP, alpha], 2)
    np.testing.assert_array_equal(read(rgba), np.repeat(expected[:, :, None], 3, 2))


def test_palette_with_and_without_transparency(read):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * 759)
    image = image.convert("P") if image.mode != "P" else image
    plain = read(image)
    np.testing.assert_array_equal(plain[0], [[255, 0, 0], [0, 255, 0]])
    clear = read(image, transparency=1)
    np.testing.assert_array_equal(clear[0], [[255, 0, 0], [0, 0, 0]])
    partly = read(image, transparency=bytes([255, 0, 128]))
    np.testing.assert_array_equal(partly[1], [[0, 0, 128], [0, 0, 0]])


def test_one_bit(read):
    bits = Image.fromarray(RAMP > 100)
    for name in ("x.png", "x.tif", "x.bmp"):
        np.testing.assert_array_equal(read(bits, name)[:, :, 0], (RAMP > 100) * 255)


def test_cmyk_becomes_rgb(read):
    inks = Image.new("CMYK", (2, 2), (0, 255, 0, 0))
    np.testing.assert_allclose(read(inks, "x.tif")[0, 0].astype(int), [255, 0, 255], atol=2)
    np.testing.assert_allclose(read(inks, "x.jpg", quality=95)[0, 0].astype(int), [255, 0, 255], atol=6)


def deep(high):
    return np.linspace(0, high, 12).astype(np.uint16).reshape(3, 4)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_by_the_full_range(read, name):
    values = deep(4095)
    pixels = read(values, name)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[:, :, 0], values / 65535 * 255, atol=1e-3)


def with_sbit(values, bits):
    """A PNG that declares how many of its 16 bits mean something."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    content = file.getvalue()
    body = b"sBIT" + bytes([bits])
    chunk = struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body))
    return content[:33] + chunk + content[33:]  # after IHDR


def test_declared_bits_of_a_png(read):
    np.testing.assert_allclose(read(with_sbit(deep(4095), 12))[:, :, 0], deep(4095) / 4095 * 255, atol=1e-3)
    too_large = deep(9000)
    np.testing.assert_allclose(read(with_sbit(too_large, 12))[:, :, 0], too_large / 65535 * 255, atol=1e-3)


@pytest.mark.parametrize("largest", [4095, 3187])
def test_declared_range_of_a_tiff(read, largest):
    pixels = read(deep(largest), "x.tif", tiffinfo={281: largest})
    np.testing.assert_allclose(pixels[:, :, 0], deep(largest) / 4095 * 255, atol=1e-3)


def pack_tiff(values, bits, photometric=1, sample_format=None):
    """A little-endian TIFF of one uncompressed strip, written by hand."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        data = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
        strip = data.astype(np.uint8).tobytes()
    else:
        strip = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(strip)}
    if sample_format:
        tags[339] = sample_format
    entries = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags.items()
    )
    return struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_twelve_bit_tiff(read):
    values = np.array([[0, 4095, 1000, 2048], [7, 300, 4000, 1]], np.uint16)
    np.testing.assert_allclose(read(pack_tiff(values, 12), "x.tif")[:, :, 0], values / 4095 * 255, atol=1e-3)


def test_zero_as_white_is_turned_round(read):
    pixels = read(pack_tiff(deep(65535), 16, photometric=0), "x.tif")
    np.testing.assert_allclose(pixels[:, :, 0], 255 - deep(65535) / 65535 * 255, atol=1e-3)
    eight = read(pack_tiff(RAMP, 8, photometric=0), "x.tif")
    np.testing.assert_array_equal(eight[:, :, 0], 255 - RAMP)


def test_signed_sixteen_bits(read):
    values = np.array([[-32768, 0, 32767]], np.int16)
    pixels = read(pack_tiff(values, 16, sample_format=2), "x.tif")
    np.testing.assert_allclose(pixels[0, :, 0], [0, 32768 / 65535 * 255, 255], atol=1e-3)


def test_thirty_two_bit_integers(read):
    wide = np.array([[0, 2**31 - 1]], np.int32)
    np.testing.assert_allclose(read(Image.fromarray(wide), "x.tif")[0, :, 0], [127.5, 255], atol=1e-3)
    narrow = Image.fromarray(np.array([[0, 4000]], np.int32))
    with pytest.raises(DataError, match=r"file 'x.tif' has 32-bit pixels from 0 to 4000.*--intensity minmax"):
        read(narrow, "x.tif")
    np.testing.assert_allclose(read(narrow, "x.tif", tiffinfo={281: 4095})[0, 1, 0], 4000 / 4095 * 255, atol=1e-3)
    np.testing.assert_allclose(read(narrow, "x.tif", "minmax")[0, :, 0], [0, 255])


def test_floating_point(read):
    values = np.array([[0, 0.25, 1.0]], np.float32)
    np.testing.assert_allclose(read(Image.fromarray(values), "x.tif")[0, :, 0], [0, 63.75, 255])
    np.testing.assert_allclose(read(Image.fromarray(values * 200), "x.tif")[0, :, 0], [0, 50, 200])
    for wrong in (values * 1000, values - 0.5):
        with pytest.raises(DataError, match=r"'x.tif' has floating-point pixels.*expected 0…1 or 0…255.*minmax"):
            read(Image.fromarray(wrong), "x.tif")
    with pytest.raises(DataError, match="not finite"):
        read(Image.fromarray(np.array([[0, np.nan]], np.float32)), "x.tif", "minmax")


def test_minmax_by_image(read):
    np.testing.assert_allclose(read(RAMP // 2 + 3, intensity="minmax")[:, :, 0], RAMP / 220 * 255, atol=1.2)
    np.testing.assert_allclose(read(deep(900) + 7, intensity="minmax")[:, :, 0], deep(900) / 900 * 255, atol=1e-3)
    assert (read(np.full((2, 2), 9, np.uint8), intensity="minmax") == 0).all()


@pytest.mark.parametrize(("name", "orientation"), [(n, o) for n in ("x.jpg", "x.png", "x.tif") for o in range(1, 9)])
def test_orientation_is_honoured_once(read, name, orientation):
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8] = 250  # top left
    upright[8:, :16] = 90
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that undoes each
    stored = Image.fromarray(upright)
    if orientation in back:
        stored = stored.transpose(back[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read(stored, name, exif=exif)
    np.testing.assert_allclose(pixels[:, :, 0].astype(int), upright, atol=12)


def test_orientation_of_sixteen_bits(read):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = deep(65535)
    pixels = read(values, "x.png", exif=exif)
    np.testing.assert_allclose(pixels[:, :, 0], np.rot90(values, -1) / 65535 * 255, atol=1e-3)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.bmp"])
def test_truncated_images_are_named(tmp_path, name):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for share in (0.3, 0.6, 0.9):
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(DataError, match=rf"file '{name}' "):
            FileImages(tmp_path, (name,)).read(0)


def test_damaged_bytes_are_read_or_refused_but_never_crash(tmp_path):
    random = np.random.default_rng(1)
    for name in ("x.png", "x.jpg", "x.tif", "x.bmp"):
        Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            for place in random.integers(26, len(content), 6):  # width and height stay, else some are of 100 megapixels
                damaged[place] = random.integers(256)
            (tmp_path / name).write_bytes(damaged)
            with contextlib.suppress(DataError):
                FileImages(tmp_path, (name,)).read(0)


def test_what_is_no_image(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    Image.fromarray(RAMP).save(tmp_path / "x.ico")
    for name in ("empty.png", "text.png", "x.ico"):
        with pytest.raises(DataError, match=f"file '{name}' is not a PNG, JPEG, TIFF, BMP, WebP, GIF or JPEG 2000"):
            FileImages(tmp_path, (name,)).read(0)
    for ask in (FileImages.key, FileImages.read):
        with pytest.raises(DataError, match=r"file 'gone.png' in .* cannot be read: No such file"):
            ask(FileImages(tmp_path, ("gone.png",)), 0)


def bomb(side):
    """A PNG header that claims to be huge."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        for body in (header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_decompression_bombs(read):
    with pytest.raises(DataError, match=r"file 'x.png' is too large"):
        read(bomb(50_000))
    with pytest.raises(DataError, match=r"file 'x.png'"):
        read(bomb(11_000))  # Pillow only warns of this one


def test_warnings_of_pillow_stay_inside(tmp_path):
    """A palette with transparency in bytes, a TIFF with a damaged tag: Pillow warns, from several threads at once."""
    image = Image.fromarray(RAMP).convert("P")
    image.save(tmp_path / "p.png", transparency=bytes([255, 3, 0] + [255] * 253))
    # 305 stands after all that the image needs: before Pillow 13, what follows a damaged tag is not read.
    Image.fromarray(RAMP).save(tmp_path / "t.tif", tiffinfo={305: "x" * 50})
    content = bytearray((tmp_path / "t.tif").read_bytes())
    place = content.find(struct.pack("<HH", 305, 2))
    content[place + 4 : place + 8] = struct.pack("<I", 10**6)  # a count beyond the file
    (tmp_path / "t.tif").write_bytes(content)
    with (
        pytest.warns(UserWarning, match="Truncated File Read|Tag data larger than file"),
        Image.open(tmp_path / "t.tif") as opened,
    ):
        opened.load()
    before = list(warnings.filters)
    images = FileImages(tmp_path, ("p.png", "t.tif") * 50)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(images.read, range(len(images))))
    assert warnings.filters == before
    assert all((read[row] == read[row % 2]).all() for row in range(100))


def test_key_is_of_the_files_bytes(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    images = FileImages(tmp_path, ("a.png", "b.png"))
    assert images.key(0) == images.key(1) == file_key((tmp_path / "a.png").read_bytes())
    again = pickle.loads(pickle.dumps(images))  # noqa: S301 - what a spawned worker does
    np.testing.assert_array_equal(again.read(1), images.read(0))
    assert again.describe(1) == "file 'b.png'"


def test_text_chunks_and_pages_do_no_harm(read, tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "x" * 1000)
    np.testing.assert_array_equal(read(RAMP, pnginfo=notes)[:, :, 0], RAMP)
    pages = [Image.fromarray(RAMP), Image.fromarray(255 - RAMP)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(FileImages(tmp_path, ("pages.tif",)).read(0)[:, :, 0], RAMP)


def test_real_images(shared):
    names = ("busi_256/benign/benign_001.png", "wbc_two_sources/tecom/lymphocyte/tecom_001.png")
    images = FileImages(shared / "data", names)
    assert [images.read(row).shape for row in range(2)] == [(256, 256, 1), (120, 120, 3)]
