"""Each benchmark runs and prints what its page says; no figure is judged here, where the machine may be busy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("serial")

ROOT = Path(__file__).resolve().parent.parent
FORM = {"write", "open", "verify", "join", "verify_ratio", "verify_cpu_ratio", "join_seconds", "all_seconds"}
RATIOS = {"cached_over_plain", "gain", "possible_gain", "share_of_gain"}


@pytest.fixture
def quick(tmp_path):
    def run(script):
        done = subprocess.run(
            [sys.executable, ROOT / "benchmarks" / script, "--quick"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        *table, line = done.stdout.splitlines()
        assert table
        assert not any(row.startswith("{") for row in table)
        assert list(tmp_path.iterdir()) == []
        figures = json.loads(line)
        page = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
        assert [name for name in figures if f"`{name}`" not in page] == []
        return figures

    return run


def test_cache_io(quick):
    figures = quick("cache_io.py")
    assert set(figures) == {"rows", "rounds", "raw_bytes", "plain", "zarr", "hdf5", "holds"}
    assert set(figures["zarr"]) == FORM | {"size_ratio"}
    assert set(figures["hdf5"]) == FORM | {"size_ratio", "inspect"}
    for form in ("zarr", "hdf5"):
        assert set(figures["holds"][form]) == {"verify_ratio", "join_seconds", "all_seconds", "size_ratio"}
        # Besides the arrays there are a manifest, a seal and headers: at least their few kilobytes.
        assert figures[form]["size_ratio"] > 1
        assert all(figures[form][name]["wall"] > 0 for name in ("write", "open", "verify", "join"))


def test_student_step(quick):
    figures = quick("student_step.py")
    what = {"student", "image_size", "batch_size", "device", "plan", "threads", "data", "teacher_name", "rounds"}
    turns = {"cached", "plain", "online", "teacher"}
    assert set(figures) == what | turns | {"ratios_wall", "ratios_cpu", "holds"}
    assert set(figures["ratios_wall"]) == set(figures["ratios_cpu"]) == RATIOS
    assert set(figures["holds"]) == {"cached_over_plain", "share_of_gain"}
    assert all(figures[name]["wall"] > 0 for name in turns)


def test_teacher_throughput(quick, shared):
    assert shared.is_dir()  # the common way needs an image processor's configuration
    figures = quick("teacher_throughput.py")
    what = {"teacher_name", "device", "threads", "precision", "batch_size", "images", "rounds", "torch"}
    assert set(figures) == what | {"images_per_second", "ratios", "limits", "holds", "forward_tflops", "matmul_tflops"}
    assert set(figures["images_per_second"]) == {"bare", "forward", "npz", "jpeg", "common", "common_jpeg"}
    assert all(rate > 0 for rate in figures["images_per_second"].values())
    assert set(figures["holds"]) == {"npz_over_bare", "jpeg_over_bare", "npz_over_common"}


def test_export_latency(quick):
    pytest.importorskip("onnxscript", reason="ONNX needs the extra [export]")
    pytest.importorskip("onnxruntime", reason="ONNX needs the extra [export]")
    figures = quick("export_latency.py")
    assert set(figures) == {"image_size", "batch_size", "threads", "rounds", "students"}
    for found in figures["students"].values():
        assert set(found) == {"eager", "onnx", "int8", "bytes", "difference", "ratios_wall", "ratios_cpu"}
        assert set(found["ratios_cpu"]) == {"eager_over_onnx", "eager_over_int8"}
        assert 0 < found["bytes"]["int8"] < found["bytes"]["onnx"]
        assert found["difference"] <= 1e-4


def test_audit(quick):
    figures = quick("audit.py")
    what = {"rows", "features", "threads", "planted", "pairs", "recall", "precision"}
    assert set(figures) == what | {"seconds", "cpu_seconds", "peak_bytes", "holds"}
    assert figures["recall"] == figures["precision"] == 1


def test_resident(quick):
    figures = quick("resident.py")
    what = {"student", "image_size", "batch_size", "device", "threads", "rounds"}
    assert figures.keys() >= what | {"resident", "streamed", "ratios_wall", "ratios_cpu", "equal_bits", "holds"}
    assert figures["equal_bits"]


@pytest.mark.slow  # commands in processes of their own
@pytest.mark.parametrize("script", ["memory.py", "scale.py", "small_run.py"])
def test_whole_commands(quick, script):
    quick(script)


@pytest.mark.slow  # all of the above, and a compiler
def test_gpu(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    words = [ROOT / "benchmarks/gpu.sh", "--tiny"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    figures = json.loads(line)
    parts = [figures[name] for name in ("teachers", "students", "online", "agreeing", "ranks")]
    assert not any("failed" in part for part in parts), figures
    assert figures["agreeing"]["features_cosine"] == pytest.approx(1)


@pytest.mark.slow  # four commands in processes of their own
def test_audit_recall(quick):
    figures = quick("audit_recall.py")
    assert set(figures) == {"seeds", "planted", "hits", "others", "there_before", "recall", "precision", "by_kind"}
    assert figures["recall"] == figures["precision"] == 1


@pytest.mark.slow  # eight processes that load torch
def test_busy(quick):
    figures = quick("busy.py")
    assert set(figures) == {"script", "processors", "neighbours", "limit", "holds", "forward", "step"}
    for job in ("forward", "step"):
        assert figures[job]["best_fixed"] in figures[job]["seconds"]
        assert figures[job]["over_best"] > 0


@pytest.mark.slow  # other libraries convert the model
def test_peers_of_the_forward_pass(quick):
    figures = quick("peers/forward.py")
    assert {"transformers", "medal fp32"} <= set(figures["peers"])
    assert figures["peers"]["medal fp32"]["min_cosine"] > 0.9999
