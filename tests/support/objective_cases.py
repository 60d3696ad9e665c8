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
from torch.nn.functional import logsigmoid, normalize

from mmvicreg.objectives.alignments import (
    Alignment,
    BarlowTwins,
    Cosine,
    InfoNCE,
    Invariance,
    MaxHinge,
    MomentumQueue,
    Prediction,
    Prototypes,
    Sigmoid,
    SumAlignment,
    WhitenedMSE,
)
from mmvicreg.objectives.regularizers import (
    HSIC,
    Regularizer,
    SIGReg,
    SlicedWasserstein,
    VICReg,
    VISReg,
)
from mmvicreg.objectives.regularizers.directions import directions

LossTerms = dict[str, Tensor]


@dataclass(frozen=True)
class RegularizerCase:
    """``reference(z_ND, seed)``: the same terms from the whole batch."""

    make: Callable[[], Regularizer]
    reference: Callable[[Tensor, int], LossTerms]


@dataclass(frozen=True)
class AlignmentCase:
    """``reference(alignment, a_ND, b_ND, seed, targets)``: the same terms from the whole batch."""

    make: Callable[[], Alignment]
    reference: Callable[[Any, Tensor, Tensor, int, Any], LossTerms]
    width: int = 12
    autocast: float = 1e-5
    """Largest relative error of a term under bf16 autocast: predictors are networks and run in bf16."""


def vicreg(z: Tensor, seed: int) -> LossTerms:
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    off = covariance - torch.diag(torch.diagonal(covariance))
    std = torch.sqrt(z.var(0, unbiased=True) + 1e-4)
    return {"variance": torch.relu(1 - std).mean(), "covariance": off.square().sum() / z.shape[1]}


def only_variance(z: Tensor, seed: int) -> LossTerms:
    return {"variance": vicreg(z, seed)["variance"]}


def epps_pulley(z: Tensor, seed: int, *, slices: int, knots: int, times_rows: bool) -> LossTerms:
    x = z @ directions(z, slices=slices, seed=seed).double().T
    t = torch.linspace(-3, 3, 2 * knots - 1, dtype=torch.float64)
    phases = x[:, :, None] * t
    gap = (phases.cos().mean(0) - torch.exp(-(t**2) / 2)).square() + phases.sin().mean(0).square()
    integral = torch.trapezoid(gap * torch.exp(-(t**2) / 2), t)
    return {"sigreg": integral.mean() * (len(z) if times_rows else 1)}


def sigreg(z: Tensor, seed: int) -> LossTerms:
    return epps_pulley(z, seed, slices=40, knots=17, times_rows=True)


def sigreg_without_rows(z: Tensor, seed: int) -> LossTerms:
    return epps_pulley(z, seed, slices=10, knots=9, times_rows=False)


def sliced_wasserstein(z: Tensor, seed: int) -> LossTerms:
    x = z @ directions(z, slices=20, seed=seed).double().T
    n = len(z)
    q = torch.special.ndtri(torch.arange(1, n + 1, dtype=torch.float64) / (n + 1))
    return {"sliced_wasserstein": (x.sort(0).values - q[:, None]).square().mean()}


def visreg(z: Tensor, seed: int) -> LossTerms:
    mean = z.mean(0)
    std = torch.linalg.vector_norm(z - mean, dim=0) / len(z) ** 0.5 + 1e-6
    shape = sliced_wasserstein((z - mean) / std.detach(), seed)["sliced_wasserstein"]
    return {"scale": (1 - std).square().mean(), "center": mean.square().mean(), "shape": shape}


def hsic(z: Tensor, seed: int) -> LossTerms:
    n, d = z.shape
    center = torch.eye(n, dtype=z.dtype) - 1 / n
    kernels = [center @ torch.exp(-0.5 * (x[:, None] - x[None]).square() / 1.44) @ center for x in z.T]
    stacked = torch.stack(kernels).flatten(1)
    pairs = stacked @ stacked.T
    return {"hsic": (pairs.sum() - pairs.diagonal().sum()) / (n - 1) ** 2 / (d * (d - 1))}


