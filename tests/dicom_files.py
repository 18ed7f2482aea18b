"""DICOM files, written with pydicom, and what its tests share. Used by test_dicom*.py through `runpy`.

Where pydicom is not installed, those are skipped.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medal.pipeline.datasets.pixels.files import FileImages

pytest.importorskip("pydicom", "3.0", reason="DICOM needs the extra [dicom]")

# Names that are marked as unused are handed on to the tests, so that one place asks whether pydicom is there.
from pydicom import dcmread  # noqa: F401
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame  # noqa: F401
from pydicom.pixels import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,  # noqa: F401
    JPEGBaseline8Bit,
    JPEGLosslessSV1,  # noqa: F401
    JPEGLSLossless,  # noqa: F401
    RLELossless,  # noqa: F401
    generate_uid,
)

# Big enough to tell rows from columns, small enough to be calculated by hand.
RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
HU = np.array([[-1024, -500, 0], [40, 240, 3071]], np.int16)
DEEP = (np.arange(12, dtype=np.uint16).reshape(3, 4) * 372).clip(0, 4095)  # 0…4092
NATIVE = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
PATIENT = "Tulkinghorn^Josiah"
# Of `shape` an array has (F, H, W), (H, W, 3) … ; these say what its numbers mean.
GREY, COLOUR = "MONOCHROME2", "RGB"


def make(pixels, bits=None, encoding="explicit", frames=False, **elements):
    """Return a data set around pixels: (H, W) or (H, W, 3), and one dimension more before them if `frames`."""
    pixels = np.asarray(pixels)
    shape = pixels.shape[1:] if frames else pixels.shape
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = NATIVE[encoding]
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.StudyDate = PATIENT, "B-7", "18521001"
    if frames:
        ds.NumberOfFrames = len(pixels)
    ds.Rows, ds.Columns = shape[:2]
    ds.SamplesPerPixel = 3 if len(shape) == 3 else 1
    ds.PhotometricInterpretation = COLOUR if len(shape) == 3 else GREY
    if len(shape) == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in elements.items():
        setattr(ds, name, value)
    order = ">" if encoding == "big endian" else "<"
    content = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    ds.PixelData = content + b"\0" * (len(content) % 2)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated <= 8 and encoding != "implicit" else "OW"
    return ds


def save(ds, path):
    """Write a data set as a file, in the encoding that it names."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def lut(entries, bits, first=0, packed=False):
    """Return a one-item sequence with a lookup table."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    if packed:
        item.add_new("LUTData", "OW", np.asarray(entries, "u1").tobytes())
    else:
        item.add_new("LUTData", "US", [int(value) for value in entries])
    return [item]


def palette(colours, bits, first=0, wide=None):
    """Return the elements of a palette (N, 3); `wide` entries take two bytes."""
    colours = np.asarray(colours)
    elements = {}
    for place, name in enumerate(("Red", "Green", "Blue")):
        content = colours[:, place].astype("<u2" if wide or (wide is None and bits == 16) else "u1").tobytes()
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [len(colours), first, bits]
        elements[f"{name}PaletteColorLookupTableData"] = content + b"\0" * (len(content) % 2)
    return elements


def jpeg(picture, *segments, jfif=True, **options):
    """Return a baseline JPEG of a picture, with these segments, and with or without the one that Pillow writes."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=100, subsampling=0, **options)
    content = file.getvalue()
    length = int.from_bytes(content[4:6], "big")
    return content[:2] + b"".join(segments) + (content[2:] if jfif else content[4 + length :])


def adobe(transform):
    """Return the segment in which Adobe's writers say how colours were transformed: 0 not, 1 to YCbCr."""
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])


def enclose(ds, codes, syntax=JPEGBaseline8Bit):
    """Put compressed frames into a data set."""
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(list(codes))
    ds["PixelData"].VR = "OB"
    return ds


def window(values, centre, width):
    """The linear window of PS3.3 C.11.2.1.2.1, onto 0…255."""
    values = np.asarray(values, float)
    inside = ((values - (centre - 0.5)) / (width - 1) + 0.5) * 255
    below, above = values <= centre - 0.5 - (width - 1) / 2, values > centre - 0.5 + (width - 1) / 2
    return np.where(below, 0, np.where(above, 255, inside))


def bundled(name):
    """Find a file that ships with pydicom."""
    return Path(get_testdata_file(name, download=False))


def open_bundled(name):
    """Open a file that ships with pydicom as the one image of a folder."""
    return FileImages(bundled(name).parent, (name,))


def decodes(syntax):
    """Skip where no decoder of a compressed transfer syntax is installed."""
    there = "pylibjpeg" in get_decoder(syntax).available_plugins
    return pytest.mark.skipif(not there, reason=f"no decoder of {syntax.name} is installed")


def read(folder, source, intensity="declared", asked=None, row=0, frames=(), **elements):
    """Write a data set, or an array with its elements, and read an image back through `FileImages`."""
    ds = source if isinstance(source, Dataset) else make(source, **elements)
    save(ds, folder / "x.dcm")
    pixels = FileImages(folder, ("x.dcm",) * max(1, len(frames)), intensity, frames, asked).read(row)
    assert pixels.ndim == 3
    assert pixels.shape[2] in (1, 3)
    assert pixels.flags.writeable
    assert pixels.dtype in (np.uint8, np.float32)
    return pixels


def close(pixels, expected, atol=1e-3):
    """Compare deep grey pixels with a reference."""
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[:, :, 0], expected, atol=atol)
