"""Who teaches the students, and a training that begins with its head."""

import csv
import json
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from teaching_cases import QUICK, prepare, squares, train, write

from medal.cache.errors import StudentError
from medal.pipeline.metrics import probabilities, score
from medal.student.figures.methods import describe_methods
from medal.student.members.ensemble import Teaching, average_with_baseline, choose_teaching
from medal.student.members.ranks import load_data
from medal.student.members.train import initial_model
from medal.student.network.speed import Plan
from medal.student.targets.refitting import head_logits, hide_labels, refit
from medal.student.targets.sources import open_sources
from medal.student.targets.teaching import join_sources
from medal.student.training.head import mix_labels
from medal.student.training.loop import Recipe, begin, predict

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = ("--label-fraction", 0.4)


@pytest.fixture(scope="module")
def place(teaching):
    """Squares of three uneven classes, of patients, and their caches."""
    return teaching


@pytest.fixture(scope="module")
def few(place, tmp_path_factory):
    """A training on few labels, ready but for its models: what is asked, and its data."""
    asked = prepare(place, tmp_path_factory.mktemp("few") / "run", label_fraction=0.4)
    with ExitStack() as opened:
        yield asked, load_data(asked, opened, tuple(asked.rows))


@pytest.fixture(scope="module")
def run(place, medal, tmp_path_factory):
    """A finished run on few labels."""
    folder = tmp_path_factory.mktemp("taught") / "run"
    train(medal, place, folder, *FEW)
    return folder


def with_val(targets, label, teacher):
    """Return the targets with a val of these labels and answers of the probe."""
    part = targets.splits["val"].take(np.resize(np.arange(len(targets.splits["val"])), len(label)))
    key = np.random.default_rng(0).integers(0, 256, (len(label), 16), dtype=np.uint8)
    part = replace(part, label=label, logits=teacher[:, None], key=key, group=np.full(len(label), -1, np.int32))
    return replace(targets, splits={**targets.splits, "val": part})


def test_few_labels_are_taught_by_the_mean_by_default(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["taught_by"]["chosen"] == "ensemble"
    assert metrics["taught_by"]["why"] == "val has too few labels to choose by"
    assert set(metrics["taught_by"]["val_auroc"]) == {"none", "probe", "ensemble"}
    # What teaches is trained, and so can be compared with.
    assert metrics["baseline"]["test"]["n"] == metrics["test"]["n"]
    request = json.loads((run / "run.json").read_text())["request"]
    assert (request["teach"], request["baseline"], request["recipe"]) == ("auto", True, "plain")


def test_a_run_says_who_taught_and_which_epoch_is_kept(run):
    description = json.loads((run / "run.json").read_text())
    said = describe_methods(description)
    assert said["what is kept"].startswith("the last epoch, because val has too few labels to choose by")
    assert ("mean of the probe and of a student trained on the labels alone") in said[
        "teacher of the images without a label"
    ]
    assert description["alpha"] == 0.5  # the student's, though the baseline is trained first


def test_the_same_training_again_gives_the_same_bits(run, place, medal, tmp_path):
    train(medal, place, tmp_path / "run", *FEW, "--teach", "ensemble")
    one, other = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "run"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_where_all_have_labels_the_probe_teaches_and_no_baseline_is_trained(place, medal, tmp_path):
    result = train(medal, place, tmp_path / "run")
    assert result["taught_by"] is None
    assert result["baseline"] is None
    with pytest.raises(StudentError, match="--teach ensemble and --no-distill"):
        prepare(place, tmp_path / "none", alpha=0.0, teach="ensemble", label_fraction=0.4)


def test_the_baseline_answers_for_images_without_a_label_alone(few):
    """It has seen the labels of the others: a leak of them through its answers would show here."""
    targets = few[1].targets
    train_part = targets.splits["train"]
    known = train_part.label != -1
    drawn = np.random.default_rng(1).normal(0, 2, (2, len(train_part), 3)).astype(np.float32)
    one, other = (averaged(targets, answer) for answer in drawn)
    np.testing.assert_array_equal(one[known], other[known])
    assert (np.abs(one - other)[~known].max((1, 2)) > 1e-3).all()
    # What is left of the probe's out-of-fold answer: a temperature for all.
    ratio = one[known] / train_part.logits[known]
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)


def test_the_mean_is_that_of_both_probabilities(few):
    targets = few[1].targets
    train_part = targets.splits["train"]
    given = averaged(targets, 3 * train_part.teacher)[:, 0]
    blind = train_part.label == -1
    # Of the same answers three times as loud, brought down to be as sure as the probe, the mean is the probe's own.
    temperature = train_part.teacher[~blind].flat[0] / given[~blind].flat[0]
    expected = probabilities(train_part.teacher, "multiclass", temperature)
    np.testing.assert_allclose(probabilities(given, "multiclass")[blind], expected[blind], atol=1e-4)


