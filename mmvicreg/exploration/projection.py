"""Embeddings in two dimensions, for a map: PCA, or UMAP where it is installed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal

import numpy as np

from mmvicreg.errors import InvalidValueError

Projection = Literal["pca", "umap"]
FITTED_ON = 2000
"""Rows, evenly spread, that the principal axes are fitted on."""


def project(rows: Mapping[str, np.ndarray], method: Projection) -> dict[str, np.ndarray]:
    """Coordinates float32 (M, 2) of the unit rows of every view.

    Views of one width share a map; where widths differ, each view has a map of its own. Raises InvalidValueError where
    UMAP is not installed.
    """
    unit = {view: _unit(np.asarray(matrix)) for view, matrix in rows.items() if len(matrix)}
    widths = {matrix.shape[1] for matrix in unit.values()}
    place = _pca if method == "pca" else _umap
    if len(widths) > 1:
        return {view: place(matrix) for view, matrix in unit.items()}
    if not unit:
        return {}
    together = place(np.concatenate(list(unit.values())))
    ends = np.cumsum([len(matrix) for matrix in unit.values()])[:-1]
    return dict(zip(unit, np.split(together, ends), strict=True))


def _unit(rows_MD: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows_MD, axis=1, keepdims=True)
    return (rows_MD / np.where(norm > 0, norm, 1)).astype(np.float32)


def _pca(rows_MD: np.ndarray) -> np.ndarray:
    chosen = np.unique(np.linspace(0, len(rows_MD) - 1, min(len(rows_MD), FITTED_ON)).round().astype(int))
    mean_D = rows_MD[chosen].mean(0)
    sample = (rows_MD[chosen] - mean_D).astype(np.float64)
    values, vectors = np.linalg.eigh(sample @ sample.T)  # rows may be wider than they are many
    axes = sample.T @ vectors[:, ::-1][:, :2] / np.sqrt(np.maximum(values[::-1][:2], 1e-12))
    if axes.shape[1] < 2:
        axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    largest = axes[np.abs(axes).argmax(0), [0, 1]]
    axes *= np.where(largest < 0, -1, 1)  # the sign of an axis is arbitrary; this one is always the same
    return ((rows_MD - mean_D) @ axes).astype(np.float32)


def _umap(rows_MD: np.ndarray) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # umap warns of optional packages and of its own seeded mode
            from umap import UMAP

            neighbours = max(2, min(15, len(rows_MD) - 1))
            made = UMAP(n_components=2, metric="cosine", n_neighbors=neighbours, random_state=0, n_jobs=1)
            found = made.fit_transform(rows_MD)
    except ImportError:
        raise InvalidValueError(
            'a UMAP map needs umap-learn: pip install "mmvicreg[umap]", or use pca'
        ) from None
    return np.asarray(found, dtype=np.float32)