def invariance(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    return {"invariance": (a - b).square().mean()}


def info_nce(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    logits = alignment.log_scale.exp() * normalize(a) @ normalize(b).T
    correct = torch.diagonal(torch.log_softmax(logits, 1)) + torch.diagonal(torch.log_softmax(logits, 0))
    return {"infonce": -correct.mean() / 2}


def cosine(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    return {"cosine": 1 - torch.cosine_similarity(a, b).mean()}


def barlow_twins(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    a, b = ((x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + 1e-5) for x in (a, b))
    correlation = a.T @ b / len(a)
    on = correlation.diagonal()
    return {
        "diagonal": (1 - on).square().sum(),
        "off_diagonal": (correlation - torch.diag(on)).square().sum(),
    }


def whitened_mse(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    size = min(alignment.size, len(a))
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(seed))
    distances = []
    for start in range(0, len(a) - size + 1, size):
        whitened = []
        for x in (a, b):
            x = x[order[start : start + size]]
            c = (1 - 1e-3) * torch.cov(x.T) + 1e-3 * torch.eye(x.shape[1], dtype=x.dtype)
            whitened.append((x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(c)).T)
        distances.append(2 - 2 * torch.cosine_similarity(*whitened))
    return {"whitened": torch.cat(distances).mean()}


def sigmoid(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    logits = normalize(a) @ normalize(b).T * alignment.log_scale.exp() + alignment.bias
    return {"sigmoid": -logsigmoid((2 * torch.eye(len(a)) - 1) * logits).sum() / len(a)}


def max_hinge(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    scores = normalize(a) @ normalize(b).T
    own = scores.diagonal()
    hinges = [torch.relu(0.2 + scores - own[:, None]), torch.relu(0.2 + scores - own[None])]
    hinges = [hinge * (1 - torch.eye(len(a))) for hinge in hinges]
    return {"max_hinge": (hinges[0].amax(1) + hinges[1].amax(0)).mean()}


def prediction_mse(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    of_b, of_a = a @ alignment.from_a[0].weight.T, b @ alignment.from_b[0].weight.T
    return {"prediction": ((of_b - b.detach()).square().mean() + (of_a - a.detach()).square().mean()) / 2}


def prediction_ema(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    of_b, of_a = a @ alignment.from_a[0].weight.T, b @ alignment.from_b[0].weight.T
    cosines = torch.cosine_similarity(of_b, targets[1]) + torch.cosine_similarity(of_a, targets[0])
    return {"prediction": (2 - cosines).mean()}


def momentum_queue(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    keys = [normalize(x) for x in targets]
    total = torch.zeros(())
    for query, key, queue in ((a, keys[1], alignment.queue_b), (b, keys[0], alignment.queue_a)):
        query = normalize(query)
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1) / 0.07
        total = total - torch.log_softmax(logits, 1)[:, 0].mean() / 2
    return {"momentum_queue": total}


def prototypes(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    with torch.no_grad():
        alignment.prototypes.copy_(normalize(alignment.prototypes))
    scores = [normalize(x) @ alignment.prototypes.T for x in (a, b)]
    codes = []
    for score in scores:
        code = torch.exp(score.detach() / 0.05).T
        code = code / code.sum()
        for _ in range(3):
            code = code / code.sum(1, keepdim=True) / len(code)
            code = code / code.sum(0, keepdim=True) / len(a)
        codes.append((code * len(a)).T)
    swapped = zip(scores, reversed(codes), strict=True)
    return {"prototypes": -sum((c * torch.log_softmax(s / 0.1, 1)).sum(1).mean() for s, c in swapped) / 2}


def prediction_and_info_nce(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> LossTerms:
    first, second = alignment.parts
    return prediction_mse(first, a, b, seed, None) | info_nce(second, a, b, seed, None)


REGULARIZERS = {
    "vicreg": RegularizerCase(VICReg, vicreg),
    "gram": RegularizerCase(lambda: VICReg(form="gram"), vicreg),
    "covariance": RegularizerCase(lambda: VICReg(form="covariance"), vicreg),
    "variance": RegularizerCase(lambda: VICReg(covariance=0.0), only_variance),
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
    "cosine": AlignmentCase(Cosine, cosine),
    "barlow_twins": AlignmentCase(BarlowTwins, barlow_twins),
    "barlow_twins_gram": AlignmentCase(BarlowTwins, barlow_twins, width=70),
    "whitened_mse": AlignmentCase(lambda: WhitenedMSE(size=8), whitened_mse),
    "sigmoid": AlignmentCase(Sigmoid, sigmoid),
    "max_hinge": AlignmentCase(MaxHinge, max_hinge),
    "prediction_mse": AlignmentCase(lambda: Prediction((12, 12), hidden=()), prediction_mse, autocast=1e-3),
    "prediction_ema": AlignmentCase(
        lambda: Prediction((12, 12), hidden=(), distance="cosine", momentum=0.99),
        prediction_ema,
        autocast=1e-3,
    ),
    "momentum_queue": AlignmentCase(lambda: MomentumQueue(12, size=32), momentum_queue),
    "prototypes": AlignmentCase(lambda: Prototypes(12, count=9), prototypes),
    "prediction_and_info_nce": AlignmentCase(
        lambda: SumAlignment(Prediction((12, 12), hidden=()), InfoNCE(weight=0.1)),
        prediction_and_info_nce,
        autocast=1e-3,
    ),
}


def shards(counts: tuple[int, ...], width: int, *, views: int = 1) -> list[list[Tensor]]:
    """Per view, per process: fp64 rows from distributions that differ between processes."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for _ in range(views):
        rows = [torch.randn(n, width, generator=generator, dtype=torch.float64) for n in counts]
        made.append([(0.4 + 0.3 * r) * x + 0.5 * r * torch.sin(x) + 0.2 * r for r, x in enumerate(rows)])
    return made


def weighted(terms: LossTerms, weights: dict[str, float]) -> Tensor:
    """What the objective differentiates."""
    assert set(terms) == set(weights)
    return sum((weights[name] * value for name, value in terms.items()), torch.zeros(()))


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm expected (or the norm found, where zero is expected)."""
    norm = torch.linalg.vector_norm(expected.double()).item()
    return torch.linalg.vector_norm(found.double() - expected.double()).item() / (norm or 1.0)
