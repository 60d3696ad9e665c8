"""Independent sources, their mixtures, and how well they are found again.

N rows, D sources; float64 arrays (N, D), columns of mean 0 and variance 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


def _standard(x_ND: Rows) -> Rows:
    centred = x_ND - x_ND.mean(0)
    return np.asarray(centred / centred.std(0))


def sources(rows: int, count: int, seed: int) -> Rows:
    """Independent non-Gaussian sources: uniform, Laplace, two values with noise, exponential, a sine, in turn."""
    random = np.random.default_rng([seed, 0])
    draws = (
        lambda: random.uniform(-1, 1, rows),
        lambda: random.laplace(size=rows),
        lambda: random.choice([-1.0, 1.0], rows) + 0.3 * random.normal(size=rows),
        lambda: random.exponential(size=rows),
        lambda: np.sin(random.uniform(0, 2 * np.pi, rows)),
    )
    return _standard(np.stack([draws[n % len(draws)]() for n in range(count)], axis=1))


def _whitened(x_ND: Rows) -> Rows:
    centred = x_ND - x_ND.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x_ND))
    return np.asarray(centred @ vectors / np.sqrt(values))


def mix(s_ND: Rows, seed: int) -> Rows:
    """Sources after a random orthonormal matrix, whitened."""
    count = s_ND.shape[1]
    rotation, _ = np.linalg.qr(np.random.default_rng([seed, 1]).normal(size=(count, count)))
    return _whitened(s_ND @ rotation)


def mix_nonlinearly(s_ND: Rows, seed: int) -> Rows:
    """Sources through two random orthonormal layers with a leaky rectifier in between, whitened: invertible."""
    random, count = np.random.default_rng([seed, 2]), s_ND.shape[1]
    first, second = (np.linalg.qr(random.normal(size=(count, count)))[0] for _ in range(2))
    hidden = s_ND @ first
    return _whitened(np.where(hidden > 0, hidden, 0.2 * hidden) @ second)


def fast_ica(x_ND: Rows, seed: int) -> Rows:
    """What scikit-learn's FastICA finds."""
    from sklearn.decomposition import FastICA

    found = FastICA(whiten="unit-variance", random_state=seed, max_iter=1000).fit_transform(x_ND)
    return np.asarray(found)


def recovered(s_ND: Rows, found_ND: Rows) -> float:
    """Mean absolute correlation of sources with the components that match them best, one to one."""
    from scipy.optimize import linear_sum_assignment

    correlation = np.abs(_standard(s_ND).T @ _standard(found_ND)) / len(s_ND)
    rows, columns = linear_sum_assignment(-correlation)
    return float(correlation[rows, columns].mean())


def amari(s_ND: Rows, found_ND: Rows) -> float:
    """Amari distance of the map from sources to components to a scaled permutation: 0 is a perfect unmixing, 1 the
    worst (Amari, Cichocki, Yang 1996, divided by its largest value)."""
    gains = np.abs(np.linalg.lstsq(s_ND, found_ND, rcond=None)[0])
    count = len(gains)
    by_row = (gains.sum(1) / gains.max(1) - 1).sum()
    by_column = (gains.sum(0) / gains.max(0) - 1).sum()
    return float((by_row + by_column) / (2 * count * (count - 1)))
