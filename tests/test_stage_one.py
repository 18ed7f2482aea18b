"""`medal cache-teacher` from the outside: the real teacher, real images, real kills."""

import json
import shlex
import shutil
import subprocess
import sys

import drawn
import numpy as np
import pytest
import zarr
from PIL import Image
from safetensors.numpy import load_file, save_file

from medal.cache.errors import (
    CacheCorrupt,
    CacheError,
    CacheIncomplete,
    CacheMismatch,
    CacheNotFound,
    DataError,
    TeacherError,
)
from medal.cache.making.work import WorkDirectory, work_path
from medal.cache.making.writer import write_cache
from medal.cache.reader import open_cache
from medal.cache.verify import verify
from medal.pipeline.caching import assembly
from medal.pipeline.features import compute
from medal.pipeline.teacher.demo import tiny_teacher


def test_a_sealed_cache_that_verifies(small_cache, medal):
    cache = open_cache(small_cache)
    assert verify(cache) == []
    assert dict(cache.manifest.rows) == {"train": 180, "val": 60, "test": 60}
    assert cache.read("train", "feature").shape == (180, 1, 5 * 48)
    assert set(np.unique(cache.read("train", "fold"))) == {0, 1, 2, 3, 4}
    assert (cache.read("test", "fold") == -1).all()
    np.testing.assert_allclose(cache.read("val", "logits").sum(-1), 0, atol=1e-4)
    shown = medal("show", small_cache)
    assert shown["content_digest"] == cache.content_digest
    assert shown["teacher"]["name"] == "drawn-dinov2"


def test_the_real_teacher_on_real_chest_x_rays(pneumonia, real_teacher, medal, tmp_path):
    with np.load(pneumonia) as real:
        counts = {f"{split}_{kind}": n for split, n in drawn.SIZES.items() for kind in ("images", "labels")}
        np.savez(tmp_path / "chest.npz", **{name: real[name][:n] for name, n in counts.items()})
    words = ("--teacher", real_teacher, "--image-size", 56, "--batch-size", 16)
    made = medal("cache-teacher", tmp_path / "chest.npz", tmp_path / "chest.zarr", *words)
    assert made["teacher"]["test"]["auroc"] > 0.85
    cache = open_cache(tmp_path / "chest.zarr")
    assert verify(cache) == []
    assert cache.read("train", "feature").shape == (180, 1, 5 * 384)
    checked = medal("verify", cache.path, tmp_path / "chest.npz", "--sample", 40, "--teacher", real_teacher)
    assert (checked["ok"], checked["sample"]["images"]) == (True, 40)
    assert checked["sample"]["min_cosine"] > 0.9999


def test_both_forms_hold_the_same(small_cache, small_npz, small_request, medal, tmp_path):
    made = medal("cache-teacher", small_npz, tmp_path / "chest.h5", *small_request)
    assert made["action"] == "create"
    assert made["computed"] == 300
    assert made["content_digest"] == open_cache(small_cache).content_digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chest.h5"]


def test_the_version_of_medal_changes_neither_id_nor_content(
    small_cache, small_npz, small_request, medal, tmp_path, monkeypatch
):
    """A cache says which version made it; what it is found by, and what it holds, is the same for all of them."""
    for module in (assembly, compute):
        monkeypatch.setattr(module, "version", lambda _: "0.0.1")
    out = tmp_path / "chest.h5"
    medal("cache-teacher", small_npz, out, *small_request)
    monkeypatch.undo()
    old, now = open_cache(out), open_cache(small_cache)
    assert old.manifest.raw["medal"] == "0.0.1" != now.manifest.raw["medal"]
    assert (old.cache_id, old.content_digest) == (now.cache_id, now.content_digest)
    assert medal("cache-teacher", small_npz, out, *small_request)["action"] == "reuse"


