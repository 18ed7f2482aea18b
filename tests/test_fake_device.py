"""The paths of a GPU without a GPU: each step on fake tensors, nothing on the wrong device and no hidden waiting."""

import json

import numpy as np
import pytest
import timm
import torch
from fake_device import fake_device
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import Dinov2Config, Dinov2Model

from medal.cache.errors import StudentError
from medal.pipeline.teacher.fast_forward import hasten
from medal.pipeline.teacher.files import form_of, locate_teacher
from medal.pipeline.teacher.teacher import Teacher
from medal.pipeline.teacher.writing import PROCESSOR_OF_DINOV2, write_teacher
from medal.pipeline.views.policies import POLICIES, draw_views, policy_named
from medal.pipeline.views.transforms import normalise
from medal.student.network.parallel import ALONE, Ranks
from medal.student.network.resident import HeldImages, settle_images
from medal.student.network.speed import Plan
from medal.student.settings import StudentSettings
from medal.student.targets.load import SplitTargets, Targets
from medal.student.training import loop
from medal.student.training.loop import Recipe, TrainingData, begin

ROWS, CLASSES, FEATURES, SIDE, VIEWS = 26, 3, 12, 32, 3
PLAN = Plan(precision="fp32", channels_last=True)


def draw_part(task):
    random = np.random.default_rng(0)
    key = random.integers(0, 256, (ROWS, 16), dtype=np.uint8)
    several = random.integers(0, 2, (ROWS, CLASSES), dtype=np.uint8)
    label = several if task == "multilabel" else random.integers(0, CLASSES, ROWS, dtype=np.int32)
    label[::5] = 255 if task == "multilabel" else -1
    view = [draw_views(POLICIES["pathology"], key, 0, one, 0) for one in range(VIEWS)]
    return SplitTargets(
        row=np.arange(ROWS),
        key=key,
        label=label,
        logits=random.normal(size=(ROWS, VIEWS, CLASSES)).astype(np.float32),
        view=np.stack(view, 1),
        view_check=np.zeros((ROWS, VIEWS, 4), np.float32),
        group=np.full(ROWS, -1, np.int32),
        domain=np.full(ROWS, -1, np.int16),
        feature=random.normal(size=(ROWS, VIEWS, FEATURES)).astype(np.float16),
    )


def draw_data(task, held):
    targets = Targets(task, tuple(map(str, range(CLASSES))), dict.fromkeys(("train", "val"), draw_part(task)), {})
    pixels = {"train": held, "val": held}
    return TrainingData(targets=targets, pixels=pixels, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))


def take_epoch(*, task="multiclass", resident=True, plan=PLAN, policy="small", ranks=ALONE, **settings):
    """Take an epoch's three steps on a fake device; return what stood in its log after each, and at the end."""
    settings = StudentSettings(batch_size=10, epochs=2, **settings).settled()
    recipe = Recipe(settings=settings, epochs=2, policy=policy_named(policy), plan=plan, device="cuda", ranks=ranks)
    model = timm.create_model("test_resnet", num_classes=CLASSES)
    grey = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (ROWS, 1, SIDE, SIDE), dtype=np.uint8))
    after = []
    with fake_device("cuda") as device:
        pixels = settle_images(grey, "cuda", "auto" if resident else "off", 1 << 20)
        assert pixels.device.type == ("cuda" if resident else "cpu")
        data = draw_data(task, HeldImages(pixels))
        state = begin(model, recipe, FEATURES)
        device.log.clear()
        loop._train_epoch(state, ranks.wrap(state.model), data, recipe, 1, lambda _: after.append(list(device.log)))
        assert {value.device.type for value in state.tensors().values()} == {"cuda"}
        return after, list(device.log)


