"""One student trained by two ranks under torchrun: the student of one process, a rank killed, what is refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import student_squares
import torch
from safetensors.torch import load_file
from student_squares import CLASSES, draw_arrays, hold, seal, teach

from medal.cache.errors import StudentError
from medal.student.network.parallel import ALONE, Ranks
from medal.student.run.folder import CHECKPOINT, work_folder

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
QUICK = ("--student", "test_resnet", "--image-size", 32, "--batch-size", 16, "--precision", "fp32")
# Sums over two ranks are in another order, and AdamW turns rounding of gradients near zero into steps. Measured after
# nine steps: 1e-5 in logits, 2e-6 in the loss of an epoch.
LOGITS, LOSS = 1e-3, 1e-4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A set of 45 train images, so that the shares of two ranks are unequal."""
    folder = tmp_path_factory.mktemp("squares")
    arrays = {name: array[:45] for name, array in draw_arrays().items()}
    np.savez(folder / "squares.npz", **arrays)
    dataset = hold(arrays)
    seal(folder / "squares.zarr", dataset, teach(dataset))
    return folder


@pytest.fixture(scope="module")
def alone(place, tmp_path_factory):
    """The run of one process, with one thread as each rank has."""
    run, threads = tmp_path_factory.mktemp("alone") / "run", torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        student_squares.train(place, run)
    finally:
        torch.set_num_threads(threads)
    return run


def start(place, out, *words, epochs=3):
    words = (place / "squares.zarr", place / "squares.npz", "--out", out, *QUICK, "--epochs", epochs, *words)
    return subprocess.Popen(
        [sys.executable, *TORCHRUN, "2", "-m", "medal", "train-student", *map(str, words), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ONE_THREAD,
    )


def finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert len(lines) == 1  # rank 0 alone speaks
    return json.loads(lines[0])


def read(run):
    """Return a run's metrics, logits, losses and weights."""
    with (run / "predictions.csv").open() as file:
        logits = [[float(row[f"logit:{name}"]) for name in CLASSES] for row in csv.DictReader(file)]
    with (run / "history.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    metrics = json.loads((run / "metrics.json").read_text())
    return metrics, np.array(logits), losses, load_file(run / "model.safetensors")


def test_two_ranks_train_the_student_of_one_process(place, alone, tmp_path):
    result = finish(start(place, tmp_path / "both"))
    metrics, logits, losses, weights = read(alone)
    other_metrics, other_logits, other_losses, other_weights = read(tmp_path / "both")
    np.testing.assert_allclose(other_logits, logits, atol=LOGITS)
    np.testing.assert_allclose(other_losses, losses, atol=LOSS)
    assert len(losses) == 3
    for split in ("val", "test"):
        assert other_metrics[split]["auroc"] == pytest.approx(metrics[split]["auroc"], abs=0.02)  # two of 128 pairs
        assert result[split]["n"] == 24
    # Statistics of batch normalisation are of whole batches: of half of each, they would be off by hundredths.
    statistics = [name for name in weights if name.endswith(("running_mean", "running_var"))]
    assert statistics
    for name in statistics:
        torch.testing.assert_close(other_weights[name], weights[name], atol=1e-4, rtol=1e-3)
    assert json.loads((tmp_path / "both/run.json").read_text())["trained_on"][0]["ranks"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both"]


@pytest.mark.slow
@pytest.mark.parametrize("teach", ["probe", "ensemble"])
def test_ranks_train_all_members_of_a_run(teach, place, tmp_path):
    result = finish(start(place, tmp_path / "both", "--seeds", 2, "--baseline", "--teach", teach))
    assert [len(result["seeds"]), len(result["baseline"]["seeds"])] == [2, 2]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = student_squares.train(place, tmp_path / "one", seeds=2, baseline=True, teach=teach)
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(alone["seeds"], result["seeds"], strict=True):
        assert other["seed"] == one["seed"]
        assert other["test"]["auroc"] == pytest.approx(one["test"]["auroc"], abs=0.02)


@pytest.mark.slow
def test_every_rank_of_a_script_has_the_result(place, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, medal\n"
        "made = medal.train_student(*sys.argv[1:], student='test_resnet', image_size=32, epochs=1, precision='fp32')\n"
        "open(f'{made.run}.{medal.__name__}', 'a').write(f'{made.test}\\n')\n"
    )
    words = map(str, (script, place / "squares.zarr", place / "squares.npz", tmp_path / "run"))
    done = subprocess.run(
        [sys.executable, *TORCHRUN, "2", *words], capture_output=True, text=True, env=ONE_THREAD, check=False
    )
    assert done.returncode == 0, done.stderr
    one, other = (tmp_path / "run.medal").read_text().splitlines()
    assert one == other


@pytest.mark.slow
def test_a_finished_run_is_refused_once_and_ends_all_ranks(place, alone):
    attempt = start(place, alone, epochs=7)  # with its own settings there is nothing to do
    _, told = attempt.communicate(timeout=240)
    assert attempt.returncode != 0
    assert told.count("medal: ") == 1
    assert "--overwrite" in told


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(place, tmp_path):
    out = tmp_path / "run"
    attempt = start(place, out, epochs=4000)
    deadline = time.monotonic() + 200
    while not (work_folder(out) / CHECKPOINT).exists():
        assert time.monotonic() < deadline
        assert attempt.poll() is None, attempt.communicate()[1]
        time.sleep(0.1)
    listed = ["ps", "-o", "pid=", "--ppid", str(attempt.pid)]
    ranks = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    of_one = [pid for pid in ranks if b"RANK=1" in Path("/proc", pid, "environ").read_bytes().split(b"\0")]
    os.kill(int(of_one[0]), signal.SIGKILL)
    attempt.communicate(timeout=200)
    assert attempt.returncode != 0
    assert not out.exists()
    again = start(place, out, epochs=4000)
    while (line := again.stderr.readline()) and "resuming after epoch" not in line:
        pass
    assert "resuming after epoch" in line
    os.kill(again.pid, signal.SIGTERM)
    again.communicate(timeout=200)


def test_shares_of_a_batch_have_no_gaps():
    rows = np.arange(7)
    shares = [rows[Ranks(rank, 3).share(7)] for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate(shares), rows)
    assert {len(share) for share in shares} == {2, 3}
    assert ALONE.share(7) == slice(0, 7)


def test_batches_smaller_than_the_ranks_are_refused():
    Ranks(0, 3).check(3)
    with pytest.raises(StudentError, match="A batch of 2 images is too few for 3 ranks; raise --batch-size"):
        Ranks(0, 3).check(2)
