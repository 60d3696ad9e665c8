"""Does variance and covariance regularization of random elementwise features solve independent component analysis?

    python studies/claims/ica.py

VCReg (Mialon, Balestriero, LeCun, arXiv 2209.14905) beside scikit-learn's FastICA, on sources that are made up: the
paper's are not published. About a minute of one core.

N rows, D dimensions, M features of the elementwise map of one dimension.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from claim_record import Claim, Comparison, Config, Figures, main
from independent_sources import Rows, amari, fast_ica, mix, mix_nonlinearly, recovered, sources

import mmvicreg as mm
from mmvicreg.evaluation.independence import pairwise_hsic

PAPER = "VCReg and independence (arXiv 2209.14905)"
CLAIMS = (
    Claim(
        "hsic_is_covariance",
        f"{PAPER}, lemma 1",
        "For an elementwise map ψ, HSIC(Z_i, Z_j) with its kernel is ‖Cov(ψ(Z_i), ψ(Z_j))‖².",
        "an identity",
        (Comparison("largest relative gap", "<=", plus=1e-9),),
        "N=200, M=32, 6 dimensions, float64",
    ),
    Claim(
        "linear_ica_of_two",
        f"{PAPER}, independent component analysis",
        "VCReg with a random elementwise projector solves linear ICA.",
        "solved",
        (
            Comparison("VCReg, matched correlation", ">=", plus=0.97),
            Comparison("VCReg, Amari distance", "<=", "FastICA, Amari distance", times=1.5),
        ),
        "each two of 5 non-Gaussian sources, N=1,000, M=32; otherwise as the next",
    ),
    Claim(
        "linear_ica",
        f"{PAPER}, independent component analysis",
        "VCReg with a random elementwise projector solves linear ICA.",
        "solved",
        (
            Comparison("VCReg, matched correlation", ">=", plus=0.97),
            Comparison("VCReg, Amari distance", "<=", "FastICA, Amari distance", times=1.5),
        ),
        "5 non-Gaussian sources, random orthonormal mixing, whitened, N=1,500, M=32; the loss is minimized by turning "
        "one plane at a time, then by its gradient; by gradient alone it ends in local minima",
    ),
    Claim(
        "nonlinear_ica",
        f"{PAPER}, independent component analysis",
        "It does not solve non-linear ICA: components become independent and are not the sources.",
        "not solved",
        (
            Comparison("matched correlation", "<=", plus=0.9),
            Comparison("HSIC, end over start", "<=", plus=0.5),
        ),
        "5 sources through a random invertible network of two layers; encoder of three layers",
    ),
)


def elementwise(features: int, seed: int) -> nn.Sequential:
    """A fixed random network from one value to M, applied to each dimension alike: (N, D, 1) to (N, D, M)."""
    torch.manual_seed(seed)
    first = nn.Linear(1, features)
    with torch.no_grad():
        first.weight.normal_(0, 1.5)
        first.bias.normal_(0, 1.5)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(features, features), nn.Tanh()).requires_grad_(False)


def expand(net: nn.Module, z_ND: Tensor) -> Tensor:
    """ψ of every dimension, (N, D, M)."""
    found: Tensor = net(z_ND[:, :, None])
    return found


def identity_gap(seed: int) -> float:
    """Largest relative gap between HSIC by kernels and by covariances, over all pairs of six dimensions."""
    z = torch.randn(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    z[:, 1] += z[:, 0].square()
    psi = expand(elementwise(32, seed).double(), z)
    centre = torch.eye(200, dtype=torch.float64) - 1 / 200
    gaps = []
    for i, j in zip(*torch.triu_indices(6, 6, 1).tolist(), strict=True):
        k, l = (psi[:, n] @ psi[:, n].T for n in (i, j))  # noqa: E741
        hsic = torch.trace(k @ centre @ l @ centre) / 199**2
        a, b = (psi[:, n] - psi[:, n].mean(0) for n in (i, j))
        gaps.append(abs(float(hsic / (a.T @ b / 199).square().sum() - 1)))
    return max(gaps)


def off_block_energy(psi_NDM: Tensor) -> Tensor:
    """Mean over pairs of different dimensions of ‖Cov(ψ(Z_i), ψ(Z_j))‖²: VCReg's covariance term across dimensions."""
    count, dimensions, features = psi_NDM.shape
    centred = (psi_NDM - psi_NDM.mean(0)).reshape(count, -1)
    square = (centred.T @ centred / (count - 1)).square()
    blocks = square.reshape(dimensions, features, dimensions, features).sum((1, 3))
    return (blocks.sum() - blocks.trace()) / (dimensions * (dimensions - 1))


