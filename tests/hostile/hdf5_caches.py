"""HDF5 caches made to harm: the SHA-256 in the user block is right, so that only the check meant for each stands there.

``HDF5``: name → (make(path, a folder outside), the sentence that refuses it).
"""

import io
import json
import os
import struct
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"
MANIFEST = (GOLDEN / "format1.zarr/manifest.json").read_bytes()
SEAL = json.loads((GOLDEN / "format1.zarr/seal.json").read_bytes())


def golden_arrays():
    with h5py.File(GOLDEN / "format1.h5") as file:
        return {
            f"{group}/{name}": file[group][name][:] for group in file if group != "manifest" for name in file[group]
        }


def seal(path, block=None, padding=b""):
    """Write the user block that vouches for whatever the body is."""
    content = path.read_bytes()
    honest = {"medal_cache": SEAL, "body_sha256": sha256(content[1024:]).hexdigest()}
    text = block if block is not None else json.dumps(honest).encode() + b"\n"
    path.write_bytes((text + padding).ljust(1024, b"\0")[:1024] + content[1024:])


def nothing(_file, _outside):
    pass


def made(change=nothing, leave_out=(), manifest=MANIFEST, user_block=1024, after=None, **sealing):
    """Return a maker of the golden cache with something else in it."""

    def make(path: Path, outside: Path):
        with h5py.File(path, "w", userblock_size=user_block, libver=("earliest", "latest")) as file:
            for name, array in golden_arrays().items():
                if name not in leave_out:
                    file.create_dataset(name, data=array, track_times=False)
            if manifest is not None:
                file.create_dataset("manifest", data=np.frombuffer(manifest, np.uint8), track_times=False)
            change(file, outside)
        if after:
            path.write_bytes(after(path.read_bytes()))
        seal(path, **sealing)

    return make


def instead_of_label(put, **more):
    return made(put, leave_out=("val/label",), **more)


def plain(name, **how):
    """Return a change that stores an array in an unusual way."""

    def put(file, _outside):
        settings = {"data": golden_arrays()[name], **how}
        file.create_dataset(name, **settings)

    return put


def external_link(file, outside):
    with h5py.File(outside / "other.h5", "w") as other:
        other["label"] = golden_arrays()["val/label"]
    file["val/label"] = h5py.ExternalLink(str(outside / "other.h5"), "label")


def hard_link(file, _outside):
    file["val/label"] = file["test/label"]


def cycle(file, _outside):
    file["val/label"] = file["val"]


def virtual(file, outside):
    layout = h5py.VirtualLayout(shape=(3,), dtype="<i4")
    layout[:] = h5py.VirtualSource(str(outside / "other.h5"), "label", shape=(3,))
    file.create_virtual_dataset("val/label", layout)


def external_storage(file, outside):
    file.create_dataset("val/label", shape=(3,), dtype="<i4", external=[(str(outside / "secret"), 0, 12)])


def compact(file, _outside):
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_layout(h5py.h5d.COMPACT)
    label = golden_arrays()["val/label"]
    space, kind = h5py.h5s.create_simple(label.shape), h5py.h5t.py_create(label.dtype)
    h5py.h5d.create(file["val"].id, b"label", kind, space, how).write(h5py.h5s.ALL, h5py.h5s.ALL, label)


def committed(file, _outside):
    file["val/fold"] = np.dtype("<i4")
    file.create_dataset("val/label", data=golden_arrays()["val/label"], dtype=file["val/fold"])
    del file["val/fold"]


def named_type(file, _outside):
    file["val/label"] = np.dtype("<i4")


def never_written(file, _outside):
    file.create_dataset("val/label", shape=(1 << 45,), dtype="<i4")


def many_objects(file, _outside):
    for index in range(3000):
        file["val"].create_group(f"g{index}")


def attribute(name, value):
    return made(lambda file, _: file[name].attrs.__setitem__("note", value))