def averaged(targets, answer):
    return average_with_baseline(targets, answer).splits["train"].logits


def test_several_labels_an_image_and_stored_views_are_averaged_label_by_label(place, medal, tmp_path):
    rows = []
    with (place / "all.csv").open() as file:
        for number, row in enumerate(csv.DictReader(file)):
            unknown = number % 3 == 0
            bits = ["" if unknown else int(row["label"] == "a"), int(row["label"] in "ab")]
            rows.append([str(place / row["file"]), *bits, row["split"], row["group"]])
    write(tmp_path / "bits.csv", rows, ("file", "first", "both", "split", "group"))
    (teacher,) = (path.parent for path in place.rglob("config.json"))
    columns = ("--label-columns", "first,both")
    views = ("--views", 2, "--augment", "small", "--image-size", 28, "--precision", "fp32")
    medal("cache-teacher", tmp_path / "bits.csv", tmp_path / "bits.h5", "--teacher", teacher, *views, *columns)
    words = ("train-student", tmp_path / "bits.h5", tmp_path / "bits.csv", "--out", tmp_path / "run", *QUICK)
    result = medal(*words, *columns, *FEW, "--loss", "kd+feature", "--targets", "stored")
    assert result["taught_by"]["chosen"] == "ensemble"
    assert 0 <= result["test"]["auroc"] <= 1
    asked = prepare(
        tmp_path,
        tmp_path / "new",
        "bits.h5",
        dataset="bits.csv",
        options=squares.DatasetOptions(label_columns=("first", "both")),
        label_fraction=0.4,
        targets="stored",
    )
    part = asked.targets.splits["train"]
    unknown = part.label == 255
    assert unknown.any(1).sum() > unknown.all(1).sum() > 0
    for view in (0, 1):
        ratio = (averaged(asked.targets, np.zeros((len(part), 2), np.float32)) / part.logits)[:, view]
        # Where the label is known, one temperature divides the probe's own answer.
        changed = np.abs(ratio - ratio[~unknown][0]) > 1e-3
        assert not changed[~unknown].any()
        assert changed[unknown].mean() > 0.9


def test_labels_drawn_by_lot_do_not_come_back(place, few):
    """Whoever is taught what cannot be learned has memorised it: graph, scale, folds and mean must not pass that on."""
    asked = few[0]
    sources = open_sources(str(place / "all.h5"), str(place / "all.csv"), squares.DatasetOptions())
    whole = join_sources(sources, asked.settings)
    part = whole.splits["train"]
    random = np.random.default_rng(0)
    label = random.integers(0, 3, len(part)).astype(np.int32)[part.units]  # one label a patient
    learned = random.random(int(part.units.max()) + 1)[part.units] < 0.7
    told = refit(replace(whole, splits={**whole.splits, "train": replace(part, label=label)}), asked.cache, learned)
    known = replace(told.splits["train"], label=hide_labels(label, ~learned, "multiclass"))
    memorised = 4 * np.eye(3, dtype=np.float32)[label]
    given = averaged(replace(told, splits={**told.splits, "train": known}), memorised)[:, 0]

    def auroc(logits):
        return score(logits[learned], label[learned], "multiclass", whole.classes).auroc

    assert auroc(given) < 0.65
    assert auroc(head_logits(part.feature, told.head)[:, 0]) > 0.8  # the probe that has seen them all
    assert auroc(memorised) == 1


@pytest.mark.parametrize("best", ["probe", "none", "ensemble"])
def test_the_teacher_is_chosen_on_val(best, few):
    targets = few[1].targets
    random = np.random.default_rng(2)
    label = np.arange(90, dtype=np.int32) % 3
    right = np.eye(3)[label]
    strength = {"probe": (2, 0), "none": (0, 2), "ensemble": (1, 1)}[best]
    probe, alone = ((random.normal(0, 1, (90, 3)) + weight * right).astype(np.float32) for weight in strength)
    on_train = random.normal(0, 1, (len(targets.splits["train"]), 3)).astype(np.float32)
    teaching = choose_teaching(with_val(targets, label, probe), {"val": alone, "train": on_train})
    assert teaching.chosen == best
    assert max(teaching.val_auroc, key=teaching.val_auroc.get) == best


