"""A deliberately bad teacher on real chest X-rays: its probe was fitted on permuted labels."""

import numpy as np
import pytest

from medal.cache.making.writer import write_cache
from medal.cache.reader import open_cache
from medal.pipeline.metrics import score
from medal.pipeline.probe.fit import ProbeSettings, fit_probe
from medal.pipeline.probe.logistic import fold_logits

SIZES = {"train": 500, "val": 150, "test": 300}
STUDENT = ("--student", "resnet10t", "--image-size", 56, "--epochs", 8, "--precision", "fp32", "--lr", 0.003)


@pytest.fixture(scope="module")
def chest(pneumonia, tmp_path_factory):
    """Real chest X-rays, more than the suite's small set: a difference has to be significant here."""
    path = tmp_path_factory.mktemp("data") / "chest.npz"
    with np.load(pneumonia) as real:
        kinds = ("images", "labels")
        part = {f"{split}_{kind}": real[f"{split}_{kind}"][:n] for split, n in SIZES.items() for kind in kinds}
    np.savez(path, **part)
    return path


@pytest.fixture(scope="module", params=["grid", "mean"])
def bad_cache(request, medal, chest, real_teacher, tmp_path_factory):
    """The real teacher's features with a probe of permuted labels, out of fold as any other."""
    folder = tmp_path_factory.mktemp("cache")
    medal("cache-teacher", chest, folder / "good.zarr", "--teacher", real_teacher, "--image-size", 56)
    good = open_cache(folder / "good.zarr")
    arrays = {path: good.read(*path.split("/")) for path in good.manifest.arrays if not path.startswith("probe/")}
    features = {split: arrays[f"{split}/feature"][:, 0] for split in SIZES}
    true = {split: arrays[f"{split}/label"] for split in SIZES}
    # Features vary most between sick and healthy: a probe of noise may rank them well by luck. This one does not.
    for seed in range(20):
        random = np.random.default_rng(seed)
        probe = fit_probe(
            features,
            {split: random.permutation(labels) for split, labels in true.items()},
            keys=arrays["train/key"],
            groups=arrays["train/group"],
            task="multiclass",
            n_classes=2,
            settings=ProbeSettings(recipe=request.param, folds=5, seed=0),
        )
        folds = {split: np.full(count, -1, np.int8) for split, count in SIZES.items()} | {"train": probe.fold}
        logits = {split: fold_logits(features[split], folds[split], probe.weight, probe.bias) for split in SIZES}
        worth = {split: score(logits[split], true[split], "multiclass", ("0", "1")).auroc for split in SIZES}
        if max(worth.values()) < 0.6:
            break
    assert max(worth.values()) < 0.6
    # As sure of itself as a good one, or nobody would be misled.
    louder = np.float32(np.std(good.read("train", "logits")) / np.std(logits["train"]))
    for split, fold in folds.items():
        arrays |= {f"{split}/fold": fold, f"{split}/logits": (logits[split] * louder)[:, None].astype(np.float32)}
    arrays |= {"probe/weight": probe.weight * louder, "probe/bias": probe.bias * louder}
    manifest = {name: value for name, value in good.manifest.raw.items() if name != "arrays"}
    write_cache(folder / "bad.zarr", arrays, manifest)
    return folder / "bad.zarr"


@pytest.mark.slow
def test_the_gate_fires_and_auto_leaves_the_teacher_alone(medal, bad_cache, chest, tmp_path, capsys):
    words = ("train-student", bad_cache, chest, "--out", tmp_path / "run", *STUDENT)
    result = medal(*words, "--alpha", "auto", "--baseline")
    assert result["gate"]["fires"]
    assert "The teacher is significantly worse than a student trained on the labels alone" in capsys.readouterr().err
    assert result["alpha"] <= 0.25
    difference = result["comparison"]["test"]["student_minus_baseline"]["auroc"]
    assert difference["ci95"][1] >= 0


@pytest.mark.slow
def test_who_distils_from_it_all_the_same_is_told(medal, bad_cache, chest, tmp_path):
    words = ("train-student", bad_cache, chest, "--out", tmp_path / "run", *STUDENT)
    result = medal(*words, "--alpha", 0.9, "--baseline")
    assert result["gate"]["fires"]
    difference = result["comparison"]["test"]["student_minus_baseline"]["auroc"]
    assert difference["ci95"][1] < 0
    assert "Distilling hurt" in result["verdict"]
