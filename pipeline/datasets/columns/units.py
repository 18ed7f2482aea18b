"""Rows that must never be torn apart: images of one patient, and copies of one image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["find_units", "image_numbers"]


def find_units(keys: npt.NDArray[np.uint8], groups: npt.NDArray[Any] | None) -> npt.NDArray[np.int64]:
    """Number the sets of rows that are tied by a shared key or a shared group, directly or through others.

    Parameters
    ----------
    keys : (N, 16) uint8
    groups : (N,) patient, -1 none; None where no patient is known

    Returns
    -------
    (N,) int64 unit numbers from 0, in the order of each unit's smallest key
    """
    image = image_numbers(keys)
    if groups is None or not (groups >= 0).any():
        return image
    grouped = np.flatnonzero(groups >= 0)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n_images = int(image.max()) + 1
    names, patient = np.unique(groups[grouped], return_inverse=True)
    n_nodes = n_images + len(names)
    links = (np.ones(len(grouped), np.int8), (image[grouped], n_images + patient.reshape(-1)))
    _, part = connected_components(coo_array(links, shape=(n_nodes, n_nodes)), directed=False)
    _, first, unit = np.unique(part[:n_images], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return np.asarray(rank[unit.reshape(-1)][image], np.int64)


def image_numbers(keys: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Number the different keys in ascending order, (N,) int64."""
    words = np.ascontiguousarray(keys).view(">u8").astype(np.uint64)  # (N, 2)
    by_key = np.lexsort((words[:, 1], words[:, 0]))
    fresh = np.ones(len(keys), bool)
    fresh[1:] = (words[by_key[1:]] != words[by_key[:-1]]).any(1)
    image = np.empty(len(keys), np.int64)
    image[by_key] = np.cumsum(fresh) - 1
    return image
