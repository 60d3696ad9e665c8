"""InfoNCE against queues of momentum embeddings, one per modality (MoCo, He et al., arXiv 1911.05722).

n own rows, N all rows, D features, Q keys of a queue.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvicreg.distributed import gather_rows, mean_rows, row_counts
from mmvicreg.errors import InvalidValueError
from mmvicreg.numerics import statistics_dtype, without_autocast
from mmvicreg.objectives.alignments.alignment import Alignment, PairContext, TensorPair
from mmvicreg.objectives.arguments import expect


class MomentumQueue(Alignment):
    """momentum_queue = (1/2N) sum_i CE([q_i'k_i, q_i'queue] / temperature, first), a to b and b to a.

    Queries are a and b, keys are b and a of the moving averages of the branches, all l2-normalized, (n, ``width``).
    The negatives are the ``size`` newest keys of earlier steps, of all processes (at the start: random ones). The
    queues are equal on all processes. The keys of a step enter the queues after its last pair, so that an object
    that several pairs share never takes a positive of the step for a negative.
    """

    queue_a: Tensor
    queue_b: Tensor
    position: Tensor

    def __init__(
        self,
        weight: float = 1.0,
        *,
        width: int,
        size: int = 65536,
        temperature: float = 0.07,
        momentum: float = 0.999,
    ) -> None:
        super().__init__()
        expect("MomentumQueue's size", size, holds=size > 0, expected="at least 1 key")
        expect("MomentumQueue's temperature", temperature, holds=temperature > 0, expected="above 0")
        expect("MomentumQueue's momentum", momentum, holds=0 <= momentum < 1, expected="0 to below 1")
        self.widths = (width, width)
        self.weight, self.temperature, self.momentum = weight, temperature, momentum
        generator = torch.Generator().manual_seed(0)
        for name in ("queue_a", "queue_b"):
            self.register_buffer(name, F.normalize(torch.randn(size, width, generator=generator), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self._pending: list[TensorPair] = []

    def weights(self) -> dict[str, float]:
        return {"momentum_queue": self.weight}

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        if context.targets is None:
            raise InvalidValueError(
                "MomentumQueue got no targets; pass the embeddings of both views from the moving averages of their "
                "branches"
            )
        a_nD, b_nD = (F.normalize(statistics_dtype(x), dim=1) for x in (a_nD, b_nD))
        key_a, key_b = (F.normalize(statistics_dtype(x.detach()), dim=1) for x in context.targets)
        with without_autocast(a_nD):
            total = self._entropy(a_nD, key_b, self.queue_b) + self._entropy(b_nD, key_a, self.queue_a)
        if self.training:
            self._pending.append((key_a, key_b))
        return {"momentum_queue": mean_rows(total / 2, a_nD.shape[0])}

    def _entropy(self, query_nD: Tensor, key_nD: Tensor, queue_QD: Tensor) -> Tensor:
        own = torch.linalg.vecdot(query_nD, key_nD)[:, None]
        logits = torch.cat([own, query_nD @ queue_QD.T.to(query_nD.dtype)], dim=1) / self.temperature
        return -torch.log_softmax(logits, dim=1)[:, 0].sum()

    def begin_step(self) -> None:
        self._pending.clear()  # left over only where a step was interrupted by an exception

    def end_step(self) -> None:
        for key_a, key_b in self._pending:
            self._remember(key_a, key_b)
        self._pending.clear()

    @torch.no_grad()
    def _remember(self, key_a: Tensor, key_b: Tensor) -> None:
        counts = row_counts(key_a)
        size, new = self.queue_a.shape[0], min(sum(counts), self.queue_a.shape[0])
        at = (self.position + torch.arange(new, device=key_a.device)) % size
        # New tensors, because backward needs the old ones.
        for name, keys in (("queue_a", key_a), ("queue_b", key_b)):
            queue = getattr(self, name)
            latest = gather_rows(keys, counts)[-new:] if new else keys[:0]
            setattr(self, name, queue.index_copy(0, at, latest.to(queue.dtype)))
        self.position = (self.position + new) % size
