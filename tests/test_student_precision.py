"""The measurement that chooses number format and memory layout."""

import pytest
import torch

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


def test_plan_survives_json():
    assert Plan.from_dict(FP32_FIRST.to_dict()) == FP32_FIRST
