"""Threads: as many as this process may really use, none that wait for others, and no bits that depend on how many."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import transformers

from medal.cache.machine.processors import group_quota, usable_processors
from medal.pipeline import threads
from medal.pipeline.teacher.forms.huggingface import backbone_of
from medal.pipeline.teacher.teacher import Teacher
from medal.pipeline.threads import quick_threads, quickest_threads, side_by_side
from medal.pipeline.views.preprocessing import Preprocessing


def run(script, **environment):
    """Run a script in a process of its own and return what it says."""
    free = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "SLURM_"))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=free | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


COUNT = "from medal.cache.machine.processors import usable_processors as f; print(f())"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_is_obeyed_by_readers_and_by_torch():
    first = min(os.sched_getaffinity(0))
    pinned = f"import os; os.sched_setaffinity(0, {{{first}}}); "
    allowed = "from medal.pipeline.threads import allowed_threads as g; print(g())"
    assert run(pinned + COUNT + "; " + allowed).split() == ["1", "1"]


def test_a_slurm_job_gets_what_it_asked_for():
    assert run(COUNT, SLURM_CPUS_PER_TASK="1") == "1"
    assert run(COUNT, SLURM_CPUS_PER_TASK="100000") == run(COUNT)
    assert 1 <= usable_processors() <= os.cpu_count()


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({"job/step": "150000 100000"}, 1.5),
        ({"job": "200000 100000", "job/step": "max 100000"}, 2),
        ({"job": "50000 100000", "job/step": "400000 100000"}, 0.5),
        ({"job/step": "max 100000"}, 0),
        ({"other": "100000 100000"}, 0),
    ],
)
def test_the_tightest_quota_of_the_groups_around_counts(quotas, expected, tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("1:cpu:/\n0::/job/step\n")
    (tmp_path / "sys/job/step").mkdir(parents=True)
    for group, quota in quotas.items():
        (tmp_path / "sys" / group).mkdir(exist_ok=True)
        (tmp_path / "sys" / group / "cpu.max").write_text(quota + "\n")
    assert group_quota(tmp_path / "sys", own) == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert group_quota(tmp_path, tmp_path / "absent") == 0
    (tmp_path / "cgroup").write_text("1:cpu:/\n")
    assert group_quota(tmp_path, tmp_path / "cgroup") == 0


COMMAND = "import sys; sys.argv = ['medal', '--help']; from medal.cli import main as begin"
LIBRARY = "import medal; begin = lambda: medal.open_cache"


@pytest.mark.parametrize("begin", [COMMAND, LIBRARY])
def test_threads_wait_passively_unless_the_user_says_otherwise(begin):
    script = f"""{begin}
import os
try:
    begin()
except SystemExit:
    pass
print(os.environ['OMP_WAIT_POLICY'])"""
    assert run(script).endswith("PASSIVE")
    assert run(script, OMP_WAIT_POLICY="ACTIVE").endswith("ACTIVE")


@pytest.fixture
def four(monkeypatch):
    """Four threads of torch, which nobody has asked for."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "usable_processors", lambda: 4)
    with threads.threads_restored():
        torch.set_num_threads(4)
        yield


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("pace", "expected"), [(lambda n: n, 1), (lambda n: 4 / n, 4), (lambda n: 1 + 3 * (n != 2), 2)]
)
def test_the_count_that_is_quickest_by_the_clock_is_taken(pace, expected):
    assert quickest_threads(lambda: time.sleep(0.05 * pace(torch.get_num_threads()))) == expected
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_what_the_user_says_is_not_measured(name, monkeypatch):
    monkeypatch.setenv(name, "3")
    monkeypatch.setattr(threads, "usable_processors", lambda: 1)
    with threads.threads_restored():
        torch.set_num_threads(3)
        assert quickest_threads(lambda: pytest.fail("measured")) == threads.allowed_threads() == 3


@pytest.mark.usefixtures("four")
def test_blas_and_torch_get_the_count_and_have_their_own_back():
    from threadpoolctl import threadpool_info

    before = [pool["num_threads"] for pool in threadpool_info()]
    with quick_threads():
        inside = torch.get_num_threads()
        assert {pool["num_threads"] for pool in threadpool_info()} == {inside}
    assert [pool["num_threads"] for pool in threadpool_info()] == before


@pytest.mark.usefixtures("four")
def test_parts_are_computed_in_their_order_each_on_one_thread():
    assert side_by_side(lambda part: (part, torch.get_num_threads()), range(9)) == [(part, 1) for part in range(9)]
    assert torch.get_num_threads() == 4
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 / part, [1, 0])
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(("precision", "feature"), [("fp32", "cls+mean"), ("bf16", "last4")])
def test_the_number_of_threads_changes_no_bits_of_a_feature(precision, feature):
    config = transformers.Dinov2Config(hidden_size=48, num_hidden_layers=4, num_attention_heads=2, image_size=56)
    torch.manual_seed(0)
    model = transformers.Dinov2Model(config).eval().requires_grad_(False)
    files = SimpleNamespace(config=config.to_dict(), name="random")
    teacher = Teacher(backbone_of(model), files, feature=feature, precision=precision, device="cpu")
    pixels = torch.rand(14, 3, 56, 56, generator=torch.Generator().manual_seed(0)) * 255
    said = {}
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        said[count] = teacher.features(pixels, Preprocessing(image_size=56)).tobytes()
    assert len(set(said.values())) == 1
