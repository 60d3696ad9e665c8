"""The result of every objective, regularizer and alignment: named loss terms and their weighted total."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError


@dataclass(frozen=True)
class LossTerms:
    """A loss and the terms that it consists of.

    ``total``: the weighted sum, 0-dimensional, to call ``backward()`` on.
    ``parts``: every term by name, unweighted and detached, 0-dimensional, on the device of the embeddings.
    """

    total: Tensor
    parts: dict[str, Tensor]

    @staticmethod
    def of(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> LossTerms:
        """Terms from differentiable ``values`` and their ``weights``; both have the same names, at least one."""
        total = torch.stack([weights[name] * value for name, value in values.items()]).sum()
        return LossTerms(total, {name: value.detach() for name, value in values.items()})


class CallCounter:
    """Seeds for callers that pass none: 0, 1, 2, ... in the order of their calls.

    Processes that make the same calls get the same seeds. A loop that resumes exactly passes the number of the
    step instead, because this count starts at 0 in every new process.
    """

    def __init__(self) -> None:
        self.calls = 0

    def seed(self, given: int | None) -> int:
        """``given``, or the number of this call where it is None."""
        if given is not None:
            return given
        self.calls += 1
        return self.calls - 1


def check_weights(owner: object, weights: Mapping[str, float]) -> None:
    """Raise ValueError for a weight of ``owner`` that is negative, infinite or NaN."""
    for term, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise InvalidValueError(
                f"the weight of {type(owner).__name__}'s {term} is {weight}; expected a finite number of at least 0"
            )
