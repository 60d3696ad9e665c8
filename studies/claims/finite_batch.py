"""What the regularizers give for a perfect and for a constant batch: floors and expectations at finite batch size.

    python studies/claims/finite_batch.py

Seconds of one core. N rows, D dimensions.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from claim_record import Claim, Comparison, Config, Figures, main

import mmvicreg as mm

CLAIMS = (
    Claim(
        "covariance_floor",
        "VICReg, equation 3 (arXiv 2105.04906); derived",
        "The covariance term of perfectly decorrelated rows is not 0 but about (D−1)/(N−1): wide embeddings of small "
        "batches are swamped by it.",
        "(D−1)/(N−1); 64 at N=128, D=8192",
        (
            Comparison("smallest ratio to the floor", ">=", plus=0.95),
            Comparison("largest ratio to the floor", "<=", plus=1.05),
        ),
        "N(0, I); N and D of 128×8192, 256×64, 256×2048, 2048×2048",
    ),
    Claim(
        "sigreg_expectation",
        "LeJEPA (SIGReg), definition of the statistic (arXiv 2511.08544); derived",
        "The expectation of SIGReg under N(0, I) is the same at any batch size.",
        "√(2π)(1−1/√3) = 1.06",
        (
            Comparison("smallest of N=64 to 4096", ">=", plus=1.0),
            Comparison("largest of N=64 to 4096", "<=", plus=1.12),
        ),
        "D=64, 1,024 directions, mean of 20 batches each",
    ),
    Claim(
        "constant_batch_vicreg",
        "VICReg, equation 1 (arXiv 2105.04906); derived",
        "Of a constant batch the variance term is 1−√ε = 0.99 and the covariance term 0.",
        "0.99; 0",
        (
            Comparison("distance of variance from 0.99", "<=", plus=1e-3),
            Comparison("covariance", "<=", plus=1e-6),
        ),
        "N=256, D=64",
    ),
    Claim(
        "constant_batch_sigreg",
        "LeJEPA (SIGReg) (arXiv 2511.08544); derived",
        "A constant batch at the origin costs about 0.41 N, with a gradient of zero.",
        "0.41 N",
        (
            Comparison("value / N", ">=", plus=0.39),
            Comparison("value / N", "<=", plus=0.42),
            Comparison("gradient norm", "<=", plus=1e-6),
        ),
        "N=256, D=64, knots on [−3, 3]",
    ),
    Claim(
        "constant_batch_visreg",
        "VISReg, equations 1 to 6 (arXiv 2606.02572); derived",
        "Of a constant batch scale is 1, shape is the variance of the quantiles, center is 0.",
        "1.0; 0.96; 0",
        (
            Comparison("distance of scale from 1", "<=", plus=1e-3),
            Comparison("distance of shape from 0.96", "<=", plus=0.01),
            Comparison("center", "<=", plus=1e-6),
        ),
        "N=256, D=64",
    ),
)


def normal(rows: int, features: int, seed: int) -> Tensor:
    """Standard normal rows (N, D)."""
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(seed))


def covariance_floor(seed: int) -> list[float]:
    """The covariance term over (D−1)/(N−1), at four sizes."""
    regularizer = mm.VICReg(0.0, 1.0)
    sizes = ((128, 8192), (256, 64), (256, 2048), (2048, 2048))
    return [
        float(regularizer.terms(normal(n, d, seed), seed=0)["covariance"]) / ((d - 1) / (n - 1))
        for n, d in sizes
    ]


def sigreg_expectation(seed: int) -> list[float]:
    """The statistic at N = 64, 256, 1024, 4096, mean of 20 batches each."""
    regularizer = mm.SIGReg(1.0, slices=1024)
    found = []
    for rows in (64, 256, 1024, 4096):
        values = [
            float(regularizer.terms(normal(rows, 64, 1000 * seed + n), seed=n)["sigreg"]) for n in range(20)
        ]
        found.append(sum(values) / len(values))
    return found


def constant_batch() -> dict[str, Figures]:
    """Terms of 256 zero rows of 64 dimensions."""
    z = torch.zeros(256, 64, requires_grad=True)
    sigreg = mm.SIGReg(slices=1024).terms(z, seed=0)["sigreg"]
    (gradient,) = torch.autograd.grad(sigreg, z)
    vicreg, visreg = mm.VICReg().terms(z.detach(), seed=0), mm.VISReg().terms(z.detach(), seed=0)
    variance = float(vicreg["variance"])
    return {
        "constant_batch_vicreg": {
            "distance of variance from 0.99": [abs(variance - (1 - math.sqrt(1e-4)))],
            "covariance": [float(vicreg["covariance"])],
        },
        "constant_batch_sigreg": {
            "value / N": [sigreg.item() / 256],
            "gradient norm": [float(gradient.norm())],
        },
        "constant_batch_visreg": {
            "distance of scale from 1": [abs(float(visreg["scale"]) - 1)],
            "distance of shape from 0.96": [abs(float(visreg["shape"]) - 0.96)],
            "center": [float(visreg["center"])],
        },
    }


def measure(config: Config) -> Mapping[str, Figures]:
    """Figures of every claim; with ``tiny`` of the constant batches."""
    found = constant_batch()
    if config.tiny:
        return found
    floors = [covariance_floor(seed) for seed in config.numbers()]
    found["covariance_floor"] = {
        "smallest ratio to the floor": [min(each) for each in floors],
        "largest ratio to the floor": [max(each) for each in floors],
    }
    expectations = [sigreg_expectation(seed) for seed in config.numbers()]
    found["sigreg_expectation"] = {
        "smallest of N=64 to 4096": [min(each) for each in expectations],
        "largest of N=64 to 4096": [max(each) for each in expectations],
    }
    return found


if __name__ == "__main__":
    main(__file__, CLAIMS, measure)
