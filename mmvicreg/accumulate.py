"""Gradients of one big batch with the memory of a micro-batch: two passes, cut at the encoder's output.

Plain accumulation is another objective: statistics of micro-batches (a third of the gradient off in our
measurement). Here the encoders run micro-batch by micro-batch without a graph, projectors and objective see
the whole batch, and the encoders run again, each with the same random numbers, to receive its part of the
gradient (the idea of GradCache, Gao et al., arXiv 2101.06983, cut at h instead of z so that the projectors'
batch normalisation is the whole batch's).

n rows of a micro-batch, B rows of the batch on this process, E features of a representation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmvicreg.distributed import all_reduce_sum, world_size
from mmvicreg.objective import Terms

Representations = dict[str, Tensor]


def backward_in_two_passes(
    encode: Sequence[Callable[[], Representations]],
    finish: Callable[[Representations], Terms],
    *,
    encoders: Iterable[nn.Module] = (),
) -> Terms:
    """Add to every parameter's gradient that of the whole batch; the terms of the whole batch.

    ``encode``: one function per micro-batch, {view: h (n, E)} of its rows; n may differ, and every process
    has the same number of them. ``finish``: projectors and objective on {view: h (B, E)}. Random numbers
    (dropout, stochastic depth) are replayed, and those drawn afterwards are the ones that would follow.
    ``encoders``: modules whose buffers the first pass shall not change (running statistics, which the
    second updates; batch normalisation inside an encoder sees micro-batches by definition).

    Call it on the modules themselves, not through DDP, and then ``average_gradients``.
    """
    buffers = [(buffer, buffer.clone()) for module in encoders for buffer in module.buffers()]
    states, cached = [], []
    for one in encode:
        states.append(_RandomState.now())
        with torch.no_grad():
            cached.append(one())
    for buffer, before in buffers:
        buffer.copy_(before)
    whole = {view: torch.cat([h[view] for h in cached]).requires_grad_() for view in cached[0]}
    sizes = [{view: len(h[view]) for view in h} for h in cached]
    del cached
    terms = finish(whole)
    terms.total.backward()
    gradients = {view: _parts(h, [size[view] for size in sizes]) for view, h in whole.items()}
    del whole
    after = _RandomState.now()
    for number, (one, state) in enumerate(zip(encode, states, strict=True)):
        state.restore()
        h = {view: x for view, x in one().items() if x.requires_grad}
        torch.autograd.backward(list(h.values()), [gradients[view][number] for view in h])
    after.restore()
    return Terms(terms.total.detach(), terms.parts)


def average_gradients(modules: Iterable[nn.Module], *, bucket: int = 1 << 25) -> None:
    """Mean over processes of every gradient, in flat buckets of about ``bucket`` values."""
    if world_size() == 1:
        return
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for p in parameters:
        if p.grad is None:  # every process must take part with the same shapes
            p.grad = torch.zeros_like(p)
    for group in _buckets(parameters, bucket):
        gradients = [p.grad for p in group if p.grad is not None]
        flat = all_reduce_sum(torch.cat([g.reshape(-1) for g in gradients]), overwrite=True) / world_size()
        for g, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            g.copy_(part.view_as(g))


def _buckets(parameters: list[nn.Parameter], bucket: int) -> list[list[nn.Parameter]]:
    groups: list[list[nn.Parameter]] = []
    filled = bucket
    for p in parameters:
        if filled >= bucket or p.dtype != groups[-1][-1].dtype:
            groups.append([])
            filled = 0
        groups[-1].append(p)
        filled += p.numel()
    return groups


def _parts(h: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    gradient = torch.zeros_like(h) if h.grad is None else h.grad
    return gradient.split(sizes)


@dataclass(frozen=True)
class _RandomState:
    """The state of torch's generators, CPU and current GPU."""

    cpu: Tensor
    cuda: Mapping[int, Tensor]

    @staticmethod
    def now() -> _RandomState:
        used = torch.cuda.is_available() and torch.cuda.is_initialized()
        cuda = {torch.cuda.current_device(): torch.cuda.get_rng_state()} if used else {}
        return _RandomState(torch.get_rng_state(), cuda)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)
