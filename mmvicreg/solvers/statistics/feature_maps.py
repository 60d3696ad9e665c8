"""Feature maps of a branch: what stands between its representation and its linear map, fitted on rows of the data.

n rows, E width of a representation, F width of the features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmvicreg.branches.head import Nystrom, RandomFourier, SignedRoot, Standardize, UnitLength
from mmvicreg.errors import InvalidValueError
from mmvicreg.randomness import generator

MEDIAN_ROWS = 1000
"""Rows whose distances give the median."""
SMALLEST_EIGENVALUE = 1e-5
"""Of the kernel of the landmarks, as a fraction of the largest: below it fp32 features are rounding."""

Step = Literal["signed_root", "unit", "standardize"]


@dataclass(frozen=True)
class FeatureMap:
    """Elementwise steps in order, then optionally a kernel; empty is the identity."""

    steps: tuple[Step, ...] = ()
    """signed_root: signed square root (pooled ReLU features); unit: unit length; standardize: mean 0, deviation 1"""
    kernel: Literal["none", "nystrom", "fourier"] = "none"
    """Gaussian kernel by Nyström landmarks or by random Fourier features; none is linear"""
    features: int = 1500
    """landmarks of nystrom (at most the number of rows), or random features of fourier"""
    bandwidth: float = 1.0
    """width of the kernel, as a multiple of the median distance between rows"""


def fit_feature_map(
    feature_map: FeatureMap, rows_ME: np.ndarray, *, name: str, seed: int, device: torch.device
) -> nn.Sequential:
    """The feature map with everything it learns from the rows (M, E) of branch ``name``, float32; the same for any
    number of processes. Raises ValueError for settings out of range, and without rows."""
    if not len(rows_ME):
        raise InvalidValueError(f"branch {name!r} has no rows to fit a feature map on")
    if feature_map.features < 1 or not feature_map.bandwidth > 0:
        raise InvalidValueError(
            f"{name}: features and bandwidth of a feature map are above 0, found {feature_map.features} and "
            f"{feature_map.bandwidth}"
        )
    fitted: list[nn.Module] = []
    for step in feature_map.steps:
        if step == "standardize":
            fitted.append(_fit_standardize(nn.Sequential(*fitted).to(device), rows_ME, device))
        else:
            fitted.append(SignedRoot() if step == "signed_root" else UnitLength())
    if feature_map.kernel != "none":
        before = nn.Sequential(*fitted).to(device)
        random = generator(seed, "landmarks", name)
        chosen = np.sort(random.permutation(len(rows_ME))[: max(feature_map.features, MEDIAN_ROWS)])
        rows = before(_rows(rows_ME, chosen, device))
        fitted.append(_fit_kernel(feature_map, rows, random, name=name))
    return nn.Sequential(*fitted).to(device).eval()


def _rows(rows_ME: np.ndarray, chosen: np.ndarray | slice, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(rows_ME[chosen], dtype=np.float32)).to(device)


def blocks(count: int, size: int = 2048) -> Iterable[slice]:
    """Consecutive ranges of at most ``size`` of ``count`` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _fit_standardize(before: nn.Sequential, rows_ME: np.ndarray, device: torch.device) -> Standardize:
    origin = before(_rows(rows_ME, slice(0, 1), device)).double()
    first, second = torch.zeros_like(origin[0]), torch.zeros_like(origin[0])
    for part in blocks(len(rows_ME)):
        x = before(_rows(rows_ME, part, device)).double() - origin
        first += x.sum(0)
        second += x.square().sum(0)
    mean = first / len(rows_ME)
    deviation = (second / len(rows_ME) - mean.square()).clamp(min=0).sqrt()
    varies = deviation > 1e-6 * deviation.max()
    made = Standardize(len(mean))
    made.mean.copy_(mean + origin[0])
    made.inverse_deviation.copy_(
        torch.where(varies, 1 / deviation.clamp(min=1e-300), torch.zeros_like(deviation))
    )
    return made


def _fit_kernel(
    feature_map: FeatureMap, rows_mE: Tensor, random: np.random.Generator, *, name: str
) -> Nystrom | RandomFourier:
    order = torch.from_numpy(random.permutation(len(rows_mE))).to(rows_mE.device)
    shuffled = rows_mE[order]
    distances = _distances(shuffled[:MEDIAN_ROWS].double())
    median = float(distances.median()) if len(distances) else 0.0
    if not median > 0:
        raise InvalidValueError(
            f"the median distance between rows of {name!r} is {median:g}: most rows are equal, so a kernel has no "
            "bandwidth; choose kernel none, or check that branch's encoder"
        )
    gamma = 1 / (2 * (feature_map.bandwidth * median) ** 2)
    if feature_map.kernel == "fourier":
        made = RandomFourier(rows_mE.shape[1], max(1, feature_map.features // 2))
        drawn = random.standard_normal(tuple(made.directions.shape))
        made.directions.copy_(torch.from_numpy(drawn * (2 * gamma) ** 0.5))
        return made
    return _fit_nystrom(shuffled[: feature_map.features], gamma)


def _distances(rows_mE: Tensor) -> Tensor:
    """Of every two rows, by one matrix product about their mean."""
    centred = rows_mE - rows_mE.mean(0)
    squared = centred.square().sum(1)
    products = centred @ centred.T
    first, second = torch.triu_indices(len(products), len(products), offset=1, device=products.device)
    return (squared[first] + squared[second] - 2 * products[first, second]).clamp(min=0).sqrt()


def _fit_nystrom(landmarks_mE: Tensor, gamma: float) -> Nystrom:
    exact = torch.exp(-gamma * torch.cdist(landmarks_mE.double(), landmarks_mE.double()).square())
    values, vectors = torch.linalg.eigh(exact)
    kept = values > SMALLEST_EIGENVALUE * values[-1]
    projection = vectors[:, kept] * values[kept].rsqrt()
    made = Nystrom(landmarks_mE.shape[1], len(landmarks_mE), projection.shape[1])
    made.landmarks.copy_(landmarks_mE)
    made.projection.copy_(projection)
    made.gamma.fill_(gamma)
    return made
