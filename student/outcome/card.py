"""The model card of a run: README.md as the Hugging Face hub reads it, so that a student never travels unexplained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...cache.drafts import write_file
from ..figures.methods import describe_methods

__all__ = ["CARD", "write_card", "write_overview"]

CARD = "README.md"
_ARMS = {"student": "this student", "baseline": "the same network, labels alone", "teacher": "the teacher's probe"}
_SHOWN = {"auroc": "AUROC", "accuracy": "accuracy"}
# What a class or a domain may have beside its AUROC, by its key in metrics.json.
_COLUMNS = {
    "n": "images",
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "calibration_error": "calibration error",
}

_INTENDED = """\
## Intended use

Research on image classification: to compare methods, to study small networks, to be fine-tuned. It answers for images
like those that it was trained on, of the classes above, and says nothing useful of anything else.

**Research software, not a medical device.** It has not been evaluated for diagnosis or treatment, and must not be used
for either.
"""

_LIMITS = """\
## Limits

* The figures hold for the data above. Other scanners, hospitals, patients or ways of choosing images can make them much
  worse; measure it on your own images first: `medal evaluate RUN DATASET`.
* An interval says how far a test set of this size can be trusted. It does not know what the data lack.
* val chose the epoch and the temperature, so figures on val flatter the student.
* One of the classes is always answered, however strange the image.
* Weights are made from patients' images. Share them under the approvals that the images are under.
"""

_USE = """\
## How to use it