def turn(z_ND: Tensor, net: nn.Module, sweeps: int = 3) -> Tensor:
    """Rows after the rotation of each plane in turn by that of 16 angles which costs least."""
    planes = torch.triu_indices(z_ND.shape[1], z_ND.shape[1], 1).T.tolist()
    for i, j in planes * sweeps:
        tried = []
        for angle in torch.arange(16) * (torch.pi / 32):
            rotated = z_ND.clone()
            rotated[:, i] = angle.cos() * z_ND[:, i] + angle.sin() * z_ND[:, j]
            rotated[:, j] = angle.cos() * z_ND[:, j] - angle.sin() * z_ND[:, i]
            tried.append((off_block_energy(expand(net, rotated)).item(), rotated))
        z_ND = min(tried, key=lambda each: each[0])[1]
    return z_ND


def descend(z_ND: Tensor, net: nn.Module, steps: int = 150) -> Tensor:
    """Rows after the rotation that gradient descent on the same loss finds from here."""
    generator = torch.zeros(z_ND.shape[1], z_ND.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([generator], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        off_block_energy(expand(net, z_ND @ torch.matrix_exp(generator - generator.T))).backward()
        optimizer.step()
        schedule.step()
    return (z_ND @ torch.matrix_exp(generator - generator.T)).detach()


def two_sources(seed: int) -> dict[str, float]:
    """Means over the ten pairs of five sources."""
    s = sources(1000, 5, seed)
    found = [_both_ways(s[:, list(pair)], seed) for pair in combinations(range(5), 2)]
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


def _both_ways(s: Rows, seed: int) -> dict[str, float]:
    x = mix(s, seed)
    rows, net = torch.from_numpy(x.astype(np.float32)), elementwise(32, seed)
    ours, theirs = turn(rows, net, sweeps=1).numpy(), fast_ica(x, seed)
    return {
        "VCReg, matched correlation": recovered(s, ours),
        "FastICA, matched correlation": recovered(s, theirs),
        "VCReg, Amari distance": amari(s, ours),
        "FastICA, Amari distance": amari(s, theirs),
    }


def linear_ica(seed: int) -> dict[str, float]:
    """Of five sources; and the loss where the search ends over the loss at the sources, which it should not exceed."""
    s = sources(1500, 5, seed)
    x = mix(s, seed)
    rows, net = torch.from_numpy(x.astype(np.float32)), elementwise(32, seed)
    alone = descend(rows, net).numpy()
    ours = descend(turn(rows, net), net).numpy()
    costs = [off_block_energy(expand(net, torch.from_numpy(z.astype(np.float32)))).item() for z in (ours, s)]
    theirs = fast_ica(x, seed)
    return {
        "VCReg, matched correlation": recovered(s, ours),
        "gradient alone, matched correlation": recovered(s, alone),
        "FastICA, matched correlation": recovered(s, theirs),
        "VCReg, Amari distance": amari(s, ours),
        "FastICA, Amari distance": amari(s, theirs),
        "loss over that of the sources": costs[0] / costs[1],
    }


def nonlinear_ica(seed: int, steps: int = 300) -> dict[str, float]:
    """Matched correlation, and how far HSIC falls, of an encoder trained on the same loss."""
    s = sources(2000, 5, seed)
    x = torch.from_numpy(mix_nonlinearly(s, seed).astype(np.float32))
    torch.manual_seed(seed)
    model = nn.Sequential(mm.projector(5, (64, 64, 5)), nn.BatchNorm1d(5, affine=False))
    net = elementwise(32, seed)
    before = model(x[:512]).detach()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        off_block_energy(expand(net, model(x[torch.randint(len(x), (256,))]))).backward()
        optimizer.step()
    after = model(x).detach()
    ratio = pairwise_hsic(after[:512]) / pairwise_hsic(before)
    return {"matched correlation": recovered(s, after.numpy()), "HSIC, end over start": ratio}


def measure(config: Config) -> Mapping[str, Figures]:
    """Figures of every claim; with ``tiny`` of the identity and of two sources."""
    seeds = config.numbers()
    found: dict[str, Figures] = {
        "hsic_is_covariance": {"largest relative gap": [identity_gap(seed) for seed in seeds]},
        "linear_ica_of_two": _by_name([two_sources(seed) for seed in seeds]),
    }
    if config.tiny:
        return found
    found["linear_ica"] = _by_name([linear_ica(seed) for seed in seeds])
    found["nonlinear_ica"] = _by_name([nonlinear_ica(seed) for seed in seeds])
    return found


def _by_name(seeds: list[dict[str, float]]) -> Figures:
    return {name: [each[name] for each in seeds] for name in seeds[0]}


if __name__ == "__main__":
    main(__file__, CLAIMS, measure)
