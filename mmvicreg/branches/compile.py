"""torch.compile of encoders, so that what is computed for a batch does not depend on the batches before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmvicreg.branches.model import Branch, Model


def compile_encoders(model: Model, *, rows: int) -> None:
    """Compile every encoder for training; in evaluation mode it runs as it is.

    By default torch.compile generates kernels for the first number of rows that it is given, and general ones when it
    is given a second number: a run that is continued gives them in another order and rounds differently. Here ``rows``
    rows (a batch in which nothing is missing) have kernels of their own, and every other number the general ones.
    """
    for name, branch in model.branches.items():
        assert isinstance(branch, Branch)
        branch.encoder.forward = _compiled(branch, name, rows)


def _compiled(branch: Branch, name: str, rows: int) -> Callable[[Tensor], Tensor]:
    plain: Callable[[Tensor], Tensor] = branch.encoder.forward
    whole = torch.compile(_copy(plain, f"{name}_whole"), dynamic=False)
    some = torch.compile(_copy(plain, f"{name}_some"))

    def forward(x: Tensor) -> Tensor:
        if not branch.training:
            return plain(x)
        if len(x) == rows:
            return whole(x)
        if len(x) > 1:  # kernels for any number are not those for one
            torch._dynamo.maybe_mark_dynamic(x, 0)
        return some(x)

    return forward


def _copy(function: Callable[[Tensor], Tensor], name: str) -> Callable[[Tensor], Tensor]:
    """``function`` under code of its own: torch counts compilations, and remembers sizes, by a function's code."""

    def call(x: Tensor) -> Tensor:
        return function(x)

    call.__code__ = call.__code__.replace(co_name=name)
    return call
