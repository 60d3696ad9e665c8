"""Counts over all processes and all starts of a run, and the budget of rejections that holds for their sum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from mmvicreg import distributed
from mmvicreg.errors import UserError
from mmvicreg.stream.ledger import KINDS, Counts, total

NAMED = 5
"""Shards that the message of a spent budget names."""


class TooManyRejectedError(UserError, RuntimeError):
    """More samples were rejected than the budget allows; the message names the worst shards and reasons."""


@dataclass(frozen=True)
class Budget:
    """Stop once more inputs were rejected than ``share`` of the samples, from ``after`` samples on."""

    share: float = 0.01
    after: int = 10_000

    def check(self, counts: Counts) -> None:
        """Raise TooManyRejectedError where ``counts`` are above the budget."""
        if counts.seen < self.after or counts.rejections <= self.share * counts.seen:
            return
        reasons = dict(sorted(counts.rejected.items(), key=lambda pair: -pair[1]))
        raise TooManyRejectedError(
            f"{counts.rejections} of {counts.seen} samples were rejected, the budget is {self.share:.2%}. "
            f"By reason: {reasons}. Worst shards: {counts.worst(NAMED)}. "
            "Run `mmvicreg check --quarantine`, or raise the budget"
        )


class SampleCounts:
    """What all processes have handed over in all starts of a run, and whether that is within the ``budget``.

    ``before`` is what a checkpoint says of earlier starts. ``device``: where the process group takes tensors.
    """

    def __init__(self, before: Counts, budget: Budget, *, device: torch.device) -> None:
        self.budget, self.summed = budget, before
        self._before, self._device = before, device
        self.follow(Counts())

    def follow(self, mine: Counts) -> None:
        """Add this process's counts since its start, which a loader goes on changing."""
        self._mine, self._named = mine, Counts()

    def sum(self) -> Counts:
        """Counts over processes and starts, also in ``summed``; every process calls this, and gets the same.

        One small collective; reasons and shards travel only where something was rejected since they last did.
        Of every process's shards the worst 100 are summed.
        """
        mine = self._mine
        views = sorted(mine.missing)
        numbers = [mine.seen, mine.recovered, mine.rejections, mine.substituted]
        numbers += [mine.missing[view] for view in views]
        both = distributed.all_reduce_sum(torch.tensor(numbers, device=self._device))
        seen, recovered, rejections, substituted, *absent = both.tolist()
        if rejections != self._named.rejections:
            own = Counts(rejected=mine.rejected, shards=mine.worst(KINDS))
            self._named = total(distributed.gather_objects(own))
        since = replace(
            self._named,
            seen=seen,
            recovered=recovered,
            missing=dict(zip(views, absent, strict=True)),
            substituted=substituted,
        )
        result = self._before.plus(since)
        self.summed = replace(result, shards=result.worst(KINDS))
        return self.summed

    def state_dict(self) -> dict[str, Any]:
        """The sums last made, as JSON values."""
        return self.summed.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the sums of earlier starts."""
        self._before = self.summed = Counts(**state)
        self.follow(Counts())

    def check(self) -> None:
        """Raise TooManyRejectedError, on every process, where the sums last made are above the budget."""
        self.budget.check(self.summed)