def test_labels_alone_are_a_copy_of_the_baseline(place, medal, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "medal.student.members.train_all.choose_teaching", lambda *_: Teaching("none", "ahead", {"none": 1.0})
    )
    result = train(medal, place, tmp_path / "run", *FEW)
    assert result["alpha"] == 0
    assert result["test"]["auroc"] == result["baseline"]["test"]["auroc"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "run/baseline"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def tuned(run, place, tmp_path_factory):
    """What a student of trained weights goes through where few labels are known, in whatever folder."""
    quick = {"label_fraction": 0.4, "weights": str(run), "epochs": 2}
    folder = tmp_path_factory.mktemp("tuned")

    def carry(name, report=lambda _text: None, **more):
        squares.carry_out(prepare(place, folder / name, **quick, **more), squares.silent, report)
        return folder / name

    return carry


def test_more_seeds_are_added_where_the_baseline_was_not_asked_for(tuned):
    tuned("grown")
    both = tuned("both", seeds=2)
    grown = tuned("grown", seeds=2)
    assert json.loads((grown / "metrics.json").read_text())["taught_by"]["chosen"] == "ensemble"
    for name in ("model.safetensors", "baseline/model.safetensors"):
        assert (grown / name).read_bytes() == (both / name).read_bytes()
    methods = describe_methods(json.loads((both / "run.json").read_text()))
    assert methods["start"].endswith("the student starts from the trained weights of its baseline")


@pytest.mark.parametrize("epoch", [1, 4], ids=["the baseline's first epoch", "the student's last"])
def test_stopped_it_goes_on_and_ends_with_the_same_bits(epoch, tuned):
    whole = tuned(f"whole-{epoch}")
    heard = []

    def stop(text):
        heard.append(text)
        if sum(each.startswith("epoch") for each in heard) == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(f"stopped-{epoch}", stop)
    again = tuned(f"stopped-{epoch}")
    for name in ("model.safetensors", "baseline/model.safetensors", "predictions.csv"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_random_weights_are_not_frozen(place, tmp_path):
    with pytest.raises(StudentError, match="--recipe lp-ft freezes batch normalisation"):
        prepare(place, tmp_path / "run", recipe="lp-ft")


# ── Linear probing, then fine-tuning ─────────────────────────────────────────────────────────────────────────────


def test_the_head_is_fitted_before_anything_else_learns(few, run):
    asked, data = few
    settings = replace(asked.settings, weights=str(run), recipe="lp-ft", lr=None)
    asked = replace(asked, settings=settings)
    plan = Plan(precision="fp32", channels_last=False)
    recipe = Recipe(settings=settings, epochs=1, policy=asked.policy, plan=plan, device="cpu")
    before = initial_model(asked, 0)
    state = begin(initial_model(asked, 0), recipe, None, data)
    changed = {
        name for name, value in state.model.state_dict().items() if not torch.equal(value, before.state_dict()[name])
    }
    assert changed == {"fc.weight", "fc.bias"}
    # The least of a convex loss: no head is better at what it was asked, penalty and smoothing aside.
    target, given = mix_labels(data.targets.splits["train"], "multiclass", settings.soft_weight)
    assert given.all()

    def loss(model):
        return -(target * np.log(probabilities(predict(model, data, "train", plan, "cpu"), "multiclass"))).sum(1).mean()

    assert loss(state.model) < loss(before)
    assert loss(state.model) < -(target * np.log(target.mean(0))).sum(1).mean()


def test_normalisation_stays_as_it_came(place, medal, run, tmp_path):
    train(medal, place, tmp_path / "tuned", *FEW, "--student-weights", run, "--teach", "probe")
    request = json.loads((tmp_path / "tuned/run.json").read_text())["request"]
    assert (request["recipe"], request["lr"]) == ("lp-ft", 3e-4)
    one, other = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "tuned"))
    running = [name for name in one if "running" in name]
    assert running
    assert all(torch.equal(one[name], other[name]) for name in running)
    assert not torch.equal(one["layer1.0.conv1.weight"], other["layer1.0.conv1.weight"])


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, (0.1, 0.5, 0.9)], ids=str)
def test_labels_and_soft_targets_are_mixed_as_the_loss_weighs_them(task, alpha, few):
    part = few[1].targets.splits["train"].take(np.arange(6))
    unknown = -1 if task == "multiclass" else 255
    label = np.array([0, 1, 2, -1, 1, -1]) if task == "multiclass" else np.tile([0, 1, 255], (6, 1)).astype(np.uint8)
    part = replace(part, label=label)
    mixed, given = mix_labels(part, task, alpha)
    soft, weight = probabilities(part.teacher, task), np.broadcast_to(alpha, 3)
    for row, column in np.ndindex(6, 3):
        own = label[row] if task == "multiclass" else label[row, column]
        share = weight[own if task == "multiclass" else column]
        right = float(own == column) if task == "multiclass" else float(own)
        expected = soft[row, column] if own == unknown else (1 - share) * right + share * soft[row, column]
        assert mixed[row, column] == pytest.approx(expected)
        assert given[row, column] == (own != unknown or alpha != 0)
