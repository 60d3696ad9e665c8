"""A step in chunks whose gradient is exactly that of the whole batch, for objectives of batch statistics.

Plain gradient accumulation averages the gradients of small batches, which is another objective: the variance
and covariance of 64 rows are not those of 2048. Here (Gao et al., arXiv 2101.06983, for contrastive losses)
encoders run twice: once without gradient, a chunk at a time, to keep the representations h; projectors and
objective see every row and give dL/dh; then each chunk runs again and receives its rows of dL/dh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmvicreg import distributed
from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import InvalidValueError
from mmvicreg.training.step import Step, StepOutput


def check_chunkable(model: Model) -> None:
    """Raise ValueError where a trained encoder has batch normalisation: a chunk's statistics are not the batch's."""
    for name, branch in model.branches.items():
        assert isinstance(branch, Branch)
        if branch.frozen and not branch.waiting:
            continue
        found = [part for part, module in branch.encoder.named_modules() if isinstance(module, _BatchNorm)]
        if found:
            raise InvalidValueError(
                f"gradient_cache_size is set, but the encoder of {name} normalises over the batch ({found[0]} and "
                f"{len(found) - 1} more), which differs in chunks; freeze it, choose an encoder with layer or "
                "group normalisation, or set gradient_cache_size to 0"
            )


def chunked_step(
    module: Step,
    inputs: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    *,
    seed: int,
    targets: Mapping[str, Tensor] | None,
    chunk: int,
    reseed: Callable[[str], None],
    backward: Callable[[Tensor], None],
) -> StepOutput:
    """Forward and backward; gradients of this process are left in ``.grad``, not averaged over processes.

    ``chunk`` rows go through an encoder at once. ``reseed(part)`` sets the random state for a part of the
    step: dropout must fall the same in both passes. ``backward`` differentiates a scalar (and may scale it).
    """
    h: dict[str, Tensor] = {}
    for view, x in inputs.items():
        if view in module.precomputed:
            h[view] = x
            continue
        branch = module.model.branch(view)
        with torch.no_grad():
            parts = []
            for number, rows in enumerate(_chunks(present[view], chunk)):
                reseed(f"{view} {number}")
                parts.append((rows, branch.represent(x[rows.to(x.device)])))
        h[view] = _join(parts, len(x)).requires_grad_(not branch.frozen)
    reseed("objective")
    output = module.from_representations(h, present, seed, targets)
    backward(output.terms.total)
    for view, x in inputs.items():
        slope = h[view].grad
        if slope is None:
            continue
        branch = module.model.branch(view)
        for number, rows in enumerate(_chunks(present[view], chunk)):
            reseed(f"{view} {number}")
            at = rows.to(x.device)
            branch.represent(x[at]).backward(slope[at])
    return output


def _chunks(present_B: Tensor, size: int) -> Iterator[Tensor]:
    """Numbers of the present rows, ``size`` at a time; at least one chunk, which may be empty."""
    rows = present_B.nonzero()[:, 0]
    yield from rows.split(size) if len(rows) else [rows]


def _join(parts: list[tuple[Tensor, Tensor]], rows: int) -> Tensor:
    """(B, E) with zeros where a row is absent."""
    first = parts[0][1]
    whole = first.new_zeros((rows, *first.shape[1:]))
    for at, values in parts:
        whole[at.to(first.device)] = values
    return whole


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over processes in place, in one collective a dtype; a missing gradient stays missing.

    Those of parameters shared out over the processes are complete already."""
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
