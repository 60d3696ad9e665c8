"""What the numbers of a run mean, in plain sentences: collapsed? aligned? which branch? over-fitted?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmvicreg.evaluation.description import Description
from mmvicreg.evaluation.retrieval import RetrievalScores

SPREAD = 0.05
"""Below this standard deviation of unit rows times sqrt(D), embeddings are collapsed; 1 is isotropic."""
RANK = 0.02
"""Below this effective rank as a fraction of the largest possible, a branch uses few directions."""
DECLINE = 0.9
"""A last validation score below this fraction of the best one is a decline."""
MIXED = 0.9
"""Above this accuracy, the nearer centroid tells the two modalities apart: a modality gap."""


@dataclass(frozen=True)
class Finding:
    """One sentence about a run, and whether it is good news."""

    level: Literal["good", "notice", "problem"]
    text: str


def diagnose(
    *,
    scores: Mapping[str, Mapping[str, RetrievalScores]],
    descriptions: Mapping[str, Description],
    log: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    counts: Mapping[str, Any],
) -> list[Finding]:
    """Problems first, then notices, then what is good. ``scores``: split to direction to scores."""
    found = [
        *(finding for split, each in descriptions.items() for finding in _branches(split, each)),
        *(finding for split, each in scores.items() for finding in _alignment(split, each)),
        *_validation(log),
        *_events(events),
        *_samples(counts),
    ]
    order = {"problem": 0, "notice": 1, "good": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def _branches(split: str, description: Description) -> Iterator[Finding]:
    for branch, z in description.geometry.items():
        largest = max(1, min(z.dimensions, z.rows - 1))
        if z.std_unit < SPREAD:
            yield Finding(
                "problem",
                f"The {branch} embeddings of {split} have collapsed: nearly all point in one direction (spread "
                f"{z.std_unit:.3f}, healthy is near 1). Raise the weight of that branch's variance term, or lower "
                "the learning rate.",
            )
        elif z.effective_rank / largest < RANK:
            yield Finding(
                "problem",
                f"The {branch} embeddings of {split} use {z.effective_rank:.0f} of {largest} possible directions. "
                "Raise the weight of that branch's covariance, shape or SIGReg term.",
            )
        else:
            yield Finding(
                "good",
                f"The {branch} embeddings of {split} have not collapsed: effective rank {z.effective_rank:.0f} of "
                f"{largest} possible, spread {z.std_unit:.2f}.",
            )
    for pair, gap in description.gaps.items():
        if gap.centroid_accuracy > MIXED:
            yield Finding(
                "notice",
                f"There is a modality gap between {pair.replace('_', ' and ')} in {split}: the nearer centroid tells "
                f"them apart for {100 * gap.centroid_accuracy:.0f}% of the embeddings (50% is no gap).",
            )


def _alignment(split: str, scores: Mapping[str, RetrievalScores]) -> Iterator[Finding]:
    for direction, found in scores.items():
        k = min(found.recall)
        queries, _, items = direction.partition("_to_")
        low, chance = found.interval[k][0], found.chance[k]
        if low <= chance:
            yield Finding(
                "problem",
                f"{split}: {queries} queries do not find their {items.replace('_', ' ')}: R@{k} is "
                f"{100 * found.recall[k]:.1f}%, and chance, {100 * chance:.2f}%, is within its interval. Raise the "
                "weight of the alignment, train longer, or check that the pairs belong together.",
            )
        else:
            yield Finding(
                "good",
                f"{split}: {queries} queries find their {items.replace('_', ' ')}: R@{k} is "
                f"{100 * found.recall[k]:.1f}%, {found.recall[k] / chance:.0f} times chance.",
            )


def _validation(log: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    series: dict[str, list[tuple[int, float]]] = {}
    for line in log:
        for name, value in line.get("validation", {}).items():
            if "/recall_at_" in name:
                series.setdefault(name, []).append((line["step"], value))
    for name, points in series.items():
        step, best = max(points, key=lambda point: point[1])
        last = points[-1][1]
        if len(points) >= 3 and last < DECLINE * best:
            yield Finding(
                "notice",
                f"Over-fitted: {name.replace('_', ' ')} on validation data was best at step {step:,} "
                f"({100 * best:.1f}%) and ended at {100 * last:.1f}%. Train for fewer epochs, or keep the best "
                f"checkpoint with --best-metric {name}.",
            )


def _events(events: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for event in events:
        if event.get("kind") in ("collapse", "skip"):
            yield Finding("notice", f"Step {event.get('step', '?')}: {event.get('message', '')}")


def _samples(counts: Mapping[str, Any]) -> Iterator[Finding]:
    rejected = counts.get("rejected", {})
    total = sum(rejected.values())
    if total:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in rejected.items() if number)
        yield Finding(
            "notice", f"{total:,} inputs were rejected while training ({reasons}); the ledger names them."
        )
