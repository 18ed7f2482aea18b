"""Labels spread over the graph of nearest neighbours of all rows of train, labelled or not.

After Zhou et al., Learning with local and global consistency, NeurIPS 2003. Features are known of every image and
labels of few, and images that a frozen teacher finds alike mostly have the same label.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, diags_array

__all__ = ["neighbour_graph", "spread_labels"]

# Of the similarity, so that near neighbours count for more (Iscen et al., CVPR 2019, arXiv:1904.04717).
_POWER = 3
# What is left of a label after so many steps is 0.9¹⁰⁰, 3 · 10⁻⁵ of it.
_STEPS = 100


def neighbour_graph(
    matrix: npt.NDArray[np.float32], *, components: int, neighbours: int
) -> csr_array[Any, tuple[int, int]]:
    """Return the symmetric graph of nearest neighbours, normalised by the roots of its degrees, (n, n).

    Rows are compared by the cosine of their first principal components, each of unit variance.

    Parameters
    ----------
    matrix : (n, F) standardised
    """
    from sklearn.neighbors import NearestNeighbors

    count = len(matrix)
    direction = _whitened(matrix, min(components, count - 1, matrix.shape[1]))
    found = NearestNeighbors(n_neighbors=min(neighbours, count - 1), algorithm="brute").fit(direction)
    distance, near = found.kneighbors()  # (n, k), never the row itself
    similarity = np.maximum(1 - distance**2 / 2, 0) ** _POWER  # of unit vectors, from their distance
    rows = np.repeat(np.arange(count), near.shape[1])
    one_way = csr_array((similarity.ravel(), (rows, near.ravel())), shape=(count, count))
    both = csr_array(one_way.maximum(one_way.T))
    degree = np.asarray(both.sum(1)).ravel()
    scale = np.divide(1.0, np.sqrt(degree), out=np.zeros(count), where=degree > 0)
    return csr_array(diags_array(scale) @ both @ diags_array(scale))


def spread_labels(
    graph: csr_array[Any, tuple[int, int]],
    target: npt.NDArray[np.float64],
    given: npt.NDArray[np.bool_],
    *,
    share: float,
) -> npt.NDArray[np.float64]:
    """Return soft labels of all rows, (n, K), those that are given unchanged.

    Each class keeps the mass that it has among the labels given (Zhu et al., ICML 2003), or the most frequent one
    would take all that is unsure. A row that no label reaches gets the frequencies of the classes.

    Parameters
    ----------
    target : (n, K) of 0 and 1, one 1 a row where `given`
    given : (n,) whose label is known
    share : of a row's soft label, what comes from its neighbours
    """
    known = target * given[:, None]
    frequency = known.sum(0) / known.sum()
    mass = known
    for _ in range(_STEPS):
        mass = share * (graph @ mass) + known
    total = mass.sum(0)
    mass = mass * np.divide(frequency, total, out=np.zeros_like(total), where=total > 0)
    row_mass = mass.sum(1, keepdims=True)
    soft = np.where(row_mass > 0, np.divide(mass, row_mass, out=np.zeros_like(mass), where=row_mass > 0), frequency)
    return np.where(given[:, None], target, soft)


def _whitened(matrix: npt.NDArray[np.float32], components: int) -> npt.NDArray[np.float64]:
    """Return the directions of the rows in their first principal components, each of unit variance, (n, components)."""
    from scipy.linalg import eigh

    count, width = matrix.shape
    centred = matrix - matrix.mean(0, dtype=np.float64).astype(np.float32)
    # Of the two square matrices with the same eigenvalues the smaller one.
    wide = count <= width
    square = (centred @ centred.T if wide else centred.T @ centred).astype(np.float64)
    last = len(square) - 1
    value, vector = eigh(square, subset_by_index=(last - components + 1, last))
    keep = value > value[-1] * np.finfo(np.float32).eps * max(count, width)
    value, vector = value[keep], vector[:, keep]
    scores = vector * np.sqrt(count) if wide else centred @ (vector / np.sqrt(value / count))
    length = np.linalg.norm(scores, axis=1, keepdims=True)
    return np.asarray(np.divide(scores, length, out=np.zeros_like(scores), where=length > 0), np.float64)
