"""Slow reference implementations of regularizers and alignments, written from their equations.

Each takes the embeddings of the whole batch in fp64, (N, D), and returns the same named terms as the class of the
package by the plainest code; gradients are autograd's own. Nothing here is fast, distributed or careful of memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from mmvicreg.objectives.regularizers.directions import directions

Terms = dict[str, Tensor]
"""Unweighted terms by name, each 0-dimensional."""


def vicreg(z: Tensor, seed: int) -> Terms:
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    off = covariance - torch.diag(torch.diagonal(covariance))
    std = torch.sqrt(z.var(0, unbiased=True) + 1e-4)
    return {"variance": torch.relu(1 - std).mean(), "covariance": off.square().sum() / z.shape[1]}


def only_variance(z: Tensor, seed: int) -> Terms:
    return {"variance": vicreg(z, seed)["variance"]}


def epps_pulley(z: Tensor, seed: int, *, slices: int, knots: int, times_rows: bool) -> Terms:
    x = z @ directions(z, slices=slices, seed=seed).double().T
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
    x = z @ directions(z, slices=20, seed=seed).double().T
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


def cosine(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
    return {"cosine": 1 - torch.cosine_similarity(a, b).mean()}


def barlow_twins(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
    a, b = ((x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + 1e-5) for x in (a, b))
    correlation = a.T @ b / len(a)
    on = correlation.diagonal()
    return {
        "diagonal": (1 - on).square().sum(),
        "off_diagonal": (correlation - torch.diag(on)).square().sum(),
    }


def whitened_mse(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
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


def sigmoid(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
    logits = normalize(a) @ normalize(b).T * alignment.log_scale.exp() + alignment.bias
    return {"sigmoid": -logsigmoid((2 * torch.eye(len(a)) - 1) * logits).sum() / len(a)}


def max_hinge(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
    scores = normalize(a) @ normalize(b).T
    own = scores.diagonal()
    hinges = [torch.relu(0.2 + scores - own[:, None]), torch.relu(0.2 + scores - own[None])]
    hinges = [hinge * (1 - torch.eye(len(a))) for hinge in hinges]
    return {"max_hinge": (hinges[0].amax(1) + hinges[1].amax(0)).mean()}


def prediction_mse(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
    of_b, of_a = a @ alignment.from_a[0].weight.T, b @ alignment.from_b[0].weight.T
    return {"prediction": ((of_b - b.detach()).square().mean() + (of_a - a.detach()).square().mean()) / 2}


def prediction_ema(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
    of_b, of_a = a @ alignment.from_a[0].weight.T, b @ alignment.from_b[0].weight.T
    cosines = torch.cosine_similarity(of_b, targets[1]) + torch.cosine_similarity(of_a, targets[0])
    return {"prediction": (2 - cosines).mean()}


def momentum_queue(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
    keys = [normalize(x) for x in targets]
    total = torch.zeros(())
    for query, key, queue in ((a, keys[1], alignment.queue_b), (b, keys[0], alignment.queue_a)):
        query = normalize(query)
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1) / 0.07
        total = total - torch.log_softmax(logits, 1)[:, 0].mean() / 2
    return {"momentum_queue": total}


def prototypes(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
    scores = [normalize(x) @ normalize(alignment.prototypes).T for x in (a, b)]
    codes = []
    for score in scores:
        code = torch.exp(score.detach() / 0.05).T
        code = code / code.sum()
        for _ in range(3):
            code = code / code.sum(1, keepdim=True) / len(code)
            code = code / code.sum(0, keepdim=True) / len(a)
        codes.append((code * len(a)).T)
    total = torch.zeros(())
    for score, code in zip(scores, reversed(codes), strict=True):
        total = total - (code * torch.log_softmax(score / 0.1, 1)).sum(1).mean() / 2
    return {"prototypes": total}


def prediction_and_info_nce(alignment: Any, a: Tensor, b: Tensor, seed: int, targets: Any) -> Terms:
    first, second = alignment.parts
    return prediction_mse(first, a, b, seed, None) | info_nce(second, a, b, seed, None)
