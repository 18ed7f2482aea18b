"""The measurement that chooses number format and memory layout."""

import os
import subprocess
import sys

import pytest
import timm
import torch
from dying import Dies
from torch import nn

from medal.cache.errors import StudentError
from medal.student.network.model import build_model, describe_model
from medal.student.network.speed import Plan, choose_plan, fastest_plan, measure_plans

BF16, BF16_FIRST, FP32, FP32_FIRST = (
    Plan(precision=precision, channels_last=last) for precision in ("bf16", "fp32") for last in (True, False)
)


@pytest.fixture(scope="module")
def model():
    return build_model(describe_model("test_resnet", "random"), "random", 2, 32)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDAL_HOME", str(tmp_path))
    return tmp_path


def test_measuring_leaves_model_and_generator_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    rates = measure_plans(model, 32, "cpu")
    assert set(rates) == {str(plan) for plan in (BF16, BF16_FIRST, FP32, FP32_FIRST)}
    assert min(rates.values()) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ((100, 100, 100, 100), FP32),
        ((105, 109, 100, 108), FP32),
        ((100, 130, 100, 100), BF16_FIRST),
        ((100, 60, 10, 10), BF16),
        ((10, 10, 60, 100), FP32_FIRST),
    ],
)
def test_only_a_clearly_faster_plan_is_taken(speeds, chosen):
    plans = (BF16, BF16_FIRST, FP32, FP32_FIRST)
    assert fastest_plan({str(plan): float(speed) for plan, speed in zip(plans, speeds, strict=True)}) == chosen


def test_what_was_measured_is_remembered(model, home):
    first = choose_plan(model, "test_resnet", 32, "cpu", "auto")
    assert choose_plan(model, "test_resnet", 32, "cpu", "auto") == first
    (file,) = home.rglob("*.json")
    file.write_text("nonsense")
    choose_plan(model, "test_resnet", 32, "cpu", "auto")
    assert choose_plan(model, "test_resnet", 32, "cpu", "auto")[1]


def test_a_home_that_cannot_be_written_is_no_obstacle(model, home):
    (home / "speed").touch()
    assert choose_plan(model, "test_resnet", 32, "cpu", "auto")[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fixed_precision_is_not_measured(model, home, precision):
    assert choose_plan(model, "x", 32, "cpu", precision) == (Plan(precision=precision, channels_last=True), {})
    assert not list(home.iterdir())


# ── Where channels last writes past its memory ───────────────────────────────────────────────────────────────────

# Its own process, as one that writes past its memory dies; by the vectors of this chip, and by shorter ones.
DEADLY = """
from torch import nn
from medal.student.network.speed import choose_plan
model = nn.Sequential(nn.Conv2d(3, 48, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 2))
print(*choose_plan(model, "stem", 112, "cpu", "auto")[1], sep="; ")
"""


@pytest.mark.parametrize("chip", [{}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}])
def test_a_stem_that_channels_last_would_kill_is_measured_without_it(chip, tmp_path):
    environment = {**os.environ, "MEDAL_HOME": str(tmp_path), **chip}
    done = subprocess.run([sys.executable, "-c", DEADLY], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{FP32_FIRST}; {BF16_FIRST}\n"


@pytest.mark.parametrize("name", ["mobileone_s1", "fastvit_t8", "repvgg_a0"])
def test_a_fixed_precision_of_such_a_stem_has_channels_first(name):
    model = timm.create_model(name, num_classes=2)
    assert choose_plan(model, name, 64, "cpu", "fp32")[0] == FP32_FIRST
    assert choose_plan(model, name, 64, "cuda", "bf16")[0] == BF16  # cuDNN keeps to its memory


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "efficientnet_b0", "convnext_atto"])
def test_other_networks_keep_channels_last(name):
    assert choose_plan(timm.create_model(name, num_classes=2), name, 64, "cpu", "fp32")[0] == FP32


@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "stride", "last"),
    [
        (3, 1, 1, 2, False),
        (15, 1, 1, 2, False),
        (16, 1, 1, 2, True),
        (1, 1, 1, 2, True),
        (64, 64, 1, 2, True),
        (64, 16, 1, 2, False),
        (3, 1, 3, 2, True),
        (3, 1, 1, 1, True),
    ],
)
def test_it_goes_by_the_shape_of_convolutions(channels, groups, kernel, stride, last):
    model = nn.Sequential(nn.Conv2d(channels, 64, kernel, stride=stride, groups=groups))
    assert choose_plan(model, "x", 32, "cpu", "fp32")[0].channels_last == last


def test_plan_survives_json():
    assert Plan.from_dict(FP32_FIRST.to_dict()) == FP32_FIRST


@pytest.mark.parametrize(
    ("model", "dead"),
    [(Dies("last"), {FP32, BF16}), (Dies("first", "bf16"), {FP32_FIRST, BF16, BF16_FIRST}), (Dies(), set())],
)
def test_a_plan_that_ends_its_process_is_out(model, dead):
    rates = measure_plans(model, 32, "cpu")
    assert {name for name, rate in rates.items() if not rate} == {str(plan) for plan in dead}
    assert fastest_plan(rates) not in dead


@pytest.mark.usefixtures("home")
def test_where_every_plan_dies_that_is_said():
    with pytest.raises(StudentError, match="crashes on this machine with every precision"):
        choose_plan(Dies("both"), "dies", 32, "cpu", "auto")


def test_what_cannot_be_handed_to_a_process_is_measured_in_this_one():
    class Local(nn.Sequential):
        pass

    rates = measure_plans(Local(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), 32, "cpu")
    assert min(rates.values()) > 0


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("layout", "last"), [("channels-first", False), ("channels-last", True)])
def test_a_layout_that_is_asked_for_is_taken(model, layout, last):
    assert choose_plan(model, "x", 32, "cpu", "fp32", layout)[0] == Plan(precision="fp32", channels_last=last)
    plan, rates = choose_plan(model, "x", 32, "cpu", "auto", layout)
    assert plan.channels_last is last
    assert len(rates) == 2
    # What the other layout's plans came to is remembered as well.
    assert choose_plan(model, "x", 32, "cpu", "auto")[1].items() >= rates.items()


def test_a_layout_that_corrupts_memory_is_refused():
    stem = nn.Sequential(nn.Conv2d(3, 8, 1, stride=2))
    with pytest.raises(StudentError, match="--memory-layout channels-last on a CPU"):
        choose_plan(stem, "x", 32, "cpu", "fp32", "channels-last")
