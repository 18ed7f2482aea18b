"""Zarr caches made to harm: each is sealed as it should be, so that only the check meant for it stands in the way.

``ZARR``: name → (spoil(path of a copy of the golden cache, a folder outside of it), the sentence that refuses it).
"""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"
COLUMNS = ("key", "label", "logits", "view", "view_check", "domain", "group", "fold", "feature")


def canonical(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def seal_of(manifest: bytes, raw: dict) -> dict:
    """A right seal of any manifest that looks like one."""
    lines = sorted(
        f"{path} {entry['dtype']} {','.join(map(str, entry['shape']))} {entry['sha256']}\n"
        for path, entry in raw.get("arrays", {}).items()
    )
    content = sha256("".join(lines).encode()).hexdigest()
    return {"format": 1, "content_digest": content, "manifest_sha256": sha256(manifest).hexdigest()}


def golden_manifest() -> dict:
    return json.loads((GOLDEN / "format1.zarr/manifest.json").read_bytes())


def edit_json(name, **changes):
    def spoil(path: Path, _outside: Path):
        file = path / name
        raw = json.loads(file.read_bytes())
        file.write_text(json.dumps({**raw, **changes}))

    return spoil


def edit_manifest(change):
    """Change the manifest and seal the cache again."""

    def spoil(path: Path, _outside: Path):
        raw = golden_manifest()
        manifest = change(raw)
        manifest = manifest if isinstance(manifest, bytes) else canonical(raw)
        (path / "manifest.json").write_bytes(manifest)
        (path / "seal.json").write_bytes(canonical(seal_of(manifest, raw)))

    return spoil


def set_in(raw, *path_and_value):
    *path, last, value = path_and_value
    for part in path:
        raw = raw[part]
    raw[last] = value


def absurd_rows(raw):
    set_in(raw, "dataset", "rows", "train", 4_000_000_000)
    for name in COLUMNS:
        raw["arrays"][f"train/{name}"]["shape"][0] = 4_000_000_000


def absurd_rows_everywhere(path, outside):
    """Manifest and metadata agree on a petabyte; only the files on disk do not."""
    edit_manifest(absurd_rows)(path, outside)
    for name in COLUMNS:
        file = path / "train" / name / "zarr.json"
        raw = json.loads(file.read_bytes())
        raw["shape"][0] = 4_000_000_000
        file.write_text(json.dumps(raw))


def link_file(path, outside):
    (path / "train/label/c/0").unlink()
    (path / "train/label/c/0").symlink_to(outside / "secret")


def link_folder(path, outside):
    shutil.rmtree(path / "train/label/c")
    (path / "train/label/c").symlink_to(outside, target_is_directory=True)


def link_manifest(path, outside):
    shutil.move(path / "manifest.json", outside / "manifest.json")
    (path / "manifest.json").symlink_to(outside / "manifest.json")


def pipe_chunk(path, _outside):
    (path / "train/label/c/0").unlink()
    os.mkfifo(path / "train/label/c/0")


def pipe_seal(path, _outside):
    (path / "seal.json").unlink()
    os.mkfifo(path / "seal.json")


def write(name, content):
    def spoil(path, _outside):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)

    return spoil


def sparse(name, size):
    def spoil(path, _outside):
        os.truncate(path / name, size)

    return spoil


def folder_for_file(path, _outside):
    (path / "val/label/c/0").unlink()
    (path / "val/label/c/0").mkdir()


def file_for_folder(path, _outside):
    shutil.rmtree(path / "val/label/c")
    (path / "val/label/c").write_bytes(b"")


def one_huge_chunk(path, _outside):
    raw = json.loads((path / "val/label/zarr.json").read_bytes())
    set_in(raw, "chunk_grid", "configuration", "chunk_shape", [1 << 40])
    (path / "val/label/zarr.json").write_text(json.dumps(raw))


def many_files(path, _outside):
    for index in range(5000):
        (path / f"val/label/c/x{index}").write_bytes(b"")


