"""Variance and covariance regularization of a projector's output makes the projector's input pairwise independent.

    python studies/claims/independence.py

VCReg (Mialon, Balestriero, LeCun, arXiv 2209.14905) on made-up data: the width, depth and training of the projector,
and other methods. The paper's data and grid are not published, so these experiments are built from its theory. About
two minutes of one core.

N rows, D dimensions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from claim_record import Claim, Comparison, Config, Figures, main
from independent_sources import sources

import mmvicreg as mm
from mmvicreg.evaluation.independence import group_dhsic, pairwise_hsic
from mmvicreg.progress import bar

PAPER = "VCReg and independence (arXiv 2209.14905)"
WIDTH, ROWS, STEPS = 8, 256, 150
"""D of the projector's input, rows of a batch, steps of Adam."""
CLAIMS = (
    Claim(
        "wider_projector",
        f"{PAPER}, projector study",
        "The wider the projector, even a random one, the more independent its input.",
        "a trend",
        (
            Comparison("width 512", "<=", "width 16", times=0.9),
            Comparison("width 512", "<=", "width 16", times=0.5),
        ),
        "pairwise HSIC of the input × 1,000; random projectors of two layers",
    ),
    Claim(
        "deeper_projector",
        f"{PAPER}, projector study",
        "A projector with a hidden layer makes its input more independent than a linear one, which only decorrelates.",
        "a trend",
        (
            Comparison("two layers", "<=", "one layer", times=0.5),
            Comparison("three layers", "<=", "one layer", times=0.5),
        ),
        "pairwise HSIC × 1,000; random projectors of width 256",
    ),
    Claim(
        "random_projector",
        f"{PAPER}, projector study",
        "A random projector does as well as a trained one.",
        "a trend",
        (Comparison("random", "<=", "trained", times=1.1),),
        "pairwise HSIC × 1,000; two layers of width 256",
    ),
    Claim(
        "pairwise_not_mutual",
        f"{PAPER}, figure 1",
        "Pairwise HSIC falls in training, and mutual dependence (dHSIC) stagnates.",
        "curves of three runs",
        (
            Comparison("pairwise HSIC, end over start", "<=", plus=0.5),
            Comparison("dHSIC, end over start", ">=", plus=0.8),
        ),
        "random projector of two layers of width 512; dHSIC of groups of four dimensions",
    ),
    Claim(
        "barlow_and_wmse",
        f"{PAPER}, extension to other methods",
        "Barlow Twins and W-MSE make the projector's input pairwise independent as well.",
        "theory",
        (
            Comparison("Barlow Twins", "<=", "start", times=0.5),
            Comparison("W-MSE", "<=", "start", times=0.5),
            Comparison("VICReg", "<=", "start", times=0.5),
        ),
        "pairwise HSIC × 1,000; two noisy views, random projector of two layers of width 256",
    ),
)


def encoder(inputs: int, width: int = WIDTH) -> nn.Module:
    """Three layers with batch normalization, also at the end, so that the projector sees unit variances."""
    return nn.Sequential(mm.projector(inputs, (64, 64, width)), nn.BatchNorm1d(width, affine=False))


def dependent_rows(seed: int, rows: int) -> Tensor:
    """16 values that are non-linear functions of 8 sources."""
    random = np.random.default_rng(seed)
    hidden = torch.from_numpy(sources(rows, WIDTH, seed + 1).astype(np.float32))
    first = torch.from_numpy(random.normal(size=(WIDTH, 32)).astype(np.float32))
    second = torch.from_numpy(random.normal(size=(32, 16)).astype(np.float32))
    return torch.relu(hidden @ first) @ second / 8


def train(
    objective: mm.Objective, projector: nn.Module, seed: int, *, noise: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The encoder's output (512, D) before and after training; two noisy views where ``noise`` is not 0."""
    x = dependent_rows(seed, 2048)
    torch.manual_seed(seed)
    model = encoder(x.shape[1])
    before = model(x[:512]).detach()
    free = [*model.parameters(), *(p for p in projector.parameters() if p.requires_grad)]
    optimizer = torch.optim.Adam(free, lr=3e-3)
    for step in range(STEPS):
        rows = x[torch.randint(len(x), (ROWS,))]
        views = [rows] if noise == 0 else [rows + noise * torch.randn_like(rows) for _ in range(2)]
        z = {name: projector(model(view)) for name, view in zip("ab", views, strict=False)}
        optimizer.zero_grad()
        objective(z, branches=dict.fromkeys(z, "shared"), seed=step).total.backward()
        optimizer.step()
    return before, model(x[:512]).detach()


def random_projector(widths: tuple[int, ...], seed: int, *, trained: bool = False) -> nn.Module:
    """A projector that stays as it was drawn, unless ``trained``."""
    torch.manual_seed(seed + 50)
    return mm.projector(WIDTH, widths).requires_grad_(trained)


def vcreg() -> mm.Objective:
    """Variance and covariance of one view alone."""
    return mm.Objective(mm.Invariance(1.0), {"shared": mm.VICReg(25.0, 1.0)}, pairs=[])


def projector_study(seeds: range) -> dict[str, Figures]:
    """HSIC of the projector's input by width, depth and training."""
    wide = {f"width {width}": (width, width) for width in (16, 64, 256, 512)}
    deep = {"one layer": (256,), "two layers": (256, 256), "three layers": (256, 256, 256)}
    found: dict[str, list[float]] = {}
    mutual: list[float] = []
    pairwise: list[float] = []
    with bar("projectors", len(seeds) * (len(wide) + len(deep) + 1)) as advance:
        for seed in seeds:
            for name, widths in (wide | deep | {"trained": (256, 256)}).items():
                projector = random_projector(widths, seed, trained=name == "trained")
                before, after = train(vcreg(), projector, seed)
                found.setdefault(name, []).append(1000 * pairwise_hsic(after))
                if name == "width 512":
                    pairwise.append(pairwise_hsic(after) / pairwise_hsic(before))
                    mutual.append(group_dhsic(after) / group_dhsic(before))
                advance(1, name)
    return {
        "wider_projector": {name: found[name] for name in wide},
        "deeper_projector": {name: found[name] for name in deep},
        "random_projector": {"random": found["two layers"], "trained": found["trained"]},
        "pairwise_not_mutual": {
            "pairwise HSIC, end over start": pairwise,
            "dHSIC, end over start": mutual,
        },
    }


def other_methods(seeds: range) -> Figures:
    """HSIC of the projector's input before, and after training with two views."""
    objectives = {
        "VICReg": lambda: mm.Objective(mm.Invariance(25.0), {"shared": mm.VICReg(25.0, 1.0)}),
        "Barlow Twins": lambda: mm.Objective(mm.BarlowTwins(redundancy=0.005)),
        "W-MSE": lambda: mm.Objective(mm.WhitenedMSE(size=512)),
    }
    found: dict[str, list[float]] = {"start": []}
    for seed in seeds:
        for name, objective in objectives.items():
            before, after = train(objective(), random_projector((256, 256), seed), seed, noise=0.1)
            found.setdefault(name, []).append(1000 * pairwise_hsic(after))
        found["start"].append(1000 * pairwise_hsic(before))
    return found


def measure(config: Config) -> Mapping[str, Figures]:
    """Figures of every claim; with ``tiny`` of W-MSE, Barlow Twins and VICReg alone."""
    seeds = config.numbers()
    found: dict[str, Figures] = {"barlow_and_wmse": other_methods(seeds)}
    return found if config.tiny else found | projector_study(seeds)


if __name__ == "__main__":
    main(__file__, CLAIMS, measure)
