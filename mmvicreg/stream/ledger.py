"""Every sample that was recovered or rejected, one JSON line each, and the counts of a run.

A reader says why it rejects a sample in ``BadSampleError("reason: details")``; what stands before the first colon
is the reason that counts are kept by. Lines are written in step order when a batch is handed over, so they
do not depend on threads; a run that goes on from a checkpoint repeats the steps after it, and
``read_ledger`` keeps one line for each (step, number, view), whatever rank wrote it.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Literal

from mmvicreg.plan.plan import Plan

Verdict = Literal["recovered", "rejected"]
KINDS = 100
"""Reasons that are counted by name (and as many shards in a summary); the rest is counted as OTHER."""
OTHER = "other reasons"


@dataclass(frozen=True)
class Finding:
    """One recovered or rejected input. ``substitute``: key of the sample used in its place, or empty."""

    step: int
    epoch: int
    view: str
    shard: str
    key: str
    number: int
    verdict: Verdict
    reason: str
    substitute: str = ""

    @property
    def kind(self) -> str:
        return self.reason.partition(":")[0].strip()


@dataclass
class Counts:
    """What was handed over: samples; inputs recovered, rejected (by kind), absent (by view)."""

    seen: int = 0
    recovered: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    """Rejections by shard: the worst offenders."""
    substituted: int = 0
    """Rejections replaced by another sample, which is then seen twice in its epoch."""

    def add(self, finding: Finding) -> None:
        if finding.verdict == "recovered":
            self.recovered += 1
        else:
            kind = finding.kind if finding.kind in self.rejected or len(self.rejected) < KINDS else OTHER
            self.rejected[kind] = self.rejected.get(kind, 0) + 1
            self.shards[finding.shard] = self.shards.get(finding.shard, 0) + 1
            self.substituted += bool(finding.substitute)

    @property
    def rejections(self) -> int:
        return sum(self.rejected.values())

    def worst(self, count: int) -> dict[str, int]:
        """The ``count`` shards with the most rejections, most first."""
        return dict(sorted(self.shards.items(), key=lambda pair: (-pair[1], pair[0]))[:count])

    def plus(self, other: Counts) -> Counts:
        """Sum over ranks, or over starts of a run."""
        return Counts(
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


def total(parts: Sequence[Counts]) -> Counts:
    """Counts over all ranks: ``total(distributed.gather_objects(loader.counts))``."""
    result = Counts()
    for part in parts:
        result = result.plus(part)
    return result


@dataclass(frozen=True)
class Coverage:
    """How much of the data set a run has used, by its plan: exact, since no epoch repeats a sample.

    ``unique`` samples were drawn at least once, ``duplicate`` drawings were not a sample's first, ``never_seen``
    samples were not drawn yet; ``epochs`` is passes, as a fraction.
    """

    seen: int
    unique: int
    duplicate: int
    never_seen: int
    epochs: float


def coverage(plan: Plan, step: int) -> Coverage:
    """Coverage of a run that has done ``step`` steps."""
    seen = plan.cursor(step).consumed
    unique = plan.unique(seen)
    return Coverage(seen, unique, seen - unique, plan.samples - unique, seen / plan.samples)


def _sum(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in sorted({*a, *b})}


class Ledger:
    """Appends findings to ``FOLDER/ledger-RANK.jsonl`` and keeps this rank's counts; no file if no folder."""

    def __init__(self, folder: str | None = None, *, rank: int = 0) -> None:
        self.counts = Counts()
        self._file = None
        if folder is not None:
            os.makedirs(folder, exist_ok=True)
            self._file = open(os.path.join(folder, f"ledger-{rank:05d}.jsonl"), "a", encoding="utf-8")

    def write(self, findings: Sequence[Finding]) -> None:
        """Count the findings and put them on disk before the batch they belong to is used."""
        for finding in findings:
            self.counts.add(finding)
            if self._file is not None:
                self._file.write(json.dumps(asdict(finding)) + "\n")
        if findings and self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_ledger(folder: str) -> list[Finding]:
    """All findings of a run over all ranks and resumptions, each once, in step order.

    The last line of a file may be cut (the process was killed while it wrote); that step is repeated anyway.
    """
    found: dict[tuple[int, int, str], Finding] = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "ledger-*.jsonl"))):
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    finding = Finding(**json.loads(line))
                    found[finding.step, finding.number, finding.view] = finding
    return [found[key] for key in sorted(found)]
