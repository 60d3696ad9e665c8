"""What paired representations have in common, and what closed-form solvers can be expected to make of it.

Spectrum: canonical correlations beside those of shuffled pairs, which are what chance gives. Aligning or predicting:
canonical correlation analysis and ridge regression on half of the samples, scored on the other half; correlated
nuisance breaks the former, noisy targets the latter (arXiv 2606.11190). Learning curve: the same from fewer pairs.

N pairs, E and G widths, K axes, P permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmvicreg.errors import InvalidValueError
from mmvicreg.solvers.canonical import CCA
from mmvicreg.solvers.ridge import Ridge
from mmvicreg.solvers.scoring import Scorer
from mmvicreg.solvers.selection import solve_setting
from mmvicreg.solvers.statistics.moments import Moments
from mmvicreg.solvers.statistics.pairing import PairedRows, count_moments
from mmvicreg.solvers.statistics.space_features import Space
from mmvicreg.solvers.whitening import Whitening, whitening_matrix

FEWEST = 8
"""Pairs without which there is nothing to measure."""
NEIGHBOURS = 10
LARGEST = 4096
"""Pairs among which neighbours are compared: the comparison takes N^2."""


@dataclass(frozen=True)
class Diagnosis:
    """Of one pair of branches."""

    pairs: int
    correlations: np.ndarray
    """canonical correlations (K,), regularized, largest first"""
    chance: np.ndarray
    """the 95th percentile of each over shuffled pairs (K,)"""
    shared_dimensions: int
    """axes above the largest correlation that chance gives"""
    effective_dimensions: float
    """(sum of r^2)^2 / sum of r^4 of the shared axes"""
    aligning: float
    """mean recall of CCA on held-out samples, a fraction"""
    predicting: float
    """the same of two-way ridge regression"""
    margin: float
    """how far apart the two must be to be told apart: two standard errors"""
    curve: tuple[tuple[int, float], ...]
    """training pairs and mean recall on the same held-out samples"""
    twice: float
    """mean recall expected of twice the pairs, by the last two doublings"""
    mutual_neighbours: dict[str, float]
    """of representations and of embeddings: fraction of the 10 nearest neighbours that both branches share"""


@torch.no_grad()
def diagnose_pair(
    data: PairedRows, embeddings: PairedRows, *, ridge: float = 0.3, permutations: int = 20, seed: int = 0
) -> Diagnosis:
    """Diagnose the two branches of ``data`` (representations); ``embeddings`` are the same rows behind the heads.

    Raises ValueError for fewer than 8 pairs, constant branches and features that are not finite.
    """
    random = np.random.default_rng(seed)
    first, second = data.rows
    query_N, item_N = data.positives(first, second).pairs()
    if len(query_N) < FEWEST:
        raise InvalidValueError(
            f"{len(query_N)} samples have both {first!r} and {second!r}; a diagnosis needs at least {FEWEST}"
        )
    moments = _moments(data)
    solver = CCA(Whitening(ridge=ridge))
    found = solver.decompose(moments).strengths.numpy()
    null_PK = _null(data, moments, (query_N, item_N), ridge=ridge, count=permutations, random=random)
    null_PK = null_PK[:, : len(found)]
    shared = int((found[: null_PK.shape[1]] > np.quantile(null_PK[:, 0], 0.95)).sum())
    squares = found[:shared] ** 2
    curve, aligning, predicting, queries = _held_out(data, ridge=ridge, random=random)
    error = 2 * float(np.sqrt(max(aligning * (1 - aligning), 0.01) / queries))
    return Diagnosis(
        pairs=len(query_N),
        correlations=found,
        chance=np.quantile(null_PK, 0.95, axis=0),
        shared_dimensions=shared,
        effective_dimensions=float(squares.sum() ** 2 / (squares**2).sum()) if shared else 0.0,
        aligning=aligning,
        predicting=predicting,
        margin=error,
        curve=curve,
        twice=_doubled(curve),
        mutual_neighbours={
            "representations": mutual_neighbours(data, query_N, item_N),
            "embeddings": mutual_neighbours(embeddings, query_N, item_N),
        },
    )


def _moments(data: PairedRows) -> Moments:
    return count_moments(data, {name: Space(name, nn.Sequential()) for name in data.rows})


def _null(
    data: PairedRows,
    moments: Moments,
    pairs: tuple[np.ndarray, np.ndarray],
    *,
    ridge: float,
    count: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Canonical correlations (P, K) of shuffled pairs; the whitened rows are computed once."""
    whitened = []
    for name, rows in zip(data.rows, pairs, strict=True):
        space = moments.space(name)
        x = torch.from_numpy(np.array(data.rows[name][rows], dtype=np.float32)).double() - space.mean
        whitened.append((x @ whitening_matrix(name, space, Whitening(ridge=ridge))).float())
    x, y = whitened
    found = []
    for _ in range(count):
        shuffled = y[torch.from_numpy(random.permutation(len(y)))]
        found.append(torch.linalg.svdvals(x.T @ shuffled / len(x)).numpy())
    return np.stack(found)


