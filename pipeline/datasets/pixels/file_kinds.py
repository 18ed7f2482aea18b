"""What a file is, by its name and, where that does not say, by its first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

__all__ = ["DOCUMENTS", "IMAGES", "VOLUMES", "FileKind", "kind_of_content", "kind_of_name", "stem_of", "suffix_of"]

FileKind = Literal["picture", "dicom", "volume", "document", "other", "unknown"]
IMAGES: tuple[FileKind, ...] = ("picture", "dicom", "volume")

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".j2k", ".jpx")
DICOM = (".dcm", ".dicom")
VOLUMES = (".nii", ".nii.gz")
# Beside images, and never one.
DOCUMENTS = (
    *(".txt", ".md", ".rst", ".rtf", ".pdf", ".doc", ".docx", ".odt", ".ppt", ".pptx", ".csv", ".tsv", ".xls"),
    *(".xlsx", ".ods", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".log", ".html"),
    *(".htm", ".css", ".js", ".py", ".ipynb", ".r", ".m", ".sh", ".bat", ".md5", ".sha1", ".sha256", ".bib"),
    *(".license", ".lnk", ".url"),
)
# Images and archives that are not read, some of which begin as a TIFF or as a picture would; copies of an editor's.
_OTHERS = (
    *(".gz", ".mha", ".mhd", ".nrrd", ".hdr", ".img", ".raw", ".mgz", ".mnc", ".vtk", ".stl", ".svs", ".ndpi"),
    *(".scn", ".mrxs", ".vms", ".qptiff", ".lsm", ".czi", ".lif", ".nd2", ".oib", ".oif", ".heic", ".heif"),
    *(".avif", ".jxl", ".psd", ".xcf", ".svg", ".eps", ".ico", ".dng", ".cr2", ".nef", ".npy", ".npz", ".mat"),
    *(".h5", ".hdf5", ".pkl", ".pt", ".pth", ".parquet", ".tfrecord", ".arrow", ".zip", ".tar", ".tgz", ".bz2"),
    *(".xz", ".7z", ".rar", ".mp4", ".avi", ".mov", ".mkv", ".wmv", ".bak", ".old", ".orig", ".tmp", ".part"),
    *(".crdownload", ".swp"),
)
_BY_SUFFIX: dict[str, FileKind] = {
    **dict.fromkeys(_OTHERS, "other"),
    **dict.fromkeys(DOCUMENTS, "document"),
    **dict.fromkeys(PICTURES, "picture"),
    **dict.fromkeys(DICOM, "dicom"),
    **dict.fromkeys(VOLUMES, "volume"),
}
# Without a suffix, by custom.
_PAPERS = frozenset({"readme", "license", "licence", "copying", "authors", "changelog", "makefile", "sha256sums"})

_DICOM_MAGIC, _PREAMBLE = b"DICM", 128
_MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"II*\0",
    b"MM\0*",
    b"GIF87a",
    b"GIF89a",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
)


def stem_of(name: str) -> str:
    """Return a file's name without folders and suffix."""
    file = name.rpartition("/")[2]
    base, dot, _ = file[:-3].rpartition(".") if _is_packed(file) else file.rpartition(".")
    return base if dot and base.strip(".") else file


def suffix_of(name: str) -> str:
    """Return a file's suffix, in lower case; a number, as in 1.2.840.113619, is none."""
    # Of a hundred thousand names: pathlib takes ten times as long, splitext twice.
    base, dot, end = name.rpartition(".")
    if not dot or not end or "/" in end or end.isdecimal() or not base.rpartition("/")[2].strip("."):
        return ""
    return ".nii.gz" if _is_packed(name) else f".{end.lower()}"


def _is_packed(name: str) -> bool:
    return name[-3:].lower() == ".gz" and name[-7:].lower() == ".nii.gz"


def kind_of_name(name: str) -> FileKind:
    """Tell what a file is by its name alone: ``unknown`` = its bytes have to be asked."""
    suffix = suffix_of(name)
    if not suffix:
        return "document" if name.rpartition("/")[2].lower() in _PAPERS else "unknown"
    return _BY_SUFFIX.get(suffix, "unknown")


def kind_of_content(path: Path) -> FileKind:
    """Tell by its first bytes whether a file is a picture or DICOM; ``other`` if it is neither or cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(_PREAMBLE + len(_DICOM_MAGIC))
    except OSError:
        return "other"
    if start[_PREAMBLE:] == _DICOM_MAGIC:
        return "dicom"
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    # Two letters begin many a text; a bitmap's are followed by its size, and two empty words.
    bitmap = start[:2] == b"BM" and start[6:10] == bytes(4)
    return "picture" if webp or bitmap or start.startswith(_MAGIC) else "other"