With nothing of medal, by [timm](https://github.com/huggingface/pytorch-image-models):

```python
import json
from pathlib import Path

import timm
import torch
from PIL import Image

run = Path({path})
student = timm.create_model(f"local-dir:{{run}}", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(student))
names = json.loads((run / "config.json").read_text())["label_names"]
temperature = json.loads((run / "run.json").read_text())["calibration"]["value"]

image = prepare(Image.open("image.png").convert("RGB"))
with torch.inference_mode():
    logits = student(image[None]) / temperature
print(dict(zip(names, logits.{probability}[0].tolist())))
```

With medal, which also reads DICOM and deep grey images as in training: `medal predict {name} IMAGE…`
"""


def write_card(work: Path, name: str, description: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write the card of a run into its folder.

    Parameters
    ----------
    name : what the run is called
    description : run.json, with ``calibration``
    metrics : metrics.json; what it has by class and by domain is shown
    """
    task = description["task"]
    probability = "softmax(1)" if task == "multiclass" else "sigmoid()"
    parts = [
        _front_matter(name, description, metrics),
        f"# {_plain(name)}\n\n{_summary(description)}",
        _data(description),
        _training(description),
        _INTENDED,
        _results(metrics),
        _LIMITS,
        _USE.format(name=_plain(name), path=json.dumps(name), probability=probability),
        _origin(description),
    ]
    write_file(work / CARD, "\n".join(parts).encode())


def write_overview(work: Path, name: str, description: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write README.md of a run that holds one domain out after the other: what it is, its figures, where students lie.

    Parameters
    ----------
    description, metrics : its run.json and metrics.json
    """
    cache, request = description["cache"], description["request"]
    found = metrics["domains"]
    arms = [arm for arm in _ARMS if arm == "student" or metrics[arm] is not None]
    tests = {arm: (metrics if arm == "student" else metrics[arm])["test"] for arm in arms}
    rows = [
        [
            f"`{_plain(domain)}`",
            one["folder"],
            arm,
            str(one["test"]["n"]),
            *(_with_interval(figures, what) for what in _SHOWN),
        ]
        for domain, one in found.items()
        for arm in arms
        for figures in [(one if arm == "student" else one[arm])["test"]]
    ]
    rows += [
        ["mean", "", arm, str(tests[arm]["n"]), *(_with_interval(tests[arm], what) for what in _SHOWN)] for arm in arms
    ]
    lines = [
        f"# {_plain(name)}",
        "",
        f"`{_plain(str(request['student']))}` on `{_plain(str(cache['dataset']))}`, trained by medal once for each "
        "domain without the images of that domain, and measured on all of them. Each folder has a student of its own, "
        "with its card.",
        "",
        *_table(["held out", "folder", "", "images", *(f"{shown} [95 %]" for shown in _SHOWN.values())], rows),
        "",
        _plain(metrics["verdict"]),
        "",
        "The mean gives every domain the same weight. Its interval is over images of these domains: it does not say "
        "what another domain would give.",
        "",
        "**Research software, not a medical device.** Nothing here has been evaluated for diagnosis or treatment.",
        "",
    ]
    write_file(work / CARD, "\n".join(lines).encode())


def _front_matter(name: str, description: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    # Of the very weights beside the card, where several seeds were trained.
    own = next((one for one in metrics.get("seeds") or () if one["folder"] == "."), metrics)
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=str(description["cache"]["dataset"]),
            dataset_name=str(description["cache"]["dataset"]),
            dataset_split=split,
            metric_type={"auroc": "roc_auc"}.get(what, what),
            metric_name=shown,
            metric_value=round(own[split][what], 6),
        )
        for split in ("test", "val")
        for what, shown in _SHOWN.items()
        if own.get(split) and own[split].get(what) is not None
    ]
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "medical", "knowledge-distillation", "medal"],
        model_name=name,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _summary(description: Mapping[str, Any]) -> str:
    request, cache = description["request"], description["cache"]
    teacher = _plain(str(cache["teacher"]))
    learnt = (
        f"the labels alone, without the teacher `{teacher}`"
        if description["target"] == "none"
        else f"the labels and the soft targets of `{teacher}`, a frozen DINOv2 with a linear probe"
    )
    return (
        f"A `{_plain(str(request['student']))}` for {_kind(description['task'])} of `{_plain(str(cache['dataset']))}`, "
        f"trained by medal on {learnt}.\n"
    )


def _kind(task: str) -> str:
    return "the classes" if task == "multiclass" else "the labels, several an image,"


def _data(description: Mapping[str, Any]) -> str:
    request, rows = description["request"], description["rows"]
    counts = ", ".join(f"{count} in {split}" for split, count in rows.items())
    window = f", DICOM window {request['window']}" if request["window"] else ""
    classes = ", ".join(f"`{_plain(name)}`" for name in description["classes"])
    return "\n".join(
        [
            "## Data",
            "",
            f"* images: {counts}",
            f"* classes, in the order of the outputs: {classes}",
            f"* input: {request['image_size']} × {request['image_size']} px, {description['resize']}, RGB (grey images "
            f"three times), intensity {request['intensity']}{window}",
            f"* views in training: policy `{request['augment']}`",
            *_labels_known(description),
            *_held_out(description),
            "",
        ]
    )


def _training(description: Mapping[str, Any]) -> str:
    told = [f"* {what}: {_plain(how)}" for what, how in describe_methods(description).items()]
    return "\n".join(["## How it was trained", "", *told, ""])


def _labels_known(description: Mapping[str, Any]) -> list[str]:
    fit, of_all = description.get("fit", {}), description["rows"]["train"]
    found = []
    if "labelled" in fit:
        found.append(
            f"* labels known in train: {fit['labelled']} of {of_all}; the teacher's probe is fitted on these alone"
        )
    if "unlabelled" in fit:
        found.append(
            f"* images in train that never had a label: {fit['unlabelled']} of {of_all}, taught by the teacher alone"
        )
    return found


def _held_out(description: Mapping[str, Any]) -> list[str]:
    domain = description["request"].get("held_out")
    if domain is None:
        return []
    return [f"* held out: `{_plain(domain)}`; test is all of that domain, and neither train nor val has an image of it"]


def _results(metrics: Mapping[str, Any]) -> str:
    lines = ["## Results", ""]
    seeds = len(metrics.get("seeds") or ())
    # The figures are the mean of all seeds, the weights those of the one that is best on val.
    called = _ARMS | ({"student": f"mean of {seeds} seeds, of which this is the best on val"} if seeds > 1 else {})
    arms = {"student": metrics, **{arm: metrics[arm] for arm in ("baseline", "teacher") if metrics.get(arm)}}
    rows = [
        [called[arm], split, str(found[split]["n"]), *(_with_interval(found[split], what) for what in _SHOWN)]
        for arm, found in arms.items()
        for split in ("test", "val")
        if found.get(split)
    ]
    lines += _table(["", "split", "images", *(f"{shown} [95 %]" for shown in _SHOWN.values())], rows)
    shown = next((split for split in ("test", "val") if metrics.get(split)), None)
    if isinstance(metrics.get("verdict"), str):
        lines += ["", _plain(metrics["verdict"])]
    if shown is not None:
        lines += _breakdown(f"By class, on {shown}", _by_class(metrics[shown]))
        lines += _breakdown(f"By domain, on {shown}", metrics[shown].get("domains") or {})
    return "\n".join([*lines, ""])


def _by_class(figures: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return figures.get("classes") or {name: {"auroc": value} for name, value in figures["per_class"].items()}


def _breakdown(title: str, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    columns = [name for name in _COLUMNS if any(name in row for row in found.values())]
    rows = [[f"`{_plain(name)}`", *(_number(row.get(column)) for column in columns)] for name, row in found.items()]
    return ["", f"### {title}", "", *_table(["", *(_COLUMNS[column] for column in columns)], rows)]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _with_interval(figures: Mapping[str, Any], what: str) -> str:
    low, high = figures.get("ci95", {}).get(what, (None, None))
    return f"{_number(figures[what])} [{_number(low)}, {_number(high)}]"


def _number(value: object) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _origin(description: Mapping[str, Any]) -> str:
    calibration, cache = description["calibration"], description["cache"]
    versions = ", ".join(f"{name} {number}" for name, number in description["versions"].items())
    return "\n".join(
        [
            "## Where it comes from",
            "",
            f"* temperature {calibration['value']:g}, fitted on {calibration['images']} val predictions of the run",
            f"* cache `{cache['cache_id']}`, content `{cache['content_digest']}`",
            f"* medal {description['request']['medal']}, {versions}; every setting is in `run.json`",
            "* method: Ren, Gu, Liu, MedAlmighty, Front. Artif. Intell. 8:1527980, 2025",
            "",
        ]
    )


def _plain(text: str) -> str:
    """Keep a name from being taken for Markdown: names come from whoever made the dataset."""
    return text.replace("`", "'").replace("|", "/").replace("\n", " ").replace("<", "‹").replace(">", "›")
