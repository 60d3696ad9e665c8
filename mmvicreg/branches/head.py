"""Heads: projectors that consist of fixed feature maps and linear maps, as closed-form solvers compute them.

Training may continue from a head: its linear maps are parameters, its feature maps are buffers.
n rows, E width of a representation, F width of its features, D width of an embedding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmvicreg.errors import InvalidValueError
from mmvicreg.files import write_json
from mmvicreg.numerics import statistics_dtype, without_autocast

FILE = "heads.json"
LARGEST = 1 << 20
FREE = 1 << 20
"""Values that are allocated whatever size the file of weights has."""


class SignedRoot(nn.Module):
    """sign(x) sqrt(|x|), elementwise: for pooled ReLU features (Arandjelovic and Zisserman 2012)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sign() * x.abs().sqrt()


class UnitLength(nn.Module):
    """x / |x| of each row; rows of zeros stay zero."""

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, dim=1)


class Standardize(nn.Module):
    """(x - mean) / deviation of each dimension; dimensions that are constant become zero."""

    mean: Tensor
    inverse_deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("inverse_deviation", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.inverse_deviation


class Nystrom(nn.Module):
    """Features whose products approximate exp(-gamma |x - y|^2) (Williams and Seeger 2001).

    (n, E) to (n, F): the kernel with ``landmarks`` (m, E), times ``projection`` (m, F) = K_mm^(-1/2).
    """

    landmarks: Tensor
    projection: Tensor
    gamma: Tensor

    def __init__(self, width: int, landmarks: int, features: int) -> None:
        super().__init__()
        self.register_buffer("landmarks", torch.zeros(landmarks, width))
        self.register_buffer("projection", torch.zeros(landmarks, features))
        self.register_buffer("gamma", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel(x) @ self.projection

    def kernel(self, x: Tensor) -> Tensor:
        """The kernel of each row with each landmark, (n, m)."""
        centre = self.landmarks.mean(0)  # a large common mean would cancel in fp32
        x, landmarks = x - centre, self.landmarks - centre
        squared = x.square().sum(1, keepdim=True) + landmarks.square().sum(1)
        distances = torch.addmm(squared, x, landmarks.T, alpha=-2.0).clamp_min_(0)
        return distances.mul_(-self.gamma).exp_()


class RandomFourier(nn.Module):
    """Random features of the same kernel (Rahimi and Recht 2007): (n, E) to (n, 2F), cos and sin of x directions."""

    directions: Tensor

    def __init__(self, width: int, directions: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.zeros(width, directions))

    def forward(self, x: Tensor) -> Tensor:
        phase = x @ self.directions
        return torch.cat([phase.cos(), phase.sin()], dim=1) * self.directions.shape[1] ** -0.5


class LinearHead(nn.Module):
    """z = (features(h) - mean) W: h (n, E) to z (n, D), in fp32 or better."""

    mean: Tensor

    def __init__(self, features: nn.Sequential, width: int, output: int) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("mean", torch.zeros(width))
        self.linear = nn.Linear(width, output, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        with without_autocast(h):
            return self.linear(self.features(statistics_dtype(h)) - self.mean)


class JoinedHeads(nn.Module):
    """Several heads side by side, each of unit length times its weight: the product of two such embeddings is the
    weighted sum of the cosines of their parts."""

    weights: Tensor

    def __init__(self, parts: Sequence[LinearHead]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.register_buffer("weights", torch.ones(len(parts)))

    def forward(self, h: Tensor) -> Tensor:
        found = [
            normalize(part(h), dim=1) * weight for part, weight in zip(self.parts, self.weights, strict=True)
        ]
        return torch.cat(found, dim=1)


Head = LinearHead | JoinedHeads


def describe(head: nn.Module) -> list[dict[str, Any]] | None:
    """A head as JSON values from which :func:`build` makes it again; None for a projector of another kind."""
    if isinstance(head, JoinedHeads):
        return [_describe_part(part) for part in head.parts if isinstance(part, LinearHead)]
    return [_describe_part(head)] if isinstance(head, LinearHead) else None


def _describe_part(head: LinearHead) -> dict[str, Any]:
    steps = [_describe_step(step) for step in head.features]
    return {"features": steps, "width": len(head.mean), "output": head.linear.out_features}


def _describe_step(step: nn.Module) -> dict[str, Any]:
    match step:
        case SignedRoot():
            return {"kind": "signed_root", "sizes": []}
        case UnitLength():
            return {"kind": "unit", "sizes": []}
        case Standardize():
            return {"kind": "standardize", "sizes": [len(step.mean)]}
        case Nystrom():
            return {
                "kind": "nystrom",
                "sizes": [step.landmarks.shape[1], *step.projection.shape],
            }
        case RandomFourier():
            return {"kind": "fourier", "sizes": list(step.directions.shape)}
    raise TypeError(f"no feature map of a head: {type(step).__name__}")


def build(description: Any, *, source: Path, stored: int) -> Head:
    """A head without its values, from :func:`describe`'s JSON.

    Raises ValueError where ``description`` is something else, or describes more values than the ``stored`` bytes
    of weights can fill.
    """
    if not isinstance(description, list) or not description:
        raise InvalidValueError(
            f"{source}: expected a list of the parts of a head, found {description!r:.80}"
        )
    budget = max(stored, FREE)
    parts = []
    for entry in description:
        parts.append(_build_part(entry, source=source, budget=budget))
    if len(parts) == 1:
        return parts[0]
    return JoinedHeads(parts)


def _build_part(entry: Any, *, source: Path, budget: int) -> LinearHead:
    if not isinstance(entry, dict) or set(entry) != {"features", "width", "output"}:
        raise InvalidValueError(
            f"{source}: expected a part of a head with features, width and output, found {entry!r:.80}"
        )
    steps, width, output = entry["features"], entry["width"], entry["output"]
    _check_sizes([width, output], source=source, budget=budget)
    if not isinstance(steps, list):
        raise InvalidValueError(f"{source}: expected a list of feature maps, found {steps!r:.80}")
    made = [_build_step(step, source=source, budget=budget) for step in steps]
    return LinearHead(nn.Sequential(*made), width, output)


def _build_step(entry: Any, *, source: Path, budget: int) -> nn.Module:
    kinds: Mapping[str, tuple[type[nn.Module], int]] = {
        "signed_root": (SignedRoot, 0),
        "unit": (UnitLength, 0),
        "standardize": (Standardize, 1),
        "nystrom": (Nystrom, 3),
        "fourier": (RandomFourier, 2),
    }
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise InvalidValueError(f"{source}: a feature map is one of {', '.join(kinds)}, found {entry!r:.80}")
    made, count = kinds[kind]
    sizes = entry.get("sizes")
    if not isinstance(sizes, list) or len(sizes) != count:
        raise InvalidValueError(f"{source}: {kind} has {count} sizes, found {sizes!r:.80}")
    if sizes:
        _check_sizes(sizes, source=source, budget=budget)
    return made(*sizes)


def _check_sizes(sizes: list[Any], *, source: Path, budget: int) -> None:
    if not all(type(size) is int and 0 < size <= LARGEST for size in sizes):
        raise InvalidValueError(
            f"{source}: sizes of a head are integers of 1 to {LARGEST:,}, found {sizes!r:.80}"
        )
    for first, second in pairwise(sizes):
        if first * second > budget:
            raise InvalidValueError(
                f"{source}: a head has the sizes {sizes}, more values than the {budget:,} bytes of weights hold"
            )


def write(folder: Path, branches: Mapping[str, nn.Module]) -> None:
    """heads.json of a run directory: the projectors of ``branches`` {name: projector} that are heads; no file where
    there is none."""
    found = {name: description for name, each in branches.items() if (description := describe(each))}
    if not found:
        return
    write_json(folder / FILE, found)


def read(folder: Path, *, stored: int) -> dict[str, Head]:
    """The heads of a run directory, without their values, by branch; empty where heads.json is absent.

    Raises ValueError for a file that describes no heads or more than ``stored`` bytes of weights.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(description, dict):
        raise InvalidValueError(f"{file}: expected heads by branch, found {description!r:.80}")
    return {name: build(parts, source=file, stored=stored) for name, parts in description.items()}
