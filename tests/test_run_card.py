"""The card of a run: what it says of a student, and the code in it."""

import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import student_squares

from medal.student.outcome.card import write_card
from medal.student.using.trained import open_run


@pytest.fixture(scope="module")
def pictures(squares, tmp_path_factory):
    """The images that the run recorded, as PNG files called by their key in hex, by split."""
    folder = tmp_path_factory.mktemp("pictures")
    student_squares.lay_out_pictures(squares / "run", folder)
    return folder


def test_every_finished_run_has_a_card_that_the_hub_reads(squares):
    from huggingface_hub import ModelCard

    card = ModelCard.load(squares / "run/README.md")
    metrics = json.loads((squares / "run/metrics.json").read_text())
    assert card.data.library_name == "timm"
    found = {(one.dataset_split, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert found["test", "roc_auc"] == pytest.approx(metrics["test"]["auroc"], abs=1e-6)
    assert found["val", "accuracy"] == pytest.approx(metrics["val"]["accuracy"], abs=1e-6)
    for words in ("not a medical device", "## Intended use", "## Limits", "`0`, `1`, `2`", "by hand", "48 in train"):
        assert words in card.text
    low, high = metrics["test"]["ci95"]["auroc"]
    assert f"{metrics['test']['auroc']:.3f} [{low:.3f}, {high:.3f}]" in card.text


def test_the_cards_code_says_what_predict_says(squares, pictures, medal, tmp_path, monkeypatch, capsys):
    image = sorted((pictures / "test").iterdir())[0]
    shutil.copy(image, tmp_path / "image.png")
    shutil.copytree(squares / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (squares / "run/README.md").read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - the card's own code
    by_timm = json.loads(capsys.readouterr().out.replace("'", '"'))
    (said,) = medal("predict", "run", "image.png")["predictions"]
    # timm resizes with Pillow, which rounds a grey level otherwise now and then.
    assert by_timm == pytest.approx(said["probability"], abs=0.01)


def test_a_card_shows_what_is_known_by_class_and_domain(squares, tmp_path):
    description = json.loads((squares / "run/run.json").read_text())
    metrics = json.loads((squares / "run/metrics.json").read_text())
    figures = {"auroc": 0.75, "sensitivity": 0.5, "n": 7}
    metrics["test"] |= {"classes": {"a|b": figures}, "domains": {"scanner `A`": {"auroc": None, "n": 3}}}
    write_card(tmp_path, "run", description | {"target": "none"}, metrics)
    text = (tmp_path / "README.md").read_text()
    assert "| `a/b` | 7 | 0.750 | 0.500 |" in text
    assert "| `scanner 'A'` | 3 | undefined |" in text
    assert "the labels alone" in text


def test_a_run_without_val_labels_is_not_calibrated(squares):
    trained = open_run(squares / "run", "cpu")
    val = trained.recorded["val"]
    unknown = replace(val, label=np.full_like(val.label, -1))
    other = replace(trained, recorded={"val": unknown})
    assert other.temperature.value == 1
    assert other.temperature.images == 0
    assert not math.isnan(trained.temperature.value)


def test_a_card_tells_how_the_student_was_trained(squares, tmp_path):
    description = json.loads((squares / "run/run.json").read_text())
    metrics = json.loads((squares / "run/metrics.json").read_text())

    def told(**other):
        request = description["request"] | other.pop("request", {})
        write_card(tmp_path, "run", description | {"request": request, **other}, metrics)
        text = (tmp_path / "README.md").read_text()
        return text[text.index("## How it was trained") : text.index("## Intended use")]

    request = description["request"]
    usual = told()
    assert "* start: random weights" in usual
    assert f"{request['epochs']} epoch" in usual
    assert f"in batches of {request['batch_size']}" in usual
    assert f"AdamW, learning rate {request['lr']:g} " in usual
    assert f"α {description['alpha']:g}, temperature {description['temperature']:g}; kd: Hinton et al. 2015" in usual
    assert "best AUROC on val" in usual
    assert "rare classes" not in usual
    assert "* loss: cross-entropy, labels alone\n" in told(alpha=0, target="none")
    by_class = told(alpha=[0.25, 0.5, 1.0], loss="dkd+0.5*feature", request={"class_weight": "balanced", "seeds": 3})
    assert (
        "α · (dkd+0.5*feature), α by the teacher's out-of-fold recall of each class (0 0.25, 1 0.50, 2 1.00)"
        in by_class
    )
    assert "Zhao et al. 2022" in by_class
    assert "feature: cosine" in by_class
    assert "* seeds: 0 to 2\n" in by_class
    assert "* rare classes: the hard loss weighs classes" in by_class
    assert "both chosen on val" in told(request={"alpha": "auto"})
    assert "labels alone, as chosen on val\n" in told(alpha=0, target="none", request={"alpha": "auto"})
