"""Every collective operation of the package. Each returns its result; one process needs no process group.

Convention of gradients, here and in every regularizer and alignment: each process has the same value L, and its
local gradient is (number of processes) x dL/d(local rows), so that the average that DDP and FSDP take is the exact
gradient of L. The adjoint of a sum of the processes' losses gives just this, so gradients are right whatever is
computed from the results of ``all_reduce_sum`` and ``gather_rows``.

n rows of this process, N rows of all processes, D features, d features of this process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable imports the compiler: half of the start

from mmvicreg.errors import UserError

Result = TypeVar("Result")

TIMEOUT = timedelta(hours=2)
"""of one collective: the main process may read or index shards while the others wait (NCCL's default is 10 minutes)"""


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process, from 0; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def join_processes(*, cpu: bool = False) -> torch.device:
    """Join the process group of ``accelerate launch`` or torchrun, where one of them started this process; the device
    of this process. ``cpu`` takes the CPU even where there is a GPU."""
    if world_size() == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        return PartialState(cpu=cpu or not torch.cuda.is_available(), timeout=TIMEOUT).device
    if cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def barrier() -> None:
    """Wait for every process."""
    if world_size() > 1:
        dist.barrier()


def all_reduce_sum(x: Tensor, *, overwrite: bool = False) -> Tensor:
    """Sum over processes, with gradient (the adjoint is the same sum).

    ``overwrite`` allows the memory of ``x`` to hold the result; only where no gradient is needed.
    """
    if world_size() == 1:
        return x
    if overwrite:
        assert not (x.requires_grad and torch.is_grad_enabled()), "overwrite would lose the gradient"
        dist.all_reduce(x)
        return x
    return _AllReduceSum.apply(x)


def all_reduce_max(x: Tensor) -> Tensor:
    """Elementwise largest over processes, without gradient."""
    if world_size() == 1:
        return x
    y = x.detach().clone()
    dist.all_reduce(y, op=dist.ReduceOp.MAX)
    return y


def row_counts(x_n: Tensor) -> tuple[int, ...]:
    """Rows of ``x_n`` on every process, by rank. Several processes: a small collective and a host sync."""
    if world_size() == 1:
        return (x_n.shape[0],)
    return _uncompiled_counts(x_n) if torch.compiler.is_compiling() else _gathered_counts(x_n)


def _gathered_counts(x_n: Tensor) -> tuple[int, ...]:
    counts = torch.zeros(world_size(), dtype=torch.int64, device=x_n.device)
    counts[rank()] = x_n.shape[0]
    dist.all_reduce(counts)
    return tuple(counts.tolist())


_uncompiled_counts = _disable_dynamo(_gathered_counts)


def mean_rows(sum_of_rows: Tensor, rows: int) -> Tensor:
    """Mean over the rows of all processes of values this process has summed over its ``rows``.

    ``sum_of_rows`` () or (D,). With gradient, without host sync. No rows anywhere: zero.
    """
    if world_size() == 1:
        return sum_of_rows / max(rows, 1)
    both = torch.cat([sum_of_rows.reshape(-1), sum_of_rows.new_tensor([float(rows)])])
    both = all_reduce_sum(both)
    return (both[:-1] / both[-1].clamp(min=1)).reshape(sum_of_rows.shape)


def gather_rows(x_n: Tensor, counts: tuple[int, ...] | None = None) -> Tensor:
    """Rows (n, ...) of every process -> (N, ...) in order of rank, with gradient; n may differ.

    ``counts``: the result of ``row_counts``, where it is known already.
    """
    if world_size() == 1:
        return x_n
    return _GatherRows.apply(x_n, counts or row_counts(x_n))


def to_feature_shards(x_nD: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Own rows, all features -> all rows, own features (N, d), by one all-to-all. No gradient."""
    if world_size() == 1:
        return x_nD
    widths, rows, own = feature_widths(x_nD.shape[1]), x_nD.shape[0], rank()
    send = torch.cat([part.reshape(-1) for part in x_nD.split(widths, dim=1)])
    received = send.new_empty(sum(counts) * widths[own])
    dist.all_to_all_single(
        received, send, [n * widths[own] for n in counts], [rows * width for width in widths]
    )
    return received.view(sum(counts), widths[own])


def from_feature_shards(x_Nd: Tensor, counts: tuple[int, ...], features: int) -> Tensor:
    """Inverse of ``to_feature_shards``: all rows, own features -> own rows (n, D), D = ``features``."""
    if world_size() == 1:
        return x_Nd
    widths, own = feature_widths(features), rank()
    send = x_Nd.contiguous().view(-1)
    received = send.new_empty(counts[own] * features)
    dist.all_to_all_single(
        received, send, [counts[own] * width for width in widths], [n * widths[own] for n in counts]
    )
    parts = received.split([counts[own] * width for width in widths])
    return torch.cat([part.view(counts[own], width) for part, width in zip(parts, widths, strict=True)], 1)


def scatter_sum(x_N: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Rows (N, ...) on every process -> own rows (n, ...) of their sum over processes. No gradient.

    One all-to-all and a sum here, in fp32 or better: a reduce-scatter of as many bytes, for unequal rows.
    """
    if world_size() == 1:
        return x_N
    own, rest = counts[rank()], x_N.shape[1:]
    received = x_N.new_empty((world_size() * own, *rest))
    dist.all_to_all_single(received, x_N.contiguous(), [own] * world_size(), list(counts))
    wide = torch.float64 if x_N.dtype == torch.float64 else torch.float32
    return received.view(world_size(), own, *rest).sum(0, dtype=wide).to(x_N.dtype)


def feature_widths(features: int) -> list[int]:
    """How many of ``features`` each process owns, by rank: as equal as possible."""
    size = world_size()
    return [features // size + (r < features % size) for r in range(size)]


def broadcast_object(value: Any, *, source: int = 0) -> Any:
    """The ``source`` process's object on every process; pickled, so for small objects (run names, settings)."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]


def on_main_process(function: Callable[[], Result]) -> Result:
    """Call ``function`` on the main process only; every process gets its result, or the UserError that it raised."""
    result: tuple[Result | None, UserError | None] = (None, None)
    if rank() == 0:
        try:
            result = (function(), None)
        except UserError as error:
            result = (None, error)
    value, refusal = broadcast_object(result)
    if refusal is not None:
        raise refusal
    return value


def gather_objects(value: Any) -> list[Any]:
    """Every process's object, by rank; pickled, so for small objects (counts, RNG states)."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return all_reduce_sum(grad)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_n: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts = counts
        longest = max(counts)
        padded = x_n.new_zeros(longest, *x_n.shape[1:])
        padded[: x_n.shape[0]] = x_n
        every = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(every, padded)
        return torch.cat([part[:n] for part, n in zip(every, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, None]:
        grad_N = all_reduce_sum(grad_N)
        start = sum(ctx.counts[: rank()])
        return grad_N[start : start + ctx.counts[rank()]], None