def values(name, dtype, *numbers):
    """Other numbers in an array of one chunk, with all digests made right."""

    def spoil(path, outside):
        chunk = path / name / "c"
        while chunk.is_dir():
            chunk = chunk / "0"
        content = np.array(numbers, dtype).tobytes()
        if len(content) != chunk.stat().st_size:
            raise RuntimeError(f"{name} takes {chunk.stat().st_size} bytes")
        chunk.write_bytes(content)
        edit_manifest(lambda m: set_in(m, "arrays", name, "sha256", sha256(content).hexdigest()))(path, outside)

    return spoil


PICKLE = (
    b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R."
)
GZIP = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "gzip", "configuration": {"level": 1}}]
LABEL = "val/label/zarr.json"
ZARR = {
    "link to a file": (link_file, "'train/label/c/0' is a symbolic link"),
    "link to a folder": (link_folder, "'train/label/c' is a symbolic link"),
    "link for a manifest": (link_manifest, "The manifest is a symbolic link"),
    "pipe for a chunk": (pipe_chunk, "'train/label/c/0' is a pipe, socket or device"),
    "pipe for a seal": (pipe_seal, "The seal is a pipe, socket or device"),
    "strange file": (write("train/extra.pkl", PICKLE), "'train/extra.pkl' does not belong to a cache"),
    "strange folder": (write("pixels/0", b"image"), "'pixels' does not belong to a cache"),
    "strange chunk": (write("val/label/c/7", b""), "'val/label/c/7' does not belong to a cache"),
    "chunk by another name": (write("val/label/c/00", b""), "'val/label/c/00' does not belong to a cache"),
    "name that steers a terminal": (write("\x1b[2J", b""), r"'\\x1b\[2J' does not belong to a cache"),
    "thousands of files": (many_files, r"'val/label/c/x\d+' does not belong to a cache"),
    "array of version 2": (write("val/label/.zarray", b"{}"), "'val/label/.zarray' belongs to version 2 of Zarr"),
    "folder for a chunk": (folder_for_file, "'val/label/c/0' is a folder where a file should be"),
    "file for chunks": (file_for_folder, "'val/label/c' is a file where a folder should be"),
    "terabyte of nothing": (sparse("val/label/c/0", 1 << 40), "'val/label/c/0' is 1099511627776 bytes long"),
    "huge metadata": (sparse(LABEL, 1 << 40), "file 'val/label/zarr.json' is 1099511627776 bytes long"),
    "huge seal": (sparse("seal.json", 1 << 40), "The seal is 1099511627776 bytes long"),
    "huge manifest": (sparse("manifest.json", 1 << 40), "The manifest is 1099511627776 bytes long"),
    "compression": (edit_json(LABEL, codecs=GZIP), "expected codec 'bytes' alone .*, got .*gzip"),
    "pickle codec": (edit_json(LABEL, codecs=[{"name": "numcodecs.pickle"}]), "expected codec 'bytes' alone .*pickle"),
    "big-endian": (
        edit_json("val/group/zarr.json", codecs=[{"name": "bytes", "configuration": {"endian": "big"}}]),
        "'val/group': expected codec 'bytes' alone",
    ),
    "object dtype": (edit_json(LABEL, data_type="variable_length_bytes"), "expected data type 'int32', got 'variable"),
    "other dtype": (edit_json(LABEL, data_type={"name": "numpy.datetime64"}), "expected data type 'int32', got {'name"),
    "fill value": (edit_json(LABEL, fill_value=7), "expected fill value 0, got 7"),
    "key encoding": (
        edit_json(LABEL, chunk_key_encoding={"name": "v2", "configuration": {"separator": "/"}}),
        "expected the default chunk key encoding",
    ),
    "chunk path": (
        edit_json(LABEL, chunk_key_encoding={"name": "default", "configuration": {"separator": "/../"}}),
        "expected the default chunk key encoding, got .*/../",
    ),
    "transformers": (edit_json(LABEL, storage_transformers=[{"name": "x"}]), "no metadata .*storage_transformers"),
    "attributes": (edit_json(LABEL, attributes={"x": "y"}), "expected no attributes"),
    "irregular grid": (edit_json(LABEL, chunk_grid={"name": "rectilinear"}), "expected a regular grid"),
    "huge chunk": (one_huge_chunk, "expected chunks of 1 to 3 rows, got 1099511627776"),
    "absurd shape": (edit_json(LABEL, shape=[1 << 50]), r"expected shape \[3\], got \[1125899906842624\]"),
    "negative shape": (edit_json(LABEL, shape=[-3]), r"expected shape \[3\], got \[-3\]"),
    "format 2 metadata": (edit_json(LABEL, zarr_format=2), "expected Zarr format 3, got 2"),
    "group for an array": (edit_json(LABEL, node_type="group"), "expected node type 'array', got 'group'"),
    "consolidated group": (edit_json("zarr.json", consolidated_metadata={"kind": "inline"}), "describe a plain group"),
    "deep metadata": (write(LABEL, b'{"a":' + b"[" * 30000 + b"]" * 30000 + b"}"), "'val/label/zarr.json' is nested"),
    "rows without files": (absurd_rows_everywhere, "'train/domain' lacks [0-9]+ of its [0-9]+ chunks"),
    # Sound bytes that mean something impossible.
    "label of no class": (values("train/label", "<i4", 0, 1, 0, 1, 0, 7), "Labels of 'train' lie outside -1…1"),
    "probe of no fold": (values("train/fold", "i1", 0, 1, 0, 1, 0, 100), "Column 'fold' of 'train' lies outside -1…1"),
    "domain of no name": (values("val/domain", "<i2", 0, -2, 1), "Column 'domain' of 'val' lies outside -1…1"),
    "no number": (values("train/logits", "<f4", *[np.nan] * 12), "Array 'train/logits' holds values that are not fin"),
    "endless logits": (values("val/logits", "<f4", *[3e38] * 6), "Logits of 'val' differ from feature"),
    "endless features": (values("val/feature", "<f2", *[np.inf] * 12), "Array 'val/feature' holds values that are not"),
    "bias of no size": (values("probe/bias", "<f4", *[-3e38] * 6), "Logits of 'train' differ from feature"),
    # The manifest's, the same in both forms.
    "absurd rows": (edit_manifest(absurd_rows), r"expected shape \[4000000000\], got \[6\]"),
    "rows beyond bounds": (
        edit_manifest(lambda m: set_in(m, "dataset", "rows", "train", 1 << 62)),
        "'dataset.rows.train'",
    ),
    "deep manifest": (edit_manifest(lambda _: b"[" * 100_000), "The manifest is nested deeper than 32"),
    "manifest of brackets": (edit_manifest(lambda _: b"[" + b"{}," * 1_300_000 + b"{}]"), "should be a JSON object"),
    "endless number": (
        edit_manifest(lambda _: b'{"format":' + b"1" * 1_000_000 + b"}"),
        "The manifest is not valid JSON",
    ),
    "number that is infinite": (edit_manifest(lambda _: b'{"format":1,"x":1e999}'), "1e999 is too large a number"),
    "half a letter": (edit_manifest(lambda _: b'{"format":1,"x":"\\ud800"}'), "surrogates not allowed"),
    "a key twice": (edit_manifest(lambda _: b'{"format":1,"format":2}'), "a key occurs twice"),
    "path for an array": (
        edit_manifest(lambda m: m["arrays"].update({"../outside": m["arrays"].pop("val/label")})),
        "'arrays' should be",
    ),
    "a million classes": (
        edit_manifest(lambda m: set_in(m, "dataset", "classes", [str(i) for i in range(200_000)])),
        "'dataset.classes'",
    ),
    "object array": (
        edit_manifest(lambda m: set_in(m, "arrays", "val/label", "dtype", "object")),
        "'arrays.val/label' should be",
    ),
    "wrong metrics": (edit_manifest(lambda m: set_in(m, "probe", "metrics", "none")), "'probe.metrics' should be"),
    "version that is a command": (
        edit_manifest(lambda m: m.update(format=2, medal="1; rm -rf ~")),
        "Read it with a newer medal",
    ),
}