def _held_out(
    data: PairedRows, *, ridge: float, random: np.random.Generator
) -> tuple[tuple[tuple[int, float], ...], float, float, int]:
    """Learning curve, aligning, predicting, and the number of queries: solved on one half, scored on the other.

    Samples that share an item (a caption of several images) are never divided.
    """
    groups = _groups(data)
    order = random.permutation(len(groups))
    half = len(groups) // 2
    spaces = {name: Space(name, nn.Sequential()) for name in data.rows}
    held_out = data.take(np.concatenate([groups[number] for number in order[half:]]))
    score = Scorer(held_out, spaces, torch.device("cpu"))
    curve, predicting = [], 0.0
    for divisor in (8, 4, 2, 1):
        chosen = order[: max(2, half // divisor)]
        part = data.take(np.concatenate([groups[number] for number in chosen]))
        moments = _moments(part)
        pairs = len(part.positives(*part.rows).indices)
        curve.append((pairs, score(solve_setting(CCA(Whitening(ridge=ridge)), moments))))
        if divisor == 1:
            solver = Ridge(ridge=ridge, target=Whitening(ridge=ridge))
            predicting = score(solve_setting(solver, moments))
    queries = min(len(rows) for rows in held_out.rows.values())
    return tuple(curve), curve[-1][1], predicting, queries


def _groups(data: PairedRows) -> list[np.ndarray]:
    """Sample numbers that belong together because some row occurs in all of them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = [
        (each[0], other) for samples in data.samples.values() for each in samples if each for other in each
    ]
    count = max(max(link) for link in links) + 1
    a, b = np.array(links).T
    _, labels = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(count, count)), False)
    present = np.unique(b)
    order = present[np.argsort(labels[present], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _doubled(curve: Sequence[tuple[int, float]]) -> float:
    """What twice the pairs would score if the gain of a doubling stayed as over the last two."""
    gain = (curve[-1][1] - curve[-3][1]) / max(np.log2(curve[-1][0] / max(curve[-3][0], 1)), 1e-9)
    return float(np.clip(curve[-1][1] + max(gain, 0.0), 0.0, 1.0))


def mutual_neighbours(data: PairedRows, query_N: np.ndarray, item_N: np.ndarray) -> float:
    """Fraction of the 10 nearest neighbours by cosine that the rows of both branches have in common, over the pairs
    (at most 4,096), as Huh et al. measure it (arXiv 2405.07987)."""
    chosen = np.linspace(0, len(query_N) - 1, min(len(query_N), LARGEST)).astype(int)
    count = min(NEIGHBOURS, len(chosen) - 1)
    neighbours: list[Tensor] = []
    for name, rows in zip(data.rows, (query_N[chosen], item_N[chosen]), strict=True):
        x = normalize(torch.from_numpy(np.array(data.rows[name][rows], dtype=np.float32)), dim=1)
        scores = (x @ x.T).fill_diagonal_(-2.0)
        neighbours.append(scores.topk(count, dim=1).indices)
    one, other = neighbours
    return float((one[:, :, None] == other[:, None, :]).any(2).float().mean())


def restricted(data: PairedRows, first: str, second: str) -> PairedRows:
    """Two branches alone."""
    names = (first, second)
    return replace(
        data,
        rows={name: data.branch(name) for name in names},
        samples={name: data.samples[name] for name in names},
    )
