"""What a DICOM file says before any of its images is read: how many there are, whose, and of what kind."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from secrets import token_bytes
from typing import BinaryIO

from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from ..quiet import quiet_decoders

__all__ = ["PREAMBLE", "has_magic", "read_facts"]

PREAMBLE = 128
_MAGIC = b"DICM"
_NO_PREAMBLE = "have no preamble ('DICM' at byte 128) and are read as their elements say"
_OTHER_ENCODING = "are encoded otherwise than their transfer syntax says and are read as they are encoded"

_FRAMES = Tag("NumberOfFrames")
_FACTS: list[BaseTag | int] = [_FRAMES, *map(Tag, ("PatientID", "IssuerOfPatientID", "SOPClassUID", "ImageType"))]
_SECRET = token_bytes(32)
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# In a study, but no image of it, by the SOP class or how it begins: shown as one, they would teach what somebody drew.
# Of radiotherapy, portal images (481.1) and what they are called now (481.23, 481.24) are images.
_IMAGES = ("481.1", "481.23", "481.24")
_NO_IMAGES = {
    "66.4": "segmentations",
    "66.5": "segmentations",
    "66.7": "segmentations",
    "481.2": "radiotherapy doses",
    "481.": "radiotherapy structures and plans",
    "11.": "presentation states",
    "88.": "reports",
    "104.": "documents in DICOM",
    "66": "raw data and registrations",
    "67": "raw data and registrations",
    "9.": "waveforms",
    "30": "parametric maps",
}


def read_facts(path: Path) -> tuple[int, bytes, str | None, str | None]:
    """Return the frames that a file declares, a code of its patient, what it is if no image of a study, its oddity.

    As little of the file is read as can be. What makes no sense is 1 frame, no patient and an image: what is wrong with
    a file is said when it is read. The code is keyed with a secret of this process, and is all that is kept.
    """
    try:
        with path.open("rb") as file, quiet_decoders:
            bare = not has_magic(file)
            start = read_partial(file, stop_when=lambda tag, *_: tag > _FRAMES, force=True, specific_tags=_FACTS)
        frames = int(start.get("NumberOfFrames") or 1)
        frames = frames if 1 <= frames <= path.stat().st_size else 1
        odd = _NO_PREAMBLE if bare else _OTHER_ENCODING if _is_otherwise(path, start) else None
        return frames, _patient(start), _no_image_of_study(start), odd
    except Exception:  # noqa: BLE001 - a damaged file makes pydicom raise nearly anything
        return 1, b"", None, None


def has_magic(file: BinaryIO) -> bool:
    """Tell whether a file has a preamble, and go back to its beginning."""
    start = file.read(PREAMBLE + len(_MAGIC))
    file.seek(0)
    return start[PREAMBLE:] == _MAGIC


def _is_otherwise(path: Path, start: FileDataset) -> bool:
    """Tell whether the first element after the meta group has a VR where it declares none, or none where it does."""
    syntax, meta = start.file_meta.get("TransferSyntaxUID"), start.file_meta.get("FileMetaInformationGroupLength")
    if syntax is None or meta is None or syntax.is_deflated:
        return False
    with path.open("rb") as file:
        # The length counts from behind the twelve bytes that it stands in itself; a tag of four bytes goes before a VR.
        file.seek(PREAMBLE + len(_MAGIC) + 12 + meta + 4)
        return bool(file.read(2).isalpha() == syntax.is_implicit_VR)


def _patient(start: Dataset) -> bytes:
    said = str(start.get("PatientID") or "").strip()
    issuer = str(start.get("IssuerOfPatientID") or "").strip()
    return blake2b(f"{issuer}|{said}".encode(), key=_SECRET, digest_size=16).digest() if said else b""


def _no_image_of_study(start: Dataset) -> str | None:
    storage = str(start.get("SOPClassUID") or "").removeprefix(_STORAGE)
    if storage not in _IMAGES:
        for begins, what in _NO_IMAGES.items():
            if storage == begins or (begins.endswith(".") and storage.startswith(begins)):
                return what
    return "localizers" if "LOCALIZER" in (start.get("ImageType") or ()) else None
