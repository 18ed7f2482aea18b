"""A map of the embeddings: images that the teacher finds alike lie close together, in two dimensions.

t-SNE (van der Maaten and Hinton 2008) as scikit-learn computes it, of 50 principal components, with a fixed seed. Its
time grows faster than the rows: of more than 3,000 an even sample is drawn, which the page says.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..datasets.columns.dataset import UNKNOWN_BIT

__all__ = ["MOST", "Map", "Panel", "draw_map", "lay_out", "right_or_wrong"]

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


def draw_map(
    feature: npt.NDArray[Any], columns_of: Callable[[npt.NDArray[np.int64]], Mapping[str, Sequence[str]]]
) -> Map | None:
    """Return the map of some images; None of fewer than ten.

    Parameters
    ----------
    feature : (N, F)
    columns_of : gives for the rows shown, (n,), each colouring by name, (n,) values
    """
    if len(feature) < _FEWEST:
        return None
    rows, place = lay_out(feature)
    return Map(len(rows), len(feature), tuple(_panel(by, values, place) for by, values in columns_of(rows).items()))


def right_or_wrong(logits: npt.NDArray[Any], label: npt.NDArray[Any]) -> list[str]:
    """Say of each answer (N, C) whether it is the label, (N,), -1 unknown; of several labels how many are wrong."""
    if label.ndim == 1:
        wrong = logits.argmax(1) != label
        said: list[str] = np.where(label < 0, "unknown", np.where(wrong, "wrong", "right")).tolist()
        return said
    count = ((logits > 0) != label) & (label != UNKNOWN_BIT)
    words = ("right", "one wrong", "several wrong")
    return [words[min(2, one)] for one in count.sum(1).tolist()]


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
