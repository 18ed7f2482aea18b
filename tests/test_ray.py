"""Stage one on Ray: the same bytes as in one process, a worker killed, what is refused. One instance for the module."""

import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import click
import psutil
import pytest
import torch

from medal.cache.errors import MedalError
from medal.cache.making.work import work_path
from medal.cache.reader import open_cache
from medal.pipeline.ray.cluster import connected

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.xdist_group("serial"),
]

QUICK = ("--batch-size", 4, "--precision", "fp32")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Equal bytes are promised for equal numbers of threads; with one each, two workers have room on two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def instance():
    """A Ray of this machine alone that stays between commands."""
    with connected(None) as ray:
        yield ray
    with warnings.catch_warnings():
        # Ray does not wait for the processes that it has ended, which subprocess complains of.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def single(medal, small_npz, steady_request, tmp_path_factory):
    out = tmp_path_factory.mktemp("single") / "chest.zarr"
    return medal("cache-teacher", small_npz, out, *steady_request, *QUICK)


def workers():
    """The processes that Ray has named after our actor, of this very instance."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if one.name().startswith("ray::RayWorker"):
                found.append(one)
    return found


def kill_one(out, killed, over):
    """Kill a worker once a chunk is durable."""
    while not over.is_set():
        if any(work_path(out).glob("*-*.npy")) and (found := workers()):
            killed.append(found[0].pid)
            os.kill(found[0].pid, signal.SIGKILL)
            return
        time.sleep(0.005)


@pytest.mark.usefixtures("instance")
def test_two_workers_of_which_one_is_killed_give_the_bytes_of_one_process(
    medal, single, small_npz, steady_request, tmp_path, capfd
):
    out, killed, over = tmp_path / "chest.zarr", [], threading.Event()
    killer = threading.Thread(target=kill_one, args=(out, killed, over))
    killer.start()
    try:
        made = medal("cache-teacher", small_npz, out, *steady_request, *QUICK, "--engine", "ray")
    finally:
        over.set()
        killer.join()
    assert len(killed) == 1
    assert "a worker of the Ray cluster was lost" in capfd.readouterr().err
    assert (made["action"], made["computed"]) == ("create", 300)
    assert made["content_digest"] == single["content_digest"]
    assert list(tmp_path.iterdir()) == [out]
    computed = open_cache(out).manifest.raw["teacher"]["computed_on"]
    assert [machine["threads"] for machine in computed] == [1]
    # They go with the command, though the instance stays; Ray only asks them to.
    assert psutil.wait_procs(workers(), timeout=60)[1] == []


def connect(address):
    with connected(address):
        raise AssertionError(address)


def test_address_and_engine_go_together(medal):
    with pytest.raises(click.UsageError, match="--address is for --engine ray"):
        medal("cache-teacher", "phantom", "--address", "auto")


def test_ray_is_not_started_by_every_rank(medal, monkeypatch):
    # Each rank would start an instance of its own. The others need not be there for that to be refused.
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(click.UsageError, match="without torchrun or srun"):
        medal("cache-teacher", "phantom", "--engine", "ray")


@pytest.mark.parametrize("address", ["ray://somewhere:10001", "somewhere", ":6379", "a:b", "a:99999"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(MedalError, match="is not the address of a Ray cluster; expected HOST:PORT"):
        connect(address)


def test_an_address_where_nobody_answers_is_told_at_once():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(MedalError, match=rf"No Ray cluster answers at '{address}' .* ray start --head"):
            connect(address)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MedalError, match=r'pip install "medalmighty\[ray\]"'):
        connect(None)


@pytest.mark.usefixtures("instance")
def test_a_gpu_that_no_machine_has_is_refused(medal, small_npz, steady_request, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    words = (*steady_request, *QUICK, "--engine", "ray", "--device", "cuda")
    with pytest.raises(MedalError, match="The Ray cluster has no GPU for --device cuda"):
        medal("cache-teacher", small_npz, tmp_path / "chest.zarr", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def head(tmp_path):
    """A cluster as `ray start` makes one, with a password of its own; its address and the environment to use it in."""
    ray = Path(sys.executable).with_name("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    env |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}  # the instance of this module says otherwise
    words = ["--head", "--block", "--port", str(port), "--num-cpus", "2", "--include-dashboard", "false"]
    with tempfile.TemporaryDirectory() as folder, (tmp_path / "ray.log").open("w") as log:
        words += ["--temp-dir", folder]
        started = subprocess.Popen([ray, "start", *words], env={**os.environ, **env}, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in (told := (tmp_path / "ray.log").read_text()):
                assert time.monotonic() < deadline, told
                assert started.poll() is None, told
                time.sleep(0.2)
            yield told.partition("Local node IP: ")[2].split()[0] + f":{port}", env
        finally:
            started.terminate()
            started.wait(timeout=120)


@pytest.mark.slow
def test_a_cluster_with_an_address_gives_the_bytes_of_one_process(
    shell, single, head, small_npz, steady_request, tmp_path
):
    address, env = head
    out = tmp_path / "chest.h5"
    words = (*steady_request, *QUICK, "--engine", "ray", "--address", address)
    done = shell("cache-teacher", small_npz, out, *words, env=env)
    assert done.returncode == 0, done.stderr
    assert open_cache(out).content_digest == single["content_digest"]
    refused = shell("cache-teacher", small_npz, tmp_path / "b.h5", *words, env=env | {"RAY_AUTH_TOKEN": "b" * 64})
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert f"Ray at '{address}' cannot be used from here" in refused.stderr