def overlapping(content):
    """Point one array's storage at another's; the addresses count from the user block's end."""
    with h5py.File(io.BytesIO(content)) as file:
        one, other = (file[name].id.get_offset() - 1024 for name in ("val/label", "test/label"))
    old, new = struct.pack("<QQ", one, 12), struct.pack("<QQ", other, 12)
    if content.count(old) != 1:
        raise RuntimeError("the address to be changed is not where it was")
    return content.replace(old, new)


def superblock(offset, value):
    return lambda content: content[: 1024 + offset] + value + content[1024 + offset + len(value) :]


def pipe(path, _outside):
    os.mkfifo(path)


def folder(path, _outside):
    path.mkdir()


def link_to_secret(path, outside):
    path.symlink_to(outside / "secret")


def bare(content):
    def make(path, _outside):
        path.write_bytes(bytes(1024) + content)
        seal(path)

    return make


def huge(path, _outside):
    made()(path, None)
    os.truncate(path, 100_000_000)
    seal(path)


REFUSED = "was refused before it was opened: "
BLOCK = b'{"medal_cache":{"format":1},"body_sha256":"' + b"0" * 64 + b'"'
OBJECTS = np.array(["text"], dtype=h5py.string_dtype())
RECORDS = np.zeros(3, [("a", "<i4")])
HDF5 = {
    "external link": (instead_of_label(external_link), REFUSED + "'val/label' is an external link to another file"),
    "soft link": (
        instead_of_label(lambda f, _: f.__setitem__("val/label", h5py.SoftLink("/test/label"))),
        REFUSED + "'val/label' is a soft link",
    ),
    "soft link to nothing": (
        made(lambda f, _: (f.__delitem__("probe"), f.__setitem__("probe", h5py.SoftLink("/x")))),
        REFUSED + "'probe' is a soft link",
    ),
    "hard link": (instead_of_label(hard_link), REFUSED + "'test/label' is linked 2 times"),
    "cycle": (instead_of_label(cycle), REFUSED + "'val' is linked 2 times"),
    "virtual dataset": (instead_of_label(virtual), REFUSED + "'val/label' is a virtual dataset"),
    "external storage": (instead_of_label(external_storage), REFUSED + "'val/label' keeps its bytes in another file"),
    "gzip": (instead_of_label(plain("val/label", compression="gzip")), REFUSED + "'val/label' goes through 1 filter"),
    "three filters": (
        instead_of_label(plain("val/label", compression="lzf", shuffle=True, fletcher32=True)),
        REFUSED + "'val/label' goes through 3 filters",
    ),
    "chunks": (instead_of_label(plain("val/label", chunks=(1,))), REFUSED + "'val/label' is chunked"),
    "endless array": (instead_of_label(plain("val/label", maxshape=(None,))), REFUSED + "'val/label' is chunked"),
    "compact": (instead_of_label(compact), REFUSED + "'val/label' is compact"),
    "committed type": (
        made(committed, leave_out=("val/label", "val/fold")),
        REFUSED + "'val/label' has a data type that is not",
    ),
    "named type": (instead_of_label(named_type), REFUSED + "'val/label' is no array"),
    "text objects": (instead_of_label(plain("val/label", data=OBJECTS)), REFUSED + "'val/label' has a data type"),
    "references": (
        instead_of_label(plain("val/label", data=None, shape=(3,), dtype=h5py.ref_dtype)),
        REFUSED + "'val/label' has a data type",
    ),
    "records": (instead_of_label(plain("val/label", data=RECORDS)), REFUSED + "'val/label' has a data type"),
    "big-endian": (instead_of_label(plain("val/label", dtype=">i4")), REFUSED + "'val/label' has a data type"),
    "enumeration": (instead_of_label(plain("val/label", data=np.zeros(3, bool))), REFUSED + "'val/label' has a data"),
    "one number": (instead_of_label(plain("val/label", data=np.int32(3))), REFUSED + "'val/label' has no shape"),
    "no number": (instead_of_label(plain("val/label", data=h5py.Empty("<i4"))), REFUSED + "'val/label' has no shape"),
    "absurd shape": (instead_of_label(never_written), REFUSED + r"'val/label' stores 0 bytes; its shape \(351843720"),
    "overlapping arrays": (made(after=overlapping), REFUSED + "the bytes of '(val|test)/label' overlap those of"),
    "attribute of the file": (attribute("/", "x"), REFUSED + "'/' has attributes"),
    "attribute of a group": (attribute("train", "x"), REFUSED + "'train' has attributes"),
    "attribute of an array": (attribute("train/key", np.zeros(8000)), REFUSED + "'train/key' has attributes"),
    "strange array": (
        made(lambda f, _: f.create_dataset("x\x1b", data=[1]), manifest=None),
        REFUSED + r"'x\\x1b' does not belong to a cache",
    ),
    "one group more": (made(lambda f, _: f.create_group("more")), REFUSED + "'/' holds 6 objects; expected at most 5"),
    "strange group": (made(lambda f, _: f.create_group("pixels"), manifest=None), REFUSED + "'pixels' does not belong"),
    "thousands of objects": (made(many_objects), REFUSED + "'val' holds 30[0-9]+ objects; expected at most 9"),
    "group for an array": (
        instead_of_label(lambda f, _: f.create_group("val/label")),
        REFUSED + "'val/label' is no arr",
    ),
    "array for a group": (
        made(lambda f, _: (f.__delitem__("val"), f.create_dataset("val", data=[1]))),
        REFUSED + "'val' is no group",
    ),
    "huge manifest": (made(manifest=b" " * (5 << 20)), REFUSED + "'manifest' should be at most 4194304 bytes"),
    "manifest of text": (
        made(lambda f, _: f.create_dataset("manifest", data="x"), manifest=None),
        REFUSED + "'manifest' has a data type",
    ),
    "no manifest": (made(manifest=None), "KeyError.*manifest"),
    "other manifest": (made(manifest=MANIFEST + b" "), "The manifest is not the one that was sealed"),
    "array missing": (made(leave_out=("val/label",)), "Array 'val/label' is missing"),
    "wrong shape": (
        instead_of_label(plain("val/label", data=np.zeros(4, "<i4"))),
        r"'val/label' should be int32 of sha",
    ),
    "wrong dtype": (
        instead_of_label(plain("val/label", data=np.zeros(3, "<i2"))),
        "'val/label' should be .* got int16",
    ),
    "wrong numbers": (
        instead_of_label(plain("val/label", data=np.ones(3, "<i4"))),
        "'val/label' does not have its seal",
    ),
    "hidden bytes": (huge, "The file is 100000000 bytes long; expected at most"),
    "other user block": (made(user_block=2048), REFUSED + "its user block is 2048 bytes long; expected 1024"),
    "second file in front": (made(padding=bytes(16) + b"\x89HDF\r\n\x1a\n"), "not one JSON line followed by zeros"),
    "user block of pickle": (made(block=b"\x80\x04cos\nsystem\n."), "(JSON|zeros)"),
    "deep user block": (made(block=b"[" * 1000 + b"\n"), "The user block is nested deeper than 32"),
    "more in the user block": (made(block=BLOCK + b',"x":1}\n'), "should only hold medal_cache and body_sha256"),
    "newer user block": (
        made(block=BLOCK.replace(b'"format":1', b'"format":9,"medal":"8.0"') + b',"x":1}\n'),
        "format 9; this medal reads format 1. Read it with medal 8.0",
    ),
    "no HDF5": (bare(b"not HDF5" * 1000), REFUSED + "libhdf5 cannot read it"),
    "half a superblock": (bare(b"\x89HDF\r\n\x1a\n"), REFUSED + "libhdf5 cannot read it"),
    "superblock of tomorrow": (made(after=superblock(8, b"\xff")), REFUSED + "libhdf5 cannot read it .*superblock"),
    "end behind the end": (made(after=superblock(40, b"\xff" * 6)), REFUSED + "libhdf5 cannot read it"),
    "root nowhere": (made(after=superblock(64, b"\xff\xff\xff\xff\0\0\0\0")), REFUSED + "libhdf5 cannot read it"),
    "pipe": (pipe, "should be a file, because its name ends in .h5"),
    "folder": (folder, "should be a file, because its name ends in .h5"),
    "link to a secret": (link_to_secret, "(is damaged|has no seal)"),
}