LOSSES = ["kd", "dkd", "dist", "mse", "feature", "kd+dkd+dist+mse+feature"]
CASES = [
    *({"loss": loss} for loss in LOSSES),
    *({"task": "multilabel", "loss": loss} for loss in LOSSES if "dkd" not in loss),
    *({"policy": policy} for policy in POLICIES),
    {"plan": Plan(precision="fp32", channels_last=False)},
    {"targets": "stored", "loss": "kd+feature"},
    {"alpha": 0.0},
    {"alpha": 1.0},
    {"alpha": (0.2, 0.5, 1.0)},
    {"alpha": (0.2, 0.5, 1.0), "task": "multilabel"},
    {"class_weight": "balanced"},
    {"class_weight": "balanced", "task": "multilabel"},
    {"sampler": "balanced"},
    {"logit_adjustment": True},
    {"recipe": "lp-ft", "average": 0.0},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_copies_nothing_and_waits_for_nothing(case):
    after, whole = take_epoch(**case)
    # All that the epoch needs is there before its first step ends; its loss is asked for once, at the end.
    assert [len(log) for log in after] == [len(after[0])] * 3
    assert set(after[0]) == {"up"}
    assert whole == [*after[0], "wait"]


def test_streamed_images_are_all_that_a_step_copies():
    after, whole = take_epoch(resident=False)
    assert after[1:] == [[*after[0], "up"], [*after[0], "up", "up"]]
    assert whole == [*after[-1], "wait"]


def test_images_settle_where_they_fit():
    pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    free = 2 * pixels.nbytes
    with fake_device("cuda"):
        assert settle_images(pixels, "cuda", "auto", free).device.type == "cuda"
        assert settle_images(pixels, "cuda", "on", free).device.type == "cuda"
        assert settle_images(pixels, "cuda", "auto", free - 1).device.type == "cpu"
        assert settle_images(pixels, "cuda", "off", free).device.type == "cpu"
        with pytest.raises(StudentError, match="--resident on"):
            settle_images(pixels, "cuda", "on", free - 1)


def test_predictions_are_fetched_once():
    model = timm.create_model("test_resnet", num_classes=CLASSES)
    with fake_device("cuda") as device:
        data = draw_data("multiclass", HeldImages(torch.zeros(ROWS, 3, SIDE, SIDE, dtype=torch.uint8).to("cuda")))
        model.to("cuda")
        device.log.clear()
        logits = loop._answer(model, data, "val", PLAN, "cuda", np.arange(ROWS))
        assert (logits.shape, logits.device.type) == ((ROWS, CLASSES), "cuda")
        assert "down" not in device.log
        assert "wait" not in device.log


@pytest.mark.parametrize("feature", ["cls+mean", "last4"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teacher_s_forward_pass_waits_for_nothing(tmp_path, precision, feature):
    config = Dinov2Config(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14)
    tensors = {name: value.numpy() for name, value in Dinov2Model(config).state_dict().items()}
    described = json.loads(config.to_json_string(use_diff=False)) | {"architectures": ["Dinov2Model"]}
    files = locate_teacher(str(write_teacher(tmp_path / "teacher", tensors, described, "drawn", PROCESSOR_OF_DINOV2)))
    backbone = form_of(files.config).load(files.config, files.folder, files.name)
    backbone.model.float().eval().requires_grad_(False)
    if precision == "bf16":
        hasten(backbone, torch.device("cuda"), "bf16")  # it changes weights, which fakes have none of
    with fake_device("cuda") as device:
        teacher = Teacher(backbone, files, feature=feature, precision="fp32", device="cuda")
        inputs = normalise(torch.rand(2, 3, 28, 28).to("cuda"), (0.5,) * 3, (0.5,) * 3)
        device.log.clear()
        with torch.inference_mode():
            features = teacher._forward(inputs)
        assert (features.shape, features.device.type, device.log) == ((2, teacher.dim), "cuda", [])


class Accelerator:
    """What `Ranks` asks of Accelerate's. The sum of gradients is torch's own, and C++ that wants their values."""

    def free_memory(self):
        pass

    def prepare(self, model):
        return model


@pytest.mark.parametrize("case", [{"loss": "kd+dkd+dist+mse+feature"}, {"task": "multilabel"}], ids=str)
def test_a_step_of_two_ranks_waits_for_nothing(case):
    distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        after, whole = take_epoch(ranks=Ranks(1, 2, Accelerator()), **case)
    finally:
        distributed.destroy_process_group()
    assert [len(log) for log in after] == [len(after[0])] * 3
    assert whole == [*after[0], "wait"]


# ── The fake device itself ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fault",
    [
        lambda there, _: there.nonzero(),
        lambda there, _: there[there > 0],
        lambda there, here: there + here,
        lambda there, here: torch.stack([there, here]),
        lambda there, here: there[here.long()],
    ],
)
def test_what_fails_on_a_fake_device(fault):
    with fake_device("cuda"):
        there, here = torch.rand(4, 3).to("cuda"), torch.rand(4, 3)
        with pytest.raises((RuntimeError, AssertionError)):
            fault(there, here)


@pytest.mark.parametrize(
    ("act", "log"),
    [
        (lambda there: there.sum().item(), ["wait"]),
        (lambda there: float(there.sum()), ["wait"]),
        (lambda there: bool((there > 0).any()), ["wait"]),
        (lambda there: there.cpu(), ["down"]),
        (lambda there: torch.tensor([0.5], device=there.device), ["up"]),
        (lambda there: there.new_tensor([0.5]), ["up"]),
        (lambda there: there[np.array([0, 1])], ["up"]),
        (lambda there: torch.as_tensor(0.5, device=there.device), ["up"]),
        (lambda there: there.new_full((), 0.5) * 2 + torch.zeros((), device=there.device), []),
    ],
)
def test_what_a_fake_device_writes_down(act, log):
    with fake_device("cuda") as device:
        there = torch.rand(4, 3).to("cuda")
        device.log.clear()
        act(there)
        assert device.log == log
