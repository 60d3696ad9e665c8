"""Leave-one-out errors of ridge regression from one factorization, to choose ridges without validation data.

A prediction of pair i by the regression on all others is off by e_i / (1 - h_i), e_i the residual with all pairs and
h_i = 1/n + x_i' (X'X + penalty)^-1 x_i (Allen 1974). The size of the penalty is that of all pairs.

n pairs, F and G widths of what predicts and what is predicted, R ridges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.solvers.statistics.moments import Moments


def leave_one_out(
    blocks: Iterable[tuple[Tensor, Tensor]],
    moments: Moments,
    pair: tuple[str, str],
    *,
    ridges: Sequence[float],
) -> Tensor:
    """Mean squared leave-one-out error (R,), fp64, of the first space of ``pair`` predicting the second.

    ``blocks`` of x (n, F) and y (n, G): every pair once, each of the weight 1, as ``moments`` counted them. Raises
    ValueError for ridges that are not above 0.
    """
    if not ridges or not min(ridges) > 0:
        raise InvalidValueError(f"leave-one-out errors need ridges above 0, found {list(ridges)}")
    source, target = (moments.space(name) for name in pair)
    values, vectors = source.eigen
    scale = source.covariance.diagonal().mean()
    weights_FG = vectors.T @ moments.cross(*pair) / scale
    errors, count = torch.zeros(len(ridges), dtype=torch.float64), source.weight
    for x, y in blocks:
        rotated = (x.double() - source.mean) @ vectors
        centred = y.double() - target.mean
        for number, ridge in enumerate(ridges):
            inverse = 1 / (values.clamp(min=0) + ridge)
            leverage = 1 / count + (rotated.square() @ inverse) / (count * scale)
            residual = centred - (rotated * inverse) @ weights_FG
            errors[number] += (residual / (1 - leverage)[:, None]).square().sum().cpu()
    return errors / count
