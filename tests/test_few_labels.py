"""Few and unknown labels: who keeps a label, what the probe has seen, and who learns from the teacher alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
from safetensors import safe_open
from teaching_cases import fit, prepare, same, train, write

from medal.cache.errors import StudentError
from medal.cache.reader import open_cache
from medal.student.settings import StudentSettings
from medal.student.targets.few_labels import choose_labelled
from medal.student.targets.refitting import refit
from medal.student.training.losses import LOSSES

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(teaching):
    """Squares of three uneven classes, of patients, and their caches."""
    return teaching


@pytest.mark.parametrize("views", ["canonical", "stored"])
def test_the_probe_of_a_share_has_seen_that_share_alone(views, place, medal, tmp_path):
    """The same probe from the other end: all other labels made unknown in the cache itself."""
    few = prepare(place, tmp_path / "run", label_fraction=0.4, targets=views).targets
    train_part = few.splits["train"]
    cache = open_cache(place / "all.h5")
    before = cache.read("train", "label")
    forgotten = (train_part.label == -1) & (before != -1)
    assert 0.3 < 1 - (train_part.label == -1).mean() < 0.6
    np.testing.assert_array_equal(train_part.label[~forgotten], before[~forgotten])
    write(tmp_path / "forget.csv", [[key.tobytes().hex(), ""] for key in train_part.key[forgotten]], ("key", "label"))
    medal("reprobe", place / "all.h5", tmp_path / "few.zarr", "--labels", tmp_path / "forget.csv")
    reprobed = open_cache(tmp_path / "few.zarr")
    assert reprobed.manifest.probe["recipe"] == "mean"
    known, columns = train_part.label != -1, train_part.logits.shape[1]
    np.testing.assert_array_equal(train_part.logits[known], reprobed.read("train", "logits")[known, :columns])
    for split in ("val", "test"):
        np.testing.assert_array_equal(few.splits[split].logits, reprobed.read(split, "logits"))
    weight, bias = (reprobed.read("probe", name)[-1] for name in ("weight", "bias"))
    feature = cache.read("train", "feature")[:, : train_part.logits.shape[1]].astype(np.float64)
    full = feature @ weight.T.astype(np.float64) + bias
    np.testing.assert_allclose(train_part.logits[train_part.label == -1], full[train_part.label == -1], atol=1e-4)
    # Out of fold: of those that the full probe has seen, none has its answer.
    assert (np.abs(train_part.logits - full)[train_part.label != -1].max((1, 2)) > 1e-3).all()


@pytest.mark.parametrize("recipe", ["auto", "grid"])
def test_labels_that_are_hidden_reach_nobody(recipe, place, medal, tmp_path):
    """Whatever they are, through graph, scale and folds as well; what these images look like does count for `auto`."""
    medal("reprobe", place / "all.h5", tmp_path / "asked.h5", "--probe", recipe)
    cache = open_cache(tmp_path / "asked.h5")
    targets = prepare(place, tmp_path / "run", cache=tmp_path / "asked.h5", loss="kd+feature").targets
    train_part = targets.splits["train"]
    learned = choose_labelled(train_part.key, train_part.group, train_part.label, "multiclass", fraction=0.4, seed=0)
    label, feature = train_part.label.copy(), train_part.feature.copy()
    label[~learned] = np.roll(label[~learned], 1)
    feature[~learned] = feature[~learned][::-1] * np.float16(0.5)
    honest, lied_to, elsewhere = (
        refit(replace(targets, splits={**targets.splits, "train": part}), cache, learned)
        for part in (train_part, replace(train_part, label=label), replace(train_part, feature=feature))
    )
    for split in targets.splits:
        np.testing.assert_array_equal(honest.splits[split].logits, lied_to.splits[split].logits)
    assert (honest.splits["val"].logits == elsewhere.splits["val"].logits).all() == (recipe == "grid")


def test_the_share_is_stratified_grouped_seeded_and_nested(place):
    cache = open_cache(place / "all.h5")
    key, group, label = (cache.read("train", name) for name in ("key", "group", "label"))

    def choose(fraction, seed=0, rows=slice(None)):
        return choose_labelled(key[rows], group[rows], label[rows], "multiclass", fraction=fraction, seed=seed)

    chosen = {fraction: choose(fraction) for fraction in (0.05, 0.2, 0.5, 1.0)}
    assert (chosen[0.05] <= chosen[0.2]).all()
    assert (chosen[0.2] <= chosen[0.5]).all()
    for code in np.unique(group[group >= 0]):
        assert len(set(chosen[0.5][group == code])) == 1
    for kind in range(3):
        total = (label == kind).sum()
        assert chosen[0.05][label == kind].sum() >= 2
        # A patient more at most, who may be of the other classes' as well.
        assert abs(chosen[0.5][label == kind].sum() - total / 2) <= 4
        assert chosen[1.0][label == kind].all()
    assert not np.array_equal(chosen[0.2], choose(0.2, seed=1))
    turned = np.random.default_rng(0).permutation(len(key))
    np.testing.assert_array_equal(choose(0.2, rows=turned), chosen[0.2][turned])


def test_a_share_of_several_labels():
    random = np.random.default_rng(1)
    key, group = random.integers(0, 256, (200, 16), dtype=np.uint8), np.full(200, -1)
    label = (random.random((200, 3)) < (0.5, 0.2, 0.03)).astype(np.uint8)
    label[:20] = 255
    chosen = choose_labelled(key, group, label, "multilabel", fraction=0.1, seed=0)
    assert not chosen[:20].any()
    assert (label[chosen] == 1).sum(0).min() >= 2
    assert 15 <= chosen.sum() <= 24


def test_a_run_with_few_labels(place, medal, tmp_path):
    options = ("--label-fraction", 0.4, "--loss", "kd+feature", "--sampler", "balanced")
    result = train(medal, place, tmp_path / "run", *options)
    probe = open_cache(place / "all.h5").manifest.probe["metrics"]["test"]
    assert result["teacher"]["test"]["auroc"] != probe["auroc"]
    assert result["test"]["n"] == probe["n"] < 24  # some labels of test are unknown
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["request"]["label_fraction"], record["request"]["loss"]) == (0.4, "kd+feature")
    assert record["fit"]["labelled"] == pytest.approx(0.4 * 65, abs=8)
    # The projection is thrown away: a plain timm model is left.
    timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    with safe_open(tmp_path / "run/model.safetensors", "np") as file:
        assert set(file.keys()) == set(timm.create_model("test_resnet", num_classes=3).state_dict())


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_unlabelled_images_learn_from_the_teacher_alone(loss, place, tmp_path):
    """Whatever stands behind an unknown label: with the soft part alone, labels change nothing but `dkd`'s target."""
    asked = prepare(place, tmp_path / "run", loss=loss, alpha=1.0)
    part = asked.targets.splits["train"]
    hidden = replace(part, label=np.full_like(part.label, -1))
    blind = replace(asked, targets=replace(asked.targets, splits={**asked.targets.splits, "train": hidden}))
    assert same(fit(asked, tmp_path / "one"), fit(blind, tmp_path / "blind")) == (loss != "dkd")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"label_fraction": 0.0}, "'--label-fraction' must be a share above 0, up to 1, got 0.0"),
        ({"label_fraction": 1.5}, "'--label-fraction' must be a share above 0"),
        ({"labelled_share": 1.5}, "'--labelled-share' must be a share from 0 to 1, got 1.5"),
    ],
)
def test_shares_that_are_none(changed, expected):
    with pytest.raises(StudentError, match=expected):
        StudentSettings(**changed)


def test_settings_of_teaching_belong_to_the_request(place, tmp_path):
    base = dict(prepare(place, tmp_path / "run").request)
    for changed in (
        {"loss": "dist"},
        {"class_weight": "balanced"},
        {"sampler": "balanced"},
        {"logit_adjustment": True},
        {"label_fraction": 0.5},
        {"also": [(str(place / "other.h5"), 1.0)]},
        {"also": [(str(place / "other.h5"), 2.0)]},
    ):
        other = dict(prepare(place, tmp_path / "run", **changed).request)
        assert other != base, changed


def test_alpha_is_chosen_for_a_loss_that_compares_features(place, medal, tmp_path):
    """Trials with and without a projection stand side by side, and the chosen one goes on as it is."""
    options = ("--loss", "feature", "--alpha", "auto", "--epochs", 2, "--label-fraction", 0.5)
    result = train(medal, place, tmp_path / "run", *options)
    assert 0 <= result["choice"]["alpha"] <= 1
