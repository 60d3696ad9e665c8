"""Every regularizer and alignment there is, each with a slow reference written from its equation.

A reference takes the whole batch in fp64 and gives the same named terms by the plainest code, with
autograd's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmvicreg.alignments import Alignment, InfoNCE, Invariance
from mmvicreg.regularizers import (
    HSIC,
    Regularizer,
    SIGReg,
    SlicedWasserstein,
    VarianceCovariance,
    VISReg,
)
from mmvicreg.regularizers.directions import directions

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class RegularizerCase:
    """``reference(z_ND, seed)``: the same terms from the whole batch."""

    make: Callable[[], Regularizer]
    reference: Callable[[Tensor, int], Terms]


@dataclass(frozen=True)
class AlignmentCase:
    """``reference(alignment, a_ND, b_ND, seed, targets)``: the same terms from the whole batch."""

    make: Callable[[], Alignment]
    reference: Callable[[Any, Tensor, Tensor, int, Any], Terms]
    width: int = 12


def variance_covariance(z: Tensor, seed: int) -> Terms:
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    off = covariance - torch.diag(torch.diagonal(covariance))
    std = torch.sqrt(z.var(0, unbiased=True) + 1e-4)
    return {"variance": torch.relu(1 - std).mean(), "covariance": off.square().sum() / z.shape[1]}


def only_variance(z: Tensor, seed: int) -> Terms:
    return {"variance": variance_covariance(z, seed)["variance"]}


def epps_pulley(z: Tensor, seed: int, *, slices: int, knots: int, times_rows: bool) -> Terms:
    x = z @ directions(z, slices=slices, seed=seed).double()
    t = torch.linspace(-3, 3, 2 * knots - 1, dtype=torch.float64)
    phases = x[:, :, None] * t
    gap = (phases.cos().mean(0) - torch.exp(-(t**2) / 2)).square() + phases.sin().mean(0).square()
    integral = torch.trapezoid(gap * torch.exp(-(t**2) / 2), t)
    return {"sigreg": integral.mean() * (len(z) if times_rows else 1)}


def sigreg(z: Tensor, seed: int) -> Terms:
    return epps_pulley(z, seed, slices=40, knots=17, times_rows=True)


def sigreg_without_rows(z: Tensor, seed: int) -> Terms:
    return epps_pulley(z, seed, slices=10, knots=9, times_rows=False)


def sliced_wasserstein(z: Tensor, seed: int) -> Terms:
    x = z @ directions(z, slices=20, seed=seed).double()
    n = len(z)
    q = torch.special.ndtri(torch.arange(1, n + 1, dtype=torch.float64) / (n + 1))
    return {"sliced_wasserstein": (x.sort(0).values - q[:, None]).square().mean()}


def visreg(z: Tensor, seed: int) -> Terms:
    mean = z.mean(0)
    std = torch.linalg.vector_norm(z - mean, dim=0) / len(z) ** 0.5 + 1e-6
    shape = sliced_wasserstein((z - mean) / std.detach(), seed)["sliced_wasserstein"]
    return {"scale": (1 - std).square().mean(), "center": mean.square().mean(), "shape": shape}


def hsic(z: Tensor, seed: int) -> Terms:
    n, d = z.shape
    center = torch.eye(n, dtype=z.dtype) - 1 / n
    kernels = [center @ torch.exp(-0.5 * (x[:, None] - x[None]).square() / 1.44) @ center for x in z.T]
    stacked = torch.stack(kernels).flatten(1)
    pairs = stacked @ stacked.T
    return {"hsic": (pairs.sum() - pairs.diagonal().sum()) / (n - 1) ** 2 / (d * (d - 1))}


def invariance(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
    return {"invariance": (a - b).square().mean()}


def info_nce(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
    logits = alignment.log_scale.exp() * normalize(a) @ normalize(b).T
    correct = torch.diagonal(torch.log_softmax(logits, 1)) + torch.diagonal(torch.log_softmax(logits, 0))
    return {"infonce": -correct.mean() / 2}


REGULARIZERS = {
    "variance_covariance": RegularizerCase(VarianceCovariance, variance_covariance),
    "gram": RegularizerCase(lambda: VarianceCovariance(form="gram"), variance_covariance),
    "covariance": RegularizerCase(lambda: VarianceCovariance(form="covariance"), variance_covariance),
    "variance": RegularizerCase(lambda: VarianceCovariance(covariance=0.0), only_variance),
    "sigreg": RegularizerCase(lambda: SIGReg(weight=0.5, slices=40, chunk=16), sigreg),
    "sigreg_without_rows": RegularizerCase(
        lambda: SIGReg(slices=10, knots=9, times_rows=False), sigreg_without_rows
    ),
    "sliced_wasserstein": RegularizerCase(lambda: SlicedWasserstein(slices=20, chunk=7), sliced_wasserstein),
    "visreg": RegularizerCase(lambda: VISReg(scale=0.5, shape=2.0, slices=20), visreg),
    "hsic": RegularizerCase(lambda: HSIC(bandwidth=1.2), hsic),
}

ALIGNMENTS = {
    "invariance": AlignmentCase(Invariance, invariance),
    "info_nce": AlignmentCase(InfoNCE, info_nce),
}


def shards(counts: tuple[int, ...], width: int, *, views: int = 1) -> list[list[Tensor]]:
    """Per view, per process: fp64 rows from distributions that differ between processes."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for _ in range(views):
        rows = [torch.randn(n, width, generator=generator, dtype=torch.float64) for n in counts]
        made.append([(0.4 + 0.3 * r) * x + 0.5 * r * torch.sin(x) + 0.2 * r for r, x in enumerate(rows)])
    return made


def weighted(terms: Terms, weights: dict[str, float]) -> Tensor:
    """What the objective differentiates."""
    assert set(terms) == set(weights)
    return sum((weights[name] * value for name, value in terms.items()), torch.zeros(()))


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm expected (or the norm found, where zero is expected)."""
    norm = torch.linalg.vector_norm(expected.double()).item()
    return torch.linalg.vector_norm(found.double() - expected.double()).item() / (norm or 1.0)
