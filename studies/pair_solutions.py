"""Heads solved in closed form on frozen features: canonical correlation analysis and ridge regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pair_features import Division, Pairs
from torch import Tensor

import mmvicreg as mm
from mmvicreg.solvers.selection import Problem, moments_of, spaces_of
from mmvicreg.solvers.solution import Solution, embed_with
from mmvicreg.solvers.statistics.feature_maps import Step
from mmvicreg.solvers.statistics.pairing import PairedRows, PairingConfig, Space
from mmvicreg.studies.space import Value

CPU = torch.device("cpu")


@dataclass(frozen=True)
class SolvedHeads:
    """A feature map and a linear map for each branch."""

    spaces: Mapping[str, Space]
    solution: Solution

    def embed(self, image_NE: Tensor, text_QE: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of images (N, D) and captions (Q, D) to be compared by cosine."""
        return self._embed("image", image_NE), self._embed("text", text_QE)

    def _embed(self, branch: str, rows_NE: Tensor) -> Tensor:
        parts = self.solution.branches[branch]
        needed = {part.space for part in parts}
        return embed_with(parts, {name: self.spaces[name].features(rows_NE) for name in needed})


def solve_heads(
    division: Division, settings: Mapping[str, Value], solver: mm.CCA | mm.Ridge, *, kernel: bool, seed: int
) -> SolvedHeads:
    """Solve on the training pairs with the feature maps that ``settings`` describe."""
    problem = problem_of(division, settings, kernel=kernel, seed=seed)
    with torch.no_grad():
        spaces = spaces_of(problem, solver)
        solution = solver.heads(solver.decompose(moments_of(problem, solver, spaces)))
    return SolvedHeads(spaces, solution)


def problem_of(division: Division, settings: Mapping[str, Value], *, kernel: bool, seed: int) -> Problem:
    """The training pairs and the feature maps that ``settings`` describe."""
    return Problem(
        data=paired_rows(division.train, augment=bool(settings["augment"])),
        features={name: _feature_map(settings, name, kernel=kernel) for name in ("image", "text")},
        pairs=(("image", "text"),),
        pairing=PairingConfig(concept_power=float(settings["concept_power"])),
        seed=seed,
        device=CPU,
    )


def _feature_map(settings: Mapping[str, Value], branch: str, *, kernel: bool) -> mm.FeatureMap:
    root = branch == "image" and settings["image_map"] == "root"
    steps: tuple[Step, ...] = ("signed_root", "unit") if root else ("unit",)
    if not kernel:
        return mm.FeatureMap(steps)
    return mm.FeatureMap(
        steps, "nystrom", int(settings["landmarks"]), bandwidth=float(settings[f"{branch}_bandwidth"])
    )


def paired_rows(pairs: Pairs, *, augment: bool) -> PairedRows:
    """Every crop and caption of a pair where ``augment``, else the evaluation crop and the name."""
    if not augment:
        numbers = [[n] for n in range(len(pairs))]
        rows = {"image": pairs.image[:, 0].numpy(), "text": pairs.text[:, 0].numpy()}
        return PairedRows(rows, {"image": numbers, "text": numbers})
    crops = pairs.image.shape[1]
    exists = torch.arange(pairs.text.shape[1]) < pairs.captions[:, None]
    of_text = exists.nonzero()[:, 0].tolist()
    return PairedRows(
        {"image": pairs.image.flatten(0, 1).numpy(), "text": pairs.text[exists].numpy()},
        {
            "image": [[n] for n in range(len(pairs)) for _ in range(crops)],
            "text": [[n] for n in of_text],
        },
    )