def test_asking_again_reuses_without_torch(small_cache, small_npz, small_request):
    code = (
        "import sys\nfrom medal.cli import group\n"
        "group.main(sys.argv[1:], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    words = ["cache-teacher", small_npz, small_cache, *small_request, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["action"], result["computed"], result["kept"]) == ("reuse", 0, 300)


def test_row_order_does_not_matter(small_cache, small_npz, small_request, medal, tmp_path):
    shuffled = tmp_path / "other-name.npz"
    random = np.random.default_rng(0)
    with np.load(small_npz) as real:
        arrays = dict(real)
    for split in ("train", "val", "test"):
        order = random.permutation(len(arrays[f"{split}_labels"]))
        for kind in ("images", "labels"):
            arrays[f"{split}_{kind}"] = arrays[f"{split}_{kind}"][order]
    np.savez(shuffled, **arrays)
    assert medal("cache-teacher", shuffled, small_cache, *small_request)["action"] == "reuse"


def test_another_request_is_refused_and_says_what_differs(small_cache, small_npz, teacher, medal):
    with pytest.raises(CacheMismatch, match=r"preprocessing.image_size \(56, asked for: 42\).*--overwrite"):
        medal("cache-teacher", small_npz, small_cache, "--teacher", teacher, "--image-size", 42)
    assert verify(open_cache(small_cache)) == []


def test_overwrite_replaces_only_what_is_asked(small_cache, small_npz, small_request, medal, tmp_path):
    copy = tmp_path / "copy.zarr"
    shutil.copytree(small_cache, copy)
    made = medal("cache-teacher", small_npz, copy, *small_request, "--limit", 40, "--overwrite")
    assert (made["action"], made["rows"]) == ("create", {"train": 40, "val": 40, "test": 40})
    assert list(tmp_path.iterdir()) == [copy]


def test_something_else_at_the_target_is_left_alone(small_npz, small_request, medal, tmp_path):
    notes = tmp_path / "notes.zarr"
    notes.mkdir()
    (notes / "diary.txt").write_text("mine")
    with pytest.raises(CacheMismatch, match="not a sealed cache"):
        medal("cache-teacher", small_npz, notes, *small_request)
    assert (notes / "diary.txt").read_text() == "mine"


def test_overwrite_never_loses_what_is_not_medals(small_cache, small_npz, small_request, medal, tmp_path):
    mixed, foreign, store = (tmp_path / name for name in ("mixed.zarr", "foreign.h5", "store.zarr"))
    shutil.copytree(small_cache, mixed)
    (mixed / "diary.txt").write_text("mine")
    foreign.write_text("mine")
    zarr.create_array(str(store / "scans"), data=np.arange(5))  # names as in a cache, and still somebody's own
    (store / "zarr.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for target in (mixed, foreign, store):
        for words in (
            ("cache-teacher", small_npz, target, *small_request, "--limit", 40),
            ("convert", small_cache, target),
        ):
            with pytest.raises(CacheMismatch, match=r"--overwrite would delete"):
                medal(*words, "--overwrite")
        with pytest.raises(CacheError, match=r"[^,] Give another OUT\.$"):
            medal("cache-teacher", small_npz, target, *small_request)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_overwrite_replaces_what_is_medals_and_damaged(suffix, small_cache, medal, tmp_path):
    target = tmp_path / f"chest{suffix}"
    medal("convert", small_cache, target)
    if suffix == ".h5":
        target.write_bytes(target.read_bytes()[:-1000])
    else:
        (target / "seal.json").unlink()
        (target / ".DS_Store").touch()
    medal("convert", small_cache, target, "--overwrite")
    assert verify(open_cache(target)) == []
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_no_cache_says_what_it_is(small_npz, small_request, medal, tmp_path):
    run, out = tmp_path / "first", tmp_path / "out.zarr"
    run.mkdir()
    (run / "run.json").write_text("{}")
    with pytest.raises(CacheError, match=r"first' is a run of `medal train-student`, not a cache; .*metrics.json"):
        medal("show", run)
    with pytest.raises(CacheError, match=r"chest.npz' is not a cache: .* the cache comes first"):
        medal("train-student", small_npz, out, "--out", tmp_path / "run")
    with pytest.raises(CacheError, match=r"for instance 'out.h5'\.$"):
        medal("cache-teacher", small_npz, tmp_path / "out.hdf5", *small_request)
    WorkDirectory(work_path(out)).begin({"cache_id": "x"})
    with pytest.raises(
        CacheNotFound, match=r"There is no cache at '.*' yet: .*Continue with .* cache-teacher DATASET .*out"
    ):
        medal("train-student", out, small_npz, "--out", tmp_path / "run")
    with pytest.raises(CacheError, match=r"out.zarr.work' is unfinished work .* whose OUT is '.*out.zarr'\.$"):
        medal("show", work_path(out))


def test_a_cache_of_another_writer_need_not_have_figures(small_cache, small_npz, small_request, medal, shell, tmp_path):
    out = tmp_path / "chest.zarr"
    cache = open_cache(small_cache)
    with cache.open_arrays() as arrays:
        probe = {name: value for name, value in cache.manifest.probe.items() if name != "metrics"}
        write_cache(out, arrays, {**cache.manifest.raw, "probe": probe})
    made = medal("cache-teacher", small_npz, out, *small_request)
    assert (made["action"], made["teacher"]) == ("reuse", {"val": None, "test": None})
    told = shell("cache-teacher", small_npz, out, *small_request)
    assert told.returncode == 0, told.stderr
    assert "teacher's probe" not in told.stdout


def test_what_comes_next_names_the_columns(tmp_path, shell):
    table, out = tmp_path / "my scans.csv", tmp_path / "out.zarr"
    lines = ["file,label,split,the fold"]
    for index in range(24):
        draw = np.random.default_rng(index).integers(0, 255, (20, 20), np.uint8)
        Image.fromarray(draw).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{'ab'[index % 2]},day {index % 5},{('train', 'val', 'test')[index // 2 % 3]}")
    table.write_text("\n".join(lines))
    tiny = tiny_teacher(tmp_path)
    made = shell("cache-teacher", table, out, "--teacher", tiny, "--image-size", 28, "--split-column", "the fold")
    assert made.returncode == 0, made.stderr
    (following,) = [line.removeprefix("Next: medal ") for line in made.stdout.splitlines() if line.startswith("Next: ")]
    assert following.endswith("--split-column 'the fold'")
    again = shell(*shlex.split(following), "--dry-run", "--student", "test_resnet", "--image-size", 32, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "are in another split" not in again.stderr


def test_sixteen_bit_images_are_scaled_by_their_range(teacher, medal, tmp_path):
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name, offset in (("dark", 0), ("light", 30000)):
            (tmp_path / "deep" / split / name).mkdir(parents=True)
            for index in range(6):
                pixels = (random.integers(0, 20000, (20, 24)) + offset).astype(np.uint16)
                Image.fromarray(pixels).save(tmp_path / "deep" / split / name / f"{index}.png")
    made = medal("cache-teacher", tmp_path / "deep", tmp_path / "d.h5", "--teacher", teacher, "--image-size", 56)
    assert made["teacher"]["test"]["auroc"] == 1.0


def test_a_teacher_that_computes_nonsense(small_npz, teacher, medal, tmp_path):
    broken = tmp_path / "broken-teacher"
    shutil.copytree(teacher, broken)
    (broken / "model.safetensors").chmod(0o644)
    tensors = load_file(broken / "model.safetensors")
    tensors["layernorm.weight"] = tensors["layernorm.weight"] * np.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TeacherError, match=r"broken-teacher.*NaN"):
        medal("cache-teacher", small_npz, tmp_path / "x.zarr", "--teacher", broken, "--image-size", 56)
    assert list(tmp_path.iterdir()) == [broken]


def test_a_rare_class_names_its_remedy(cells, teacher, medal, tmp_path):
    table = cells
    rows = table.read_text().splitlines()
    basophils = [row for row in rows if ",basophil," in row]
    few = tmp_path / "few.csv"
    few.write_text("\n".join([row for row in rows if row not in basophils[1:]]).replace("\n", f"\n{table.parent}/"))
    with pytest.raises(DataError, match=r"'basophil' \(1\).*--exclude-class basophil"):
        medal("cache-teacher", few, tmp_path / "w.zarr", "--teacher", teacher)
    assert list(tmp_path.iterdir()) == [few]


def test_a_class_rarer_than_the_folds_shrinks_them(cells, small_request, shell, tmp_path):
    done = shell("cache-teacher", cells, tmp_path / "w.zarr", *small_request, "--json")
    assert done.returncode == 0, done.stderr
    assert "class 'basophil' has only 2 train samples: the 5 folds shrink to 2" in done.stderr
    assert "--exclude-class basophil" in done.stderr
    assert open_cache(tmp_path / "w.zarr").manifest.size.probes == 3


def test_dry_run_says_what_would_happen(small_npz, small_cache, small_request, medal, tmp_path):
    out = tmp_path / "d.zarr"
    said = medal("cache-teacher", small_npz, out, *small_request, "--dry-run")
    assert said["action"] == "create"
    assert said["seconds"] > 0
    sealed = sum(array.nbytes for array in _all_arrays(small_cache))
    assert 0.9 < said["bytes"] / sealed < 1.1
    assert list(tmp_path.iterdir()) == []


def _all_arrays(path):
    with open_cache(path).open_arrays() as arrays:
        return [rows[:] for rows in arrays.values()]


def test_the_command_line_prints_one_sentence(small_cache, shell, tmp_path):
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(small_cache, damaged)
    chunk = next((damaged / "train/logits").rglob("c/0/0/0"))
    content = bytearray(chunk.read_bytes())
    content[100] ^= 4
    chunk.write_bytes(content)
    done = shell("verify", damaged)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "Array 'train/logits' does not have its sealed SHA-256.\n"
    with pytest.raises(CacheCorrupt, match="'train/logits'"):
        open_cache(damaged).read("train", "logits")
    done = shell("cache-teacher", tmp_path / "nowhere", tmp_path / "o.zarr")
    assert done.returncode == 1
    assert done.stderr.startswith("medal: ")
    assert "Traceback" not in done.stderr
    assert shell("cache-teacher", "--no-such-option").returncode == 2


def test_a_damaged_cache_is_noticed_and_made_anew(small_cache, small_npz, small_request, medal, tmp_path):
    damaged = tmp_path / "chest.zarr"
    shutil.copytree(small_cache, damaged)
    chunk = next(file for file in (damaged / "val/feature/c").rglob("*") if file.is_file())
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(content)
    made = medal("cache-teacher", small_npz, damaged, *small_request, "--overwrite")
    assert (made["action"], made["computed"]) == ("create", 300)
    chunk.unlink()
    with pytest.raises(CacheCorrupt, match=r"holds a damaged cache.*--overwrite"):
        medal("cache-teacher", small_npz, damaged, *small_request)
    assert not list(tmp_path.glob("*.work"))


def test_a_lost_image_folder_keeps_what_is_done(teacher, medal, tmp_path):
    folder = drawn.save_pictures(tmp_path / "scans", {"a": 12, "b": 12}, ("train", "val", "test"))
    out = tmp_path / "scans.zarr"
    # In fp32 every image is read once; bf16, which an older chip would not take, is tried on a sample before.
    options = ("--teacher", teacher, "--image-size", 56, "--batch-size", 2, "--precision", "fp32")
    from medal.pipeline.datasets.pixels.files import FileImages

    original, reads = FileImages.read, []

    def read(self, row):
        # The share goes away under a running process: the files are there when listed and gone when read.
        reads.append(row)
        if len(reads) == 22:
            folder.rename(tmp_path / "away")
        return original(self, row)

    FileImages.read = read
    try:
        with pytest.raises(CacheIncomplete, match=r"Stopped by the file system .*images are finished and kept"):
            medal("cache-teacher", folder, out, *options)
    finally:
        FileImages.read = original
    (tmp_path / "away").rename(folder)
    made = medal("cache-teacher", folder, out, *options)
    assert made["action"] == "resume"
    assert made["kept"] + made["computed"] == 24


def test_misuse_of_numbers_is_misuse(shell, small_npz):
    for words in (("--seed", -1), ("--batch-size", 0), ("--limit", 0)):
        done = shell("cache-teacher", small_npz, "x.zarr", *words)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
