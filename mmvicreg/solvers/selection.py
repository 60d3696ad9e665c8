"""Settings chosen on validation data: every setting of a grid from the same moments, scored by mean recall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranks import rank_both
from mmvicreg.solvers.config import AnySolver
from mmvicreg.solvers.feature_maps import FeatureMap, blocks, fit_feature_map
from mmvicreg.solvers.grid import Grid
from mmvicreg.solvers.moments import Moments, Pair
from mmvicreg.solvers.pairing import PairedRows, PairingConfig, Space, count_moments
from mmvicreg.solvers.ridge import TARGET, Ridge
from mmvicreg.solvers.solution import Solution, embed_with

RECALL_AT = (1, 5, 10)


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


def solutions(moments: Moments, solvers: Sequence[AnySolver]) -> Iterator[tuple[AnySolver, Solution]]:
    """Each solver with its solution; those whose decomposition is the same share it."""
    key: object = None
    decomposition: Any = None
    for solver in sorted(solvers, key=lambda each: repr(each.key())):
        if decomposition is None or solver.key() != key:
            key, decomposition = solver.key(), solver.decompose(moments)
        yield solver, solver.heads(decomposition)


def with_bandwidths(problem: Problem, grid: Grid) -> list[Problem]:
    """The problem with every bandwidth of the grid and the smaller number of features; itself without a kernel."""
    kernels = [name for name in problem.data.rows if problem.feature_map(name).kernel != "none"]
    if not kernels or not grid.bandwidth:
        return [problem]
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


class Scorer:
    """Mean recall of solutions on validation rows, whose features are computed once."""

    def __init__(self, data: PairedRows, spaces: Mapping[str, Space], device: torch.device) -> None:
        self.features = {
            name: features_of(space, data.branch(space.branch), device) for name, space in spaces.items()
        }
        self.positives = {
            (a, b): found
            for a, b in combinations(data.rows, 2)
            if (found := data.positives(a, b)).indices.size
        }
        if not self.positives:
            raise InvalidValueError(
                "no sample of the validation data has two modalities: nothing can be chosen by them; check their "
                "members with 'mmvicreg check'"
            )

    def __call__(self, solution: Solution) -> float:
        """Mean of R@1, R@5 and R@10 over both directions of every pair, a fraction."""
        z = {name: embed_with(parts, self.features) for name, parts in solution.branches.items()}
        return float(np.mean([mean_recall(z[a], z[b], found) for (a, b), found in self.positives.items()]))


def mean_recall(z_a: Tensor, z_b: Tensor, positives: Positives) -> float:
    """Mean of R@1, R@5 and R@10 over both directions, a fraction; queries without a match are left out."""
    ranks = rank_both(z_a, z_b, positives, device=z_a.device, skip_unmatched=True)
    return float(np.mean([each.recall(k).mean() for each in ranks for k in RECALL_AT]))


@torch.no_grad()
def features_of(space: Space, rows_ME: np.ndarray, device: torch.device) -> Tensor:
    """Features of rows (M, E) in a space, fp32 (M, F) in memory: for rows that are few."""
    parts = [
        space.features(torch.from_numpy(np.array(rows_ME[part], dtype=np.float32)).to(device))
        for part in blocks(len(rows_ME))
    ]
    if not parts:
        raise InvalidValueError(f"the held-out data have no rows of {space.branch!r}")
    return torch.cat(parts)


def compare_settings(
    problem: Problem, validation: PairedRows, solver: AnySolver, grid: Grid
) -> list[Candidate]:
    """Every setting of the grid with its score, best first. Several bandwidths are compared with fewer features."""
    found = []
    for each in with_bandwidths(problem, grid):
        spaces = spaces_of(each, solver)
        moments = moments_of(each, solver, spaces)
        score = Scorer(validation, spaces, problem.device)
        for setting, solution in solutions(moments, solver.settings(grid, tuple(problem.data.rows))):
            found.append(Candidate(setting, each.features, score(solution)))
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
    ``solver`` as it is. Every process calls this."""
    if validation is None:
        spaces = spaces_of(problem, solver)
        ((_, solution),) = solutions(moments_of(problem, solver, spaces), [solver])
        score = float(solution.strengths.mean()) if len(solution.strengths) else 0.0
        maps = {name: space.features for name, space in spaces.items()}
        only = [Candidate(solver, problem.features, score)]
        return Choice(solver, problem.features, solution, maps, score, only)
    compared = compare_settings(problem, validation, solver, grid)
    best = compared[0]
    final = replace(problem, features=_with_all_features(problem, best.features))
    spaces = spaces_of(final, best.solver)
    ((_, solution),) = solutions(moments_of(final, best.solver, spaces), [best.solver])
    score = Scorer(validation, spaces, problem.device)(solution)
    maps = {name: space.features for name, space in spaces.items()}
    compared.insert(0, Candidate(best.solver, final.features, score))
    return Choice(best.solver, final.features, solution, maps, score, compared)


def _with_all_features(problem: Problem, chosen: Mapping[str, FeatureMap]) -> dict[str, FeatureMap]:
    return {name: replace(chosen[name], features=problem.feature_map(name).features) for name in chosen}
