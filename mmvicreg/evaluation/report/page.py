"""What a report shows, as plain data; :mod:`mmvicreg.evaluation.report.html` renders it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmvicreg.evaluation.description import Description
from mmvicreg.evaluation.report.diagnosis import Finding
from mmvicreg.evaluation.report.figures import Example
from mmvicreg.evaluation.report.hubs import Hub
from mmvicreg.evaluation.retrieval import RetrievalScores


@dataclass(frozen=True)
class SplitReport:
    """One held-out split of one run; directions are named such as "image_to_text"."""

    scores: Mapping[str, RetrievalScores]
    description: Description | None = None
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    hubs: Mapping[str, Sequence[Hub]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunReport:
    """One run; every part but the name may be empty and is then left out of the page."""

    name: str
    note: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    """what was run, on what data, when and where, in a few lines"""
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    """lines of log.jsonl"""
    events: Sequence[Mapping[str, Any]] = ()
    """lines of events.jsonl"""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """sample counts of training, as data.json holds them"""
    samples: Sequence[Example] = ()
    """training samples: an image or text, and what belongs to it"""
    splits: Mapping[str, SplitReport] = field(default_factory=dict)
    findings: Sequence[Finding] = ()


@dataclass(frozen=True)
class Report:
    """A page about one run, or several side by side: what differs between them comes first."""

    title: str
    runs: Sequence[RunReport] = ()
    differences: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """configuration field to its value in each run, for fields of all runs that are not equal in all"""
    not_shared: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """the same of fields that some run does not have (None there): training and solving have different ones"""
