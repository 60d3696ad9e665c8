"""Scores of a summary as plain numbers, for comparisons."""

from __future__ import annotations

from mmvicreg.evaluation.summary import Summary


def numbers(summary: Summary, *parts: str) -> dict[str, float]:
    """The scores under a dotted prefix that are defined, by the rest of their names."""
    return {name: value for name, value in summary.split(*parts).items() if value is not None}
