"""Independence of the dimensions of an embedding: pairwise HSIC, joint dHSIC, and how Gaussian slices are.

Shapes: N rows, D dimensions. Float64; memory N x N, so give a few thousand rows at most. Kernels are RBF
exp(-d^2 / (2 s^2)) with the median heuristic (s the median distance of different rows), per dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.unit_rows import require_finite
from mmvicreg.objectives.regularizers.sigreg import sigreg_statistic

ROWS = 512
PAIRS = 50
GROUPS = 20


@dataclass(frozen=True)
class Independence:
    """``pairwise_hsic`` of ``pairs`` random pairs of dimensions, ``dhsic`` of random groups of four, and the
    ``sigreg`` statistic (1.06 for standard normal rows), from ``rows`` rows."""

    rows: int
    pairs: int
    pairwise_hsic: float
    dhsic: float
    sigreg: float


def independence(z_ND: Tensor, *, rows: int = ROWS, pairs: int = PAIRS, seed: int = 0) -> Independence:
    """Every measure of this file on at most ``rows`` rows, evenly spread. nan where rows or dimensions are too few.

    Each dimension has its own bandwidth, so scale does not matter to HSIC; it does to the SIGReg statistic.
    """
    require_finite(z_ND, "embeddings")
    chosen = torch.linspace(0, len(z_ND) - 1, min(rows, len(z_ND))).round().long().unique()
    z_nD = z_ND[chosen]
    n, d = z_nD.shape
    enough = n >= 4 and d >= 2
    return Independence(
        rows=n,
        pairs=min(pairs, d * (d - 1) // 2),
        pairwise_hsic=pairwise_hsic(z_nD, pairs=pairs, seed=seed) if enough else float("nan"),
        dhsic=group_dhsic(z_nD, seed=seed) if enough else float("nan"),
        sigreg=sigreg_statistic(z_nD.double(), seed=seed),
    )


def rbf_kernel(x_ND: Tensor) -> Tensor:
    """(N, N) kernel of rows, bandwidth the median distance between different rows.

    A constant input has the constant kernel 1.
    """
    x_ND = x_ND.double().reshape(len(x_ND), -1)
    square_NN = torch.cdist(x_ND, x_ND).square()
    upper = square_NN[tuple(torch.triu_indices(len(x_ND), len(x_ND), 1))]
    median = upper.median()
    return torch.ones_like(square_NN) if median <= 0 else torch.exp(-square_NN / (2 * median))


def unbiased_hsic(k_NN: Tensor, l_NN: Tensor) -> float:
    """Unbiased HSIC of two kernel matrices (Song et al. 2012, JMLR 13, eq. 5); its mean is 0 if independent.

    With K~, L~ the kernels with zero diagonals: [tr(K~L~) + 1'K~1 1'L~1 / ((n-1)(n-2)) - 2/(n-2) 1'K~L~1] /
    (n(n-3)). Raises ValueError below four rows.
    """
    n = len(k_NN)
    if n < 4:
        raise InvalidValueError(f"unbiased HSIC needs at least 4 rows, found {n}")
    k, l = k_NN.double().clone(), l_NN.double().clone()  # noqa: E741
    k.fill_diagonal_(0)
    l.fill_diagonal_(0)
    cross = (k.sum(0) * l.sum(1)).sum()
    total = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * cross
    return float(total / (n * (n - 3)))


def pairwise_hsic(z_ND: Tensor, *, pairs: int = 200, seed: int = 0) -> float:
    """Mean unbiased HSIC over ``pairs`` random pairs of different dimensions (all pairs if there are fewer)."""
    d = z_ND.shape[1]
    if d < 2:
        raise InvalidValueError(f"pairs of dimensions need two, found {d}")
    rows, columns = np.triu_indices(d, 1)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:pairs]
    kernels: dict[int, Tensor] = {}
    values = []
    for i in chosen[np.lexsort((columns[chosen], rows[chosen]))]:
        a, b = int(rows[i]), int(columns[i])
        kernels = {j: kernel for j, kernel in kernels.items() if j == a}  # sorted by a: one kernel is kept
        if a not in kernels:
            kernels[a] = rbf_kernel(z_ND[:, a])
        values.append(unbiased_hsic(kernels[a], rbf_kernel(z_ND[:, b])))
    return float(np.mean(values))


def dhsic(z_ND: Tensor) -> float:
    """Joint dHSIC of all dimensions (Pfister et al. 2018, JRSS B 80, def. 2.6), the biased V-statistic.

    mean(prod K_j) + prod mean(K_j) - 2 mean_n(prod_j mean_m K_j[n, m]); 0 in the limit iff jointly independent.
    """
    joint: Tensor | float = 1.0
    separate: Tensor | float = 1.0
    mixed: Tensor | float = 1.0
    for column in z_ND.T:
        kernel = rbf_kernel(column)
        joint = joint * kernel
        separate = separate * kernel.mean()
        mixed = mixed * kernel.mean(1)
    return float(torch.as_tensor(joint).mean() + separate - 2 * torch.as_tensor(mixed).mean())


def group_dhsic(z_ND: Tensor, *, size: int = 4, groups: int = GROUPS, seed: int = 0) -> float:
    """Mean dHSIC of random groups of ``size`` dimensions: of very many at once it says little, as every product of
    kernels goes to 0. The V-statistic is biased: compare runs with equal numbers of rows."""
    random = np.random.default_rng(seed)
    size = min(size, z_ND.shape[1])
    chosen = [random.permutation(z_ND.shape[1])[:size].copy() for _ in range(groups)]
    return float(np.mean([dhsic(z_ND[:, torch.from_numpy(group)]) for group in chosen]))
