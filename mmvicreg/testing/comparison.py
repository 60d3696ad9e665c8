"""Batches of unequal sizes for several processes, and the relative error between two results."""

from __future__ import annotations

import torch
from torch import Tensor


def process_rows(counts: tuple[int, ...], width: int, *, views: int = 1) -> list[list[Tensor]]:
    """Random embeddings, fp64 (counts[rank], width) at [view][rank], from distributions that differ by process.

    Code that uses statistics of its own process where it needs those of all processes fails on such data.
    """
    generator = torch.Generator().manual_seed(7)
    made = []
    for _ in range(views):
        rows = [torch.randn(n, width, generator=generator, dtype=torch.float64) for n in counts]
        made.append([(0.4 + 0.3 * r) * x + 0.5 * r * torch.sin(x) + 0.2 * r for r, x in enumerate(rows)])
    return made


def weighted_sum(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The scalar that an objective differentiates: weight times value, summed over the terms.

    Raises AssertionError where terms and weights have different names.
    """
    assert set(terms) == set(weights), (sorted(terms), sorted(weights))
    return sum((weights[name] * value for name, value in terms.items()), torch.zeros(()))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference divided by the expected norm; the norm found where zero is expected."""
    norm = torch.linalg.vector_norm(expected.double()).item()
    return torch.linalg.vector_norm(found.double() - expected.double()).item() / (norm or 1.0)
