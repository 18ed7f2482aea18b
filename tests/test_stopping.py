"""Stage two stopped by a scheduler: no finished epoch is lost, the message names the signal, a requeued job goes on."""

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from forks import Forks
from safetensors import safe_open
from student_squares import same_bits, stopping_at, train


def epochs_kept(path):
    with safe_open(path, "pt") as file:
        return len(json.loads(file.metadata()["training"])["history"])


@pytest.mark.parametrize("last", [1, 2])
def test_an_epoch_that_is_finished_is_kept_however_fresh_the_checkpoint(squares, tmp_path, last):
    with pytest.raises(KeyboardInterrupt):
        train(squares, tmp_path / "run", stopping_at(f"epoch {last}/"))
    assert epochs_kept(tmp_path / "run.unfinished/checkpoint.safetensors") == last
    heard = []
    train(squares, tmp_path / "run", heard.append)
    assert f"resuming after epoch {last} of 3" in heard
    assert same_bits(squares / "run", tmp_path / "run")


def test_what_breaks_off_in_the_middle_of_an_epoch_keeps_the_one_before(squares, tmp_path, monkeypatch):
    from medal.student.training import steps

    honest, calls = steps.apply_views, []

    def stop(pixels, params):
        calls.append(len(pixels))
        if len(calls) == 5:  # of three batches an epoch
            raise KeyboardInterrupt
        return honest(pixels, params)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "apply_views", stop)
        with pytest.raises(KeyboardInterrupt):
            train(squares, tmp_path / "run")
    assert epochs_kept(tmp_path / "run.unfinished/checkpoint.safetensors") == 1
    train(squares, tmp_path / "run")
    assert same_bits(squares / "run", tmp_path / "run")


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_is_named_and_every_epoch_that_was_said_is_kept(squares, tmp_path, sent, status):
    forks = Forks()  # of its own, as in the tests of forks
    words = ["train-student", squares / "squares.zarr", squares / "squares.npz", "--out", tmp_path / "run"]
    words += ["--student", "test_resnet", "--image-size", 32, "--precision", "fp32", "--epochs", 4000]
    checkpoint = tmp_path / "run.unfinished/plan.json"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(forks.run, [str(word) for word in words], tmp_path, dict(os.environ))
        while not checkpoint.exists():
            assert not running.done(), running.result().stderr
            time.sleep(0.01)
        time.sleep(1)
        for _ in range(3):  # schedulers repeat themselves
            os.kill(forks.child, sent)
        done = running.result()
    forks.close()
    assert done.returncode == status, done.stderr
    said = f"medal: Stopped by {sent.name}; every finished epoch is kept. Continue with: medal train-student"
    assert done.stderr.splitlines()[-1].startswith(said)
    assert "Traceback" not in done.stderr
    told = [int(number) for number in re.findall(r"^epoch (\d+)/", done.stderr, re.MULTILINE)]
    assert epochs_kept(tmp_path / "run.unfinished/checkpoint.safetensors") in (told[-1], told[-1] + 1)


def test_a_finished_command_that_is_given_again_has_nothing_to_do(squares, terminal, tmp_path):
    words = ["train-student", squares / "squares.zarr", squares / "squares.npz", "--out", tmp_path / "run"]
    words += ["--student", "test_resnet", "--image-size", 32, "--precision", "fp32", "--epochs", 1]
    first, again, foreseen = terminal(*words), terminal(*words), terminal(*words, "--dry-run")
    assert [one.returncode for one in (first, again, foreseen)] == [0, 0, 0], again.stderr
    assert again.stdout.startswith(f"Nothing to do: found '{tmp_path / 'run'}'")
    assert again.stdout.splitlines()[1:] == first.stdout.splitlines()[1:]
    assert "epoch 1/" not in again.stderr
    assert foreseen.stdout == f"Nothing to do: '{tmp_path / 'run'}' is finished.\n"
    assert [item.name for item in tmp_path.iterdir()] == ["run"]
