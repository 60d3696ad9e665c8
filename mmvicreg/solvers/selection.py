"""Settings chosen on validation data: every setting of a grid from the same moments, scored by mean recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import nn

from mmvicreg.solvers.config import AnySolver
from mmvicreg.solvers.grid import Grid
from mmvicreg.solvers.leave_one_out import leave_one_out
from mmvicreg.solvers.ridge import TARGET, Ridge
from mmvicreg.solvers.scoring import Scorer
from mmvicreg.solvers.solution import Solution
from mmvicreg.solvers.statistics.feature_maps import FeatureMap, blocks, fit_feature_map
from mmvicreg.solvers.statistics.moments import Moments, Pair
from mmvicreg.solvers.statistics.pairing import PairedRows, PairingConfig, count_moments
from mmvicreg.solvers.statistics.space_features import Space, SpaceFeatures

SPECTRUM = 512
"""Strengths of axes that a solved run records."""


@dataclass(frozen=True)
class Problem:
    """Training rows and how their moments are counted."""

    data: PairedRows
    features: Mapping[str, FeatureMap]
    pairs: tuple[Pair, ...]
    pairing: PairingConfig
    seed: int
    device: torch.device

    def feature_map(self, branch: str) -> FeatureMap:
        """Of one branch: the identity where none is named."""
        return self.features.get(branch, FeatureMap())


@dataclass(frozen=True)
class Candidate:
    """One setting and its mean recall on the validation data, a fraction."""

    solver: AnySolver
    features: Mapping[str, FeatureMap]
    score: float


def spaces_of(problem: Problem, solver: AnySolver) -> dict[str, Space]:
    """The spaces whose moments ``solver`` needs: a space a branch; of Ridge with a kernel, also the branch without
    its kernel, which is what is predicted."""
    spaces = {name: Space(name, _fit(problem, name, problem.feature_map(name))) for name in problem.data.rows}
    if isinstance(solver, Ridge):
        for name in problem.data.rows:
            found = problem.feature_map(name)
            if found.kernel != "none":
                spaces[name + TARGET] = Space(name, _fit(problem, name, replace(found, kernel="none")))
    return spaces


def _fit(problem: Problem, branch: str, feature_map: FeatureMap) -> nn.Sequential:
    rows = problem.data.branch(branch)
    return fit_feature_map(feature_map, rows, name=branch, seed=problem.seed, device=problem.device)


def moments_of(problem: Problem, solver: AnySolver, spaces: Mapping[str, Space]) -> Moments:
    """The moments ``solver`` needs."""
    pairs: Sequence[Pair] = problem.pairs
    if isinstance(solver, Ridge):
        branches = tuple(problem.data.rows)
        first, second = (branches * 2)[:2]
        pairs = [(first, _target(spaces, second)), (second, _target(spaces, first))]
        if pairs[0] == pairs[1][::-1]:
            pairs = pairs[:1]
    return count_moments(problem.data, spaces, pairs=pairs, config=problem.pairing, device=problem.device)


def _target(spaces: Mapping[str, Space], branch: str) -> str:
    return branch + TARGET if branch + TARGET in spaces else branch


def with_bandwidths(problem: Problem, grid: Grid) -> list[Problem]:
    """The problem with every bandwidth of the grid and the smaller number of features; empty without a kernel or
    without bandwidths to compare."""
    kernels = [name for name in problem.data.rows if problem.feature_map(name).kernel != "none"]
    if not kernels:
        return []
    found = []
    for bandwidth in grid.bandwidth:
        smaller = {
            name: replace(
                problem.feature_map(name),
                bandwidth=bandwidth,
                features=min(grid.features, problem.feature_map(name).features),
            )
            for name in kernels
        }
        found.append(replace(problem, features={**problem.features, **smaller}))
    return found


@dataclass(frozen=True)
class Prepared:
    """A problem whose moments are counted, and the scorer of its settings."""

    problem: Problem
    spaces: Mapping[str, Space]
    moments: Moments
    score: Scorer

    @staticmethod
    def of(problem: Problem, validation: PairedRows, solver: AnySolver) -> Prepared:
        """Count the moments ``solver`` needs, and compute the features of the validation rows."""
        spaces = spaces_of(problem, solver)
        moments = moments_of(problem, solver, spaces)
        return Prepared(problem, spaces, moments, Scorer(validation, spaces, problem.device))

    def candidates(self, solvers: Sequence[AnySolver]) -> list[Candidate]:
        """Settings that share one decomposition, scored."""
        leading = max((vars(solver).get("width", 1) for solver in solvers), default=1)
        decomposition: Any = solvers[0].decompose(self.moments, leading=leading, dtype=torch.float32)
        return [
            Candidate(solver, self.problem.features, self.score(solver.heads(decomposition)))
            for solver in solvers
        ]


class Comparison:
    """The settings of a grid, scored when asked for; settings with equal ridges share a decomposition."""

    def __init__(self, prepared: Prepared, solver: AnySolver, grid: Grid) -> None:
        self.prepared, self.grid = prepared, grid
        self.branches = tuple(prepared.problem.data.rows)
        self.settings: dict[tuple[float, ...], list[AnySolver]] = {}
        for setting in solver.settings(grid, self.branches):
            self.settings.setdefault(setting.ridges(self.branches), []).append(setting)
        self.scored: dict[tuple[float, ...], list[Candidate]] = {}

    def best(self, ridges: tuple[float, ...]) -> float:
        """The best score of the settings with these ridges."""
        if ridges not in self.scored:
            shared: dict[object, list[AnySolver]] = {}
            for setting in self.settings[ridges]:
                shared.setdefault(setting.key(), []).append(setting)
            self.scored[ridges] = [
                found for each in shared.values() for found in self.prepared.candidates(each)
            ]
        return max(candidate.score for candidate in self.scored[ridges])

    def start(self) -> tuple[float, ...]:
        """The middle ridge of every branch; those of the solver where the grid has none."""
        if not self.grid.ridge:
            return next(iter(self.settings))
        ordered = sorted(self.grid.ridge)
        middle = tuple([ordered[(len(ordered) - 1) // 2]] * len(self.branches))
        return middle if middle in self.settings else next(iter(self.settings))

    def search(self, start: tuple[float, ...]) -> None:
        """Score what the grid asks for: every combination of ridges, or neighbours of ``start`` and on from there, one
        ridge at a time, as long as that scores higher."""
        if self.grid.search == "all":
            for ridges in self.settings:
                self.best(ridges)
        self.best(start)
        current, moved = start, True
        while moved:
            moved = False
            for neighbour in self._neighbours(current):
                if self.best(neighbour) > self.best(current):
                    current, moved = neighbour, True
                    break

    def _neighbours(self, ridges: tuple[float, ...]) -> list[tuple[float, ...]]:
        ordered = sorted(self.grid.ridge)
        found = []
        for place, step in product(range(len(ridges)), (1, -1)):
            if ridges[place] not in ordered:
                continue
            position = ordered.index(ridges[place]) + step
            if 0 <= position < len(ordered):
                found.append((*ridges[:place], ordered[position], *ridges[place + 1 :]))
        return found

    def candidates(self) -> list[Candidate]:
        """Every setting that was scored, best first."""
        found = [candidate for each in self.scored.values() for candidate in each]
        return sorted(found, key=lambda candidate: -candidate.score)


@dataclass(frozen=True)
class Choice:
    """The chosen setting, solved with all features."""

    solver: AnySolver
    feature_maps: Mapping[str, FeatureMap]
    solution: Solution
    features: Mapping[str, nn.Sequential]
    """fitted feature map of every space"""
    score: float
    """mean recall on the validation data; where there are none, mean strength of the axes"""
    candidates: list[Candidate]
    """every setting that was compared, best first"""


def choose(problem: Problem, validation: PairedRows | None, solver: AnySolver, grid: Grid) -> Choice:
    """Compare the settings of the grid on the validation data and solve the best; without validation data, solve
    ``solver`` as it is, but for the ridges of a regression, which leave-one-out errors choose. Every process calls
    this.

    Bandwidths are compared with fewer features; then the ridges, powers and widths with all of them.
    """
    if validation is None:
        spaces = spaces_of(problem, solver)
        moments = moments_of(problem, solver, spaces)
        if (
            isinstance(solver, Ridge)
            and grid.ridge
            and not (problem.pairing.concept_power or problem.pairing.unpaired)
        ):
            solver = ridges_left_out(problem, solver, grid, moments, spaces)
        solution = solve_setting(solver, moments)
        score = float(solution.strengths.mean()) if len(solution.strengths) else 0.0
        maps = {name: space.features for name, space in spaces.items()}
        only = [Candidate(solver, problem.features, score)]
        return Choice(solver, problem.features, solution, maps, score, only)
    start, compared = None, list[Candidate]()
    drafts = with_bandwidths(problem, grid)
    if drafts:
        start, compared = _compare_bandwidths(drafts, validation, solver, grid)
        problem = replace(problem, features=_with_all_features(problem, compared[0].features))
    final = Comparison(Prepared.of(problem, validation, solver), solver, grid)
    final.search(start or final.start())
    candidates = final.candidates()
    chosen = candidates[0].solver
    solution = solve_setting(chosen, final.prepared.moments)
    score = final.prepared.score(solution)
    maps = {name: space.features for name, space in final.prepared.spaces.items()}
    candidates[0] = Candidate(chosen, problem.features, score)
    return Choice(chosen, problem.features, solution, maps, score, candidates + compared)


def ridges_left_out(
    problem: Problem, solver: Ridge, grid: Grid, moments: Moments, spaces: Mapping[str, Space]
) -> Ridge:
    """``solver`` with the ridge of each branch of least leave-one-out error among those of the grid."""
    branches = tuple(problem.data.rows)
    found = {
        name: SpaceFeatures(name, space, problem.data.branch(space.branch), problem.device)
        for name, space in spaces.items()
    }
    chosen = {}
    for source, other in (branches, branches[::-1]):
        target = _target(spaces, other)
        rows = problem.data.positives(source, other).pairs()
        parts = (slice(part.start, part.stop) for part in blocks(len(rows[0])))
        pairs = ((found[source].take(rows[0][part]), found[target].take(rows[1][part])) for part in parts)
        errors = leave_one_out(pairs, moments, (source, target), ridges=grid.ridge)
        chosen[source] = grid.ridge[int(errors.argmin())]
    return replace(solver, branches={**solver.branches, **chosen})


def solve_setting(solver: AnySolver, moments: Moments) -> Solution:
    """The heads of one setting, in fp64, with at least the :data:`SPECTRUM` strongest axes for the record."""
    decomposition: Any = solver.decompose(moments, leading=max(SPECTRUM, vars(solver).get("width", 1)))
    return solver.heads(decomposition)


def _compare_bandwidths(
    drafts: Sequence[Problem], validation: PairedRows, solver: AnySolver, grid: Grid
) -> tuple[tuple[float, ...], list[Candidate]]:
    """Every bandwidth at the middle ridges, then the ridges of the best one: the ridges to start from with all
    features, and the settings that were scored, best first."""
    comparisons = [Comparison(Prepared.of(draft, validation, solver), solver, grid) for draft in drafts]
    best = max(comparisons, key=lambda each: each.best(each.start()))
    best.search(best.start())
    leading = best.candidates()
    others = [found for each in comparisons if each is not best for found in each.candidates()]
    return leading[0].solver.ridges(best.branches), leading + others


def _with_all_features(problem: Problem, chosen: Mapping[str, FeatureMap]) -> dict[str, FeatureMap]:
    return {name: replace(chosen[name], features=problem.feature_map(name).features) for name in chosen}
