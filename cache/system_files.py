"""What operating systems and file servers leave in folders unasked: nobody's data, anywhere that medal looks."""

from __future__ import annotations

import re

__all__ = ["is_system_file", "is_system_folder"]

# macOS (its Finder, and `._NAME` beside each file on foreign disks), Windows (which writes names in any case), KDE,
# what NFS, FUSE and SMB call a file that was removed while somebody had it open, and what Synology keeps of an upload.
_FILES = re.compile(
    r"\.DS_Store|\._.+|\.localized|\.apdisk|Icon\r|thumbs\.db|ehthumbs(_vista)?\.db|desktop\.ini|\.directory"
    r"|\.nfs.+|\.fuse_hidden.+|\.smbdelete.+|.+@SynoEAStream|.+@SynoResource",
    re.IGNORECASE,
)
# Synology and QNAP, snapshots of NetApp, ZFS and Btrfs, ext4, zip files that macOS packed, and rubbish bins.
_FOLDERS = re.compile(
    r"@eaDir|#recycle|#snapshot|@Recycle|@Recently-Snapshot|\.@__thumb|\.snapshots?|\.zfs|lost\+found|__MACOSX"
    r"|\.AppleDouble|\.Spotlight-V100|\.fseventsd|\.TemporaryItems|\.Trashes|\.Trash-\d+|\$RECYCLE\.BIN"
    r"|System Volume Information",
    re.IGNORECASE,
)


def is_system_file(name: str) -> bool:
    """Tell whether a file of this name comes from the operating system: it means nothing, and nobody misses it."""
    return _FILES.fullmatch(name) is not None


def is_system_folder(name: str) -> bool:
    """Tell whether a folder of this name is the operating system's or the file server's, with all that is in it."""
    return _FOLDERS.fullmatch(name) is not None
