"""A map of the embeddings: images that the teacher finds alike lie close together, in two dimensions.

t-SNE (van der Maaten and Hinton 2008) as scikit-learn computes it, of 50 principal components, with a fixed seed. Its
time grows faster than the rows: of more than 3,000 an even sample is drawn, which the page says.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..datasets.columns.dataset import SPLITS
from .subject import Subject

__all__ = ["MOST", "Map", "Panel", "draw_map", "lay_out"]

MOST = 3_000
_FEWEST = 10
_COMPONENTS = 50
_PERPLEXITY = 30.0
# Tableau's ten; more classes than that share the last, as nobody tells twelve colours apart.
_COLOURS = ("4e79a7", "f28e2b", "59a14f", "e15759", "b07aa1", "76b7b2", "edc948", "9c755f", "ff9da7", "8d8d8d")
_REST = "others"


@dataclass(frozen=True)
class Panel:
    """The map coloured by something: a picture as ``data:`` address, and colour and count of each name."""

    by: str
    picture: str
    names: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Map:
    """The map in several colourings, of `shown` of `rows` images."""

    shown: int
    rows: int
    panels: tuple[Panel, ...]


def lay_out(feature: npt.NDArray[Any], seed: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return which rows are shown, at most 3,000, (n,), and where, (n, 2) float32."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = np.arange(len(feature))[:: max(1, -(-len(feature) // MOST))]
    values = feature[rows].astype(np.float32)
    components = min(_COMPONENTS, len(rows) - 1, values.shape[1])
    reduced = PCA(components, svd_solver="randomized", random_state=seed).fit_transform(values)
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    return rows, np.asarray(found, np.float32)


def draw_map(subject: Subject) -> Map | None:
    """Return the map of an audited set by class, split, domain and whether the teacher errs; None without features."""
    if subject.feature is None or len(subject) < _FEWEST:
        return None
    rows, place = lay_out(subject.feature)
    labels = [subject.label_name(int(row)) for row in rows]
    columns = {"class": labels, "split": [SPLITS[one] for one in subject.split[rows]]}
    if (subject.domain[rows] >= 0).any():
        columns["domain"] = [subject.domains[one] if one >= 0 else "none" for one in subject.domain[rows]]
    if subject.task == "multiclass":
        wrong = subject.logits[rows].argmax(1) != subject.label[rows]
        said = np.where(subject.label[rows] < 0, "unknown", np.where(wrong, "wrong", "right"))
        columns["the teacher's answer"] = said.tolist()
    panels = tuple(_panel(by, values, place) for by, values in columns.items())
    return Map(len(rows), len(subject), panels)


def _panel(by: str, values: Sequence[str], place: npt.NDArray[np.float32]) -> Panel:
    names, counts = np.unique(np.array(values, object).astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    ranked = [str(name) for name in names[order]]
    kept = ranked if len(ranked) <= len(_COLOURS) else ranked[: len(_COLOURS) - 1]
    colour = {name: f"#{code}" for name, code in zip(kept, _COLOURS, strict=False)}
    shown = dict(zip(ranked, counts[order].tolist(), strict=True))
    legend = [(name, colour[name], shown[name]) for name in kept]
    if len(kept) < len(ranked):
        legend.append((_REST, f"#{_COLOURS[-1]}", sum(shown[name] for name in ranked[len(kept) :])))
    return Panel(by, _picture(place, [colour.get(name, f"#{_COLOURS[-1]}") for name in values]), tuple(legend))


def _picture(place: npt.NDArray[np.float32], colours: Sequence[str]) -> str:
    """Draw points without a word: names are in the page, in whatever letters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=100)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.scatter(place[:, 0], place[:, 1], s=max(4.0, min(30.0, 12_000 / len(place))), c=list(colours), linewidths=0)
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png")
    return f"data:image/png;base64,{b64encode(out.getvalue()).decode()}"
