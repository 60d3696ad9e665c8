"""Search spaces: what an optimizer may choose for one setting of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Value: TypeAlias = str | int | float | bool


@dataclass(frozen=True)
class Uniform:
    """A real number in [low, high], uniform, or uniform in its logarithm."""

    low: float
    high: float
    log: bool = False

    def distribution(self) -> BaseDistribution:
        """The distribution that Optuna samples."""
        return FloatDistribution(self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high], uniform, or uniform in its logarithm."""

    low: int
    high: int
    log: bool = False

    def distribution(self) -> BaseDistribution:
        """The distribution that Optuna samples."""
        return IntDistribution(self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choice:
    """One of a few values without an order."""

    values: tuple[Value, ...]

    def distribution(self) -> BaseDistribution:
        """The distribution that Optuna samples."""
        return CategoricalDistribution(self.values)


Space: TypeAlias = Mapping[str, Uniform | Integer | Choice]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna's distributions, by setting."""
    return {name: each.distribution() for name, each in space.items()}


def sampler(*, seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimator, random for the first ``startup_trials`` (Bergstra et al. 2011)."""
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup_trials, multivariate=True)
