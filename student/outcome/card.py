"""The model card of a run: README.md as the Hugging Face hub reads it, so that every student is documented."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...cache.machine.drafts import write_file
from ..figures.methods import describe_methods
from ..figures.tables import Table, mark_interval

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


def write_card(work: Path, name: str, description: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write the card of a run into its folder.

    Parameters
    ----------
    name : what the run is called
    description : run.json, with ``calibration``
    metrics : metrics.json; what it has by class and by domain is shown
    """
    _write(
        work,
        "card.md.jinja",
        name,
        description,
        metrics,
        name_as_json=json.dumps(name),
        front_matter=_front_matter(name, description, metrics),
        fit=description.get("fit", {}),
        methods=describe_methods(description),
        results=_tabulate(metrics),
        breakdowns=_break_down(metrics),
    )


def write_overview(work: Path, name: str, description: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write README.md of a run that holds one domain out after the other: what it is, its figures, where students lie.

    Parameters
    ----------
    description, metrics : its run.json and metrics.json
    """
    _write(work, "overview.md.jinja", name, description, metrics, results=_tabulate_domains(metrics))


def _write(
    work: Path, template: str, name: str, description: Mapping[str, Any], metrics: Mapping[str, Any], **more: Any
) -> None:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(  # noqa: S701 - Markdown: names go through `plain`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=FileSystemLoader(Path(__file__).parent),
    )
    made.filters["plain"] = _plain
    text = made.get_template(template).render(
        name=name,
        run=description,
        request=description["request"],
        cache=description["cache"],
        verdict=metrics.get("verdict"),
        **more,
    )
    write_file(work / CARD, text.encode())


def _tabulate(metrics: Mapping[str, Any]) -> Table:
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
    return Table("", ["", "split", "images", *(f"{shown} [95 %]" for shown in _SHOWN.values())], rows)


def _tabulate_domains(metrics: Mapping[str, Any]) -> Table:
    each = {f"`{_plain(domain)}`": (one, one["folder"]) for domain, one in metrics["domains"].items()}
    rows = [
        [domain, place, arm, str(figures["n"]), *(_with_interval(figures, what) for what in _SHOWN)]
        for domain, (found, place) in {**each, "mean": (metrics, "")}.items()
        for arm in _ARMS
        if arm == "student" or metrics[arm] is not None
        for figures in [(found if arm == "student" else found[arm])["test"]]
    ]
    return Table("", ["held out", "folder", "", "images", *(f"{shown} [95 %]" for shown in _SHOWN.values())], rows)


def _break_down(metrics: Mapping[str, Any]) -> list[Table]:
    """Return the figures of each class and of each domain, of the split that is shown."""
    shown = next((split for split in ("test", "val") if metrics.get(split)), None)
    if shown is None:
        return []
    figures = metrics[shown]
    by = {
        "class": figures.get("classes") or {name: {"auroc": value} for name, value in figures["per_class"].items()},
        "domain": figures.get("domains") or {},
    }
    tables = []
    for what, found in by.items():
        columns = [name for name in _COLUMNS if any(name in row for row in found.values())]
        rows = [[f"`{_plain(name)}`", *(_number(row.get(column)) for column in columns)] for name, row in found.items()]
        if rows:
            tables.append(Table(f"By {what}, on {shown}", ["", *(_COLUMNS[column] for column in columns)], rows))
    return tables


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
    return str(data.to_yaml())


def _with_interval(figures: Mapping[str, Any], what: str) -> str:
    low, high = figures.get("ci95", {}).get(what, (None, None))
    return mark_interval(f"{_number(figures[what])} [{_number(low)}, {_number(high)}]", low, high)


def _number(value: object) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _plain(text: str) -> str:
    """Keep a name from being taken for Markdown: names come from whoever made the dataset."""
    return text.replace("`", "'").replace("|", "/").replace("\n", " ").replace("<", "‹").replace(">", "›")
