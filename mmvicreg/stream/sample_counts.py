"""How many samples a run has used, recovered and rejected; and the fraction of rejected samples it may reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from mmvicreg import distributed
from mmvicreg.errors import UserError
from mmvicreg.plan.plan import Plan

if TYPE_CHECKING:
    from mmvicreg.stream.ledger import Finding

REASONS = 100
"""Reasons that are counted by name (and as many shards in a summary); the others are counted as OTHER."""
OTHER = "other reasons"
WORST_SHARDS = 5
"""Shards that the message of a spent budget names."""


class TooManyRejectedError(UserError, RuntimeError):
    """More samples were rejected than the budget allows; the message names the worst shards and reasons."""


@dataclass
class SampleCounts:
    """What a stream has handed over: samples; inputs recovered, rejected (by reason), absent (by view)."""

    seen: int = 0
    recovered: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    """rejected inputs by shard"""
    substituted: int = 0
    """rejected samples that another one replaced; that one is then used twice in its epoch"""

    def add(self, finding: Finding) -> None:
        """Count one finding."""
        if finding.verdict == "recovered":
            self.recovered += 1
        else:
            kind = finding.kind if finding.kind in self.rejected or len(self.rejected) < REASONS else OTHER
            self.rejected[kind] = self.rejected.get(kind, 0) + 1
            self.shards[finding.shard] = self.shards.get(finding.shard, 0) + 1
            self.substituted += bool(finding.substitute)

    @property
    def rejections(self) -> int:
        """Rejected inputs, over all reasons."""
        return sum(self.rejected.values())

    def worst(self, count: int) -> dict[str, int]:
        """The ``count`` shards with the most rejections, most first."""
        return dict(sorted(self.shards.items(), key=lambda pair: (-pair[1], pair[0]))[:count])

    def plus(self, other: SampleCounts) -> SampleCounts:
        """The sum of both: over processes, or over the starts of a run."""
        return SampleCounts(
            self.seen + other.seen,
            self.recovered + other.recovered,
            _sum(self.rejected, other.rejected),
            _sum(self.missing, other.missing),
            _sum(self.shards, other.shards),
            self.substituted + other.substituted,
        )

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def total(parts: Sequence[SampleCounts]) -> SampleCounts:
    """SampleCounts over all ranks: ``total(distributed.gather_objects(loader.counts))``."""
    result = SampleCounts()
    for part in parts:
        result = result.plus(part)
    return result


@dataclass(frozen=True)
class Coverage:
    """How much of the data set a run has used, computed from its plan: exact, since no epoch repeats a sample.

    ``unique`` samples were used at least once, ``duplicate`` uses were not a sample's first, ``never_seen``
    samples were not used yet; ``epochs`` is the number of passes, with its fraction.
    """

    seen: int
    unique: int
    duplicate: int
    never_seen: int
    epochs: float


def coverage(plan: Plan, step: int) -> Coverage:
    """Coverage of the data set after ``step`` steps."""
    seen = plan.cursor(step).consumed
    unique = plan.unique(seen)
    return Coverage(seen, unique, seen - unique, plan.samples - unique, seen / plan.samples)


def _sum(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in sorted({*a, *b})}


@dataclass(frozen=True)
class Budget:
    """Stop once more inputs were rejected than ``max_fraction`` of the samples, from ``after`` samples on."""

    max_fraction: float = 0.01
    after: int = 10_000

    def check(self, counts: SampleCounts) -> None:
        """Raise TooManyRejectedError where ``counts`` are above the budget."""
        if counts.seen < self.after or counts.rejections <= self.max_fraction * counts.seen:
            return
        reasons = dict(sorted(counts.rejected.items(), key=lambda pair: -pair[1]))
        raise TooManyRejectedError(
            f"{counts.rejections} of {counts.seen} samples were rejected, the budget is {self.max_fraction:.2%}. "
            f"By reason: {reasons}. Worst shards: {counts.worst(WORST_SHARDS)}. "
            "Run `mmvicreg check --quarantine`, or raise the budget"
        )


class RunCounts:
    """Sample counts over all processes and all starts of a run, and whether they are within the ``budget``.

    ``before`` is what a checkpoint says of earlier starts. ``device``: where the process group takes tensors.
    """

    def __init__(self, before: SampleCounts, budget: Budget, *, device: torch.device) -> None:
        self.budget, self.summed = budget, before
        self._before, self._device = before, device
        self.follow(SampleCounts())

    def follow(self, mine: SampleCounts) -> None:
        """Add this process's counts since its start; its stream keeps updating them."""
        self._mine, self._named = mine, SampleCounts()

    def sum(self) -> SampleCounts:
        """SampleCounts over processes and starts, also in ``summed``; every process calls this, and gets the same.

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
            own = SampleCounts(rejected=mine.rejected, shards=mine.worst(REASONS))
            self._named = total(distributed.gather_objects(own))
        since = replace(
            self._named,
            seen=seen,
            recovered=recovered,
            missing=dict(zip(views, absent, strict=True)),
            substituted=substituted,
        )
        result = self._before.plus(since)
        self.summed = replace(result, shards=result.worst(REASONS))
        return self.summed

    def state_dict(self) -> dict[str, Any]:
        """The sums last made, as JSON values."""
        return self.summed.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the sums of earlier starts."""
        self._before = self.summed = SampleCounts(**state)
        self.follow(SampleCounts())

    def check(self) -> None:
        """Raise TooManyRejectedError, on every process, where the sums last made are above the budget."""
        self.budget.check(self.summed)
