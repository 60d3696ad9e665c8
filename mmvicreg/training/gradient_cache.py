"""Gradient caching: a large batch encoded in micro-batches, with exactly the gradient of the whole batch.

Plain gradient accumulation averages the gradients of small batches, which is another objective: the variance and
covariance of 64 rows are not those of 2048. With gradient caching (GradCache, Gao et al., arXiv 2101.06983, for
contrastive losses) encoders run twice: once without gradient, a micro-batch at a time, to keep the representations h;
projectors and objective see every row and give dL/dh; then each micro-batch runs again and receives its rows of dL/dh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmvicreg import distributed
from mmvicreg.branches.batch_norm import batch_norm_layers
from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import InvalidValueError
from mmvicreg.training.step import Step, StepOutput


def check_cacheable(model: Model) -> None:
    """Raise ValueError if a trained encoder has batch normalization: its statistics would be the micro-batch's."""
    for name, branch in model.branches.items():
        assert isinstance(branch, Branch)
        if branch.frozen and not branch.waiting:
            continue
        found = batch_norm_layers(branch.encoder)
        if found:
            raise InvalidValueError(
                f"gradient_cache_size is set, but the encoder of {name} normalizes over the batch ({found[0]} "
                f"and {len(found) - 1} more), which differs in micro-batches; freeze it, choose an encoder with "
                "layer or group normalization, or set gradient_cache_size to 0"
            )


def cached_step(
    module: Step,
    inputs: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    *,
    seed: int,
    targets: Mapping[str, Tensor] | None,
    size: int,
    reseed: Callable[[str], None],
    backward: Callable[[Tensor], None],
) -> StepOutput:
    """Forward and backward pass; the gradients of this process are left in ``.grad``, not averaged over processes.

    ``size``: rows of a micro-batch. ``reseed(part)`` sets the random state for a part of the step: dropout masks must
    be the same in both passes. ``backward`` differentiates a scalar (and may scale it).
    """
    h: dict[str, Tensor] = {}
    for view, x in inputs.items():
        if view in module.precomputed:
            h[view] = x
            continue
        branch = module.model.branch(view)
        with torch.no_grad():
            parts = []
            for number, rows in enumerate(_micro_batches(present[view], size)):
                reseed(f"{view} {number}")
                parts.append((rows, branch.represent(x[rows.to(x.device)])))
        h[view] = _join(parts, len(x)).requires_grad_(not branch.frozen)
    reseed("objective")
    output = module.from_representations(h, present, seed, targets)
    backward(output.terms.total)
    for view, x in inputs.items():
        gradient_BE = h[view].grad
        if gradient_BE is None:
            continue
        branch = module.model.branch(view)
        for number, rows in enumerate(_micro_batches(present[view], size)):
            reseed(f"{view} {number}")
            at = rows.to(x.device)
            branch.represent(x[at]).backward(gradient_BE[at])
    return output


def _micro_batches(present_B: Tensor, size: int) -> Iterator[Tensor]:
    """Numbers of the present rows, ``size`` at a time; at least one micro-batch, which may be empty."""
    rows = present_B.nonzero()[:, 0]
    yield from rows.split(size) if len(rows) else [rows]


def _join(parts: list[tuple[Tensor, Tensor]], rows: int) -> Tensor:
    """(B, E) from the rows that are present; absent rows are zeros."""
    first = parts[0][1]
    whole = first.new_zeros((rows, *first.shape[1:]))
    for at, values in parts:
        whole[at.to(first.device)] = values
    return whole


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over processes in place, in one collective a dtype; a missing gradient stays missing.

    Gradients of parameters that are divided among the processes are complete already."""
    world = distributed.world_size()
    if world == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for grads in by_dtype.values():
        whole = torch.cat([grad.reshape(-1) for grad in grads])
        whole = distributed.all_reduce_sum(whole, overwrite=True) / world
        for grad, part in zip(grads, whole.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))
