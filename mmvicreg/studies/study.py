"""What a study is: methods with their search spaces, data regimes, seeds, and the score that is maximized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmvicreg.errors import InvalidValueError, UnknownNameError
from mmvicreg.studies.space import Space, Value

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Trial:
    """One training run of a study: what a method's ``train`` is given."""

    method: str
    """name of the method"""
    regime: str
    """name of the data regime"""
    settings: Mapping[str, Value]
    """a value for every setting of the method's space"""
    seed: int
    """seed of the run: initial weights, data subset, augmentation"""
    out: Path
    """run directory; ``train`` leaves ``summary.json`` there"""


@dataclass(frozen=True)
class Method:
    """One way to train, and what may be tuned about it."""

    train: Callable[[Trial], None]
    """a module-level function: trains, scores validation data only, writes ``summary.json`` into ``trial.out``"""
    space: Space
    """settings that are searched; empty for a method without any"""
    trials: int
    """search budget for each regime, in runs"""
    family: str
    """methods of one family are compared under the same budget: contrastive, non-contrastive, closed form, ..."""
    start: Mapping[str, Value] = field(default_factory=dict)
    """settings of the first trial, such as the defaults of a paper, so that a small budget is not spent on
    chance alone; what is not named is proposed"""


@dataclass(frozen=True)
class Study:
    """A matched comparison: every method is searched with its budget in every regime, chosen on validation scores,
    repeated with fresh seeds, and scored on test data once."""

    name: str
    description: str
    """one sentence for ``--help``"""
    methods: Mapping[str, Method]
    regimes: tuple[str, ...]
    metrics: tuple[str, ...]
    """dotted paths into ``summary.json`` whose mean is maximized, such as validation.image_to_text.recall_at_1"""
    test: Callable[[Trial], Mapping[str, float]]
    """scores the finished run in ``trial.out`` on test data; a module-level function, called once a run"""
    test_metrics: tuple[str, ...]
    """dotted paths into what ``test`` returns, whose mean is the reported score"""
    search_seed: int = 0
    """seed of every run of the search"""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """seeds of the repeated runs of the chosen settings; they differ from the seed of the search"""
    baseline: str = ""
    """method that the table's ratios are relative to; empty for no ratios"""
    startup_trials: int = field(default=8)
    """random trials before the optimizer proposes"""

    def __post_init__(self) -> None:
        if self.search_seed in self.seeds:
            raise InvalidValueError(
                f"search_seed {self.search_seed} is among the seeds {self.seeds} of the repeated runs: their scores "
                "would be selected, not measured; choose another search_seed"
            )
        if self.baseline and self.baseline not in self.methods:
            raise UnknownNameError(
                f"baseline {self.baseline!r} is not a method; there are {', '.join(self.methods)}"
            )

    def method(self, name: str) -> Method:
        """The method of that name. Raises UnknownNameError with the names there are."""
        if name not in self.methods:
            raise UnknownNameError(f"no method {name!r}; this study has {', '.join(self.methods)}")
        return self.methods[name]


def mean_of(names: tuple[str, ...], scores: Mapping[str, float | None], *, source: str) -> float:
    """The mean of the scores with these names, such as validation.image_to_text.recall_at_1.

    Raises UnknownNameError for a name that is not there, with those that are; InvalidValueError for an undefined one.
    """
    found = []
    for name in names:
        if name not in scores:
            raise UnknownNameError(f"{source} has no score {name!r}; it has {', '.join(sorted(scores))}")
        value = scores[name]
        if value is None:
            raise InvalidValueError(f"{source}: the score {name} is not defined")
        found.append(float(value))
    return sum(found) / len(found)
