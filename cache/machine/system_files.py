"""Files that operating systems and file servers leave in folders; medal ignores them everywhere."""

from __future__ import annotations

import re

__all__ = ["is_nobodys", "is_system_file", "is_system_folder"]

# macOS (its Finder, and `._NAME` beside each file on foreign disks), Windows (which writes names in any case), KDE,
# what NFS, FUSE and SMB call a file that was removed while somebody had it open, what Synology keeps of an upload, what
# office programs lock a document with, and the directory of a DICOM disc.
_FILES = re.compile(
    r"\.DS_Store|\._.+|\.localized|\.apdisk|Icon\r|thumbs\.db|ehthumbs(_vista)?\.db|desktop\.ini|\.directory"
    r"|\.nfs.+|\.fuse_hidden.+|\.smbdelete.+|.+@SynoEAStream|.+@SynoResource|~\$.+|dicomdir",
    re.IGNORECASE,
)
# Synology and QNAP, snapshots of NetApp, ZFS and Btrfs, ext4, zip files that macOS packed, and rubbish bins.
_FOLDERS = re.compile(
    r"@eaDir|@tmp|@sharebin|#recycle|#snapshot|~snapshot|@Recycle|@Recently-Snapshot|\.@__thumb|\.snapshots?|\.zfs|lost\+found|__MACOSX"
    r"|\.AppleDouble|\.Spotlight-V100|\.fseventsd|\.TemporaryItems|\.Trashes|\.Trash-\d+|\$RECYCLE\.BIN"
    r"|RECYCLER|System Volume Information|Network Trash Folder|Temporary Items|\.thumbnails",
    re.IGNORECASE,
)


def is_system_file(name: str) -> bool:
    """Tell whether a file of this name comes from the operating system and can be ignored."""
    return _FILES.fullmatch(name) is not None


def is_system_folder(name: str) -> bool:
    """Tell whether a folder of this name is the operating system's or the file server's, with all that is in it."""
    return _FOLDERS.fullmatch(name) is not None


def is_nobodys(name: str) -> bool:
    """Tell whether a file of this name cannot be one of the user's images: it is a system file, or hidden."""
    return name.startswith(".") or is_system_file(name) or is_system_folder(name)
