"""What a solver gives: for each branch, linear maps behind feature maps, ready to be made a head.

F width of a space, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmvicreg.branches.head import Head, JoinedHeads, LinearHead


@dataclass(frozen=True)
class LinearPart:
    """(x - mean) matrix of the features x of ``space``: ``mean`` (F,), ``matrix`` (F, D), fp64; ``weight`` of its
    cosine where a head has several parts."""

    space: str
    mean: Tensor
    matrix: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Solution:
    """Parts of each branch's head, and ``strengths`` (K,): correlations of CCA, singular values of PLS, ... largest
    first; empty for solvers without axes."""

    branches: Mapping[str, tuple[LinearPart, ...]]
    strengths: Tensor


def embed_with(parts: tuple[LinearPart, ...], features: Mapping[str, Tensor]) -> Tensor:
    """Embeddings (n, D) of rows whose features of each space are given, as the head would compute them."""
    found = []
    for part in parts:
        x = features[part.space]
        found.append((x - part.mean.to(x)) @ part.matrix.to(x))
    if len(parts) == 1:
        return found[0]
    unit = [
        torch.nn.functional.normalize(z, dim=1) * part.weight for z, part in zip(found, parts, strict=True)
    ]
    return torch.cat(unit, dim=1)


def make_head(parts: tuple[LinearPart, ...], features: Mapping[str, nn.Sequential]) -> Head:
    """The head of one branch, in fp32; ``features`` {space: its fitted feature map}."""
    made = []
    for part in parts:
        head = LinearHead(deepcopy(features[part.space]), *part.matrix.shape)  # parts own their tensors
        with torch.no_grad():
            head.mean.copy_(part.mean)
            head.linear.weight.copy_(part.matrix.T)
        made.append(head)
    if len(made) == 1:
        return made[0]
    joined = JoinedHeads(made)
    joined.weights.copy_(torch.tensor([part.weight for part in parts]))
    return joined
