"""How queries are compared with items: the options of one flag, and the ranks that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.embed import embed_split
from mmvicreg.evaluation.positives import Positives
from mmvicreg.evaluation.ranks import Ranks, rank_both, rank_queries
from mmvicreg.evaluation.scoring.correlation import CorrelationAxes, correlation_axes
from mmvicreg.evaluation.scoring.hubness import Hubness, corrected_rows
from mmvicreg.objectives.predictors import predict
from mmvicreg.runs.run import Run
from mmvicreg.shards.index import ShardIndex, open_index

RIDGE = "mmvicreg.solvers.ridge:Ridge"
"""Solver whose heads are predictions both ways already: the cosine of its embeddings is their score."""


@dataclass(frozen=True)
class Scoring:
    """How a query is compared with an item.

    ``kind``: "cosine" of the embeddings; "prediction", the mean of cos(what a predicts of b, b) and cos(a, what b
    predicts of a), of the predictors that the run has (heads of the ridge solver are such predictions); "correlation",
    the cosine along canonical axes weighted by their correlation, estimated on ``correlation_data`` (shards, not those
    that are scored). ``hubness``: see :mod:`mmvicreg.evaluation.scoring.hubness`. ``widths``: score the first so many
    columns too, each made unit length again (Matryoshka, Kusupati et al. 2022).

    Raises ValueError for options that do not go together.
    """

    kind: Literal["cosine", "prediction", "correlation"] = "cosine"
    hubness: Hubness = "none"
    widths: tuple[int, ...] = ()
    correlation_data: str = ""

    def __post_init__(self) -> None:
        if (self.kind == "correlation") != bool(self.correlation_data):
            raise InvalidValueError(
                f"scoring is {self.kind!r} and the correlation data are {self.correlation_data!r}: scoring by "
                "correlation takes training shards as --correlation-data, and other scorings take none"
            )
        if any(width < 1 for width in self.widths) or len(set(self.widths)) < len(self.widths):
            raise InvalidValueError(
                f"--widths {' '.join(map(str, self.widths))}: expected different numbers of columns, 1 or more each"
            )

    def to_json(self) -> dict[str, Any]:
        """The fields, with ``kind`` under the name of its option."""
        found = asdict(self)
        return {"scoring": found.pop("kind"), **found, "widths": list(self.widths)}


@dataclass(frozen=True)
class Comparison:
    """A scoring with what it takes of a run."""

    scoring: Scoring
    run: Run
    device: torch.device
    axes: Mapping[tuple[str, str], CorrelationAxes] = field(default_factory=dict)

    def rows(
        self, ends: tuple[str, str], z: tuple[np.ndarray, np.ndarray], *, width: int = 0
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Rows of the branches ``ends`` with embeddings ``z`` whose cosines are the scores; ``width``: their first
        columns only. None for branches that this scoring cannot compare; ValueError for a width that they do not have.
        """
        parts = self._parts(ends, z)
        return _joined([(_first(x, width), _first(y, width)) for x, y in parts]) if parts else None

    def rank_both(
        self, rows: tuple[np.ndarray, np.ndarray], positives: Positives, *, sharded: bool = False
    ) -> tuple[Ranks, Ranks]:
        """Ranks of the first rows' matches among the second rows, and the other way; see :meth:`rank`."""
        if self.scoring.hubness == "none":
            options: dict[str, Any] = {"device": self.device, "sharded": sharded}
            return rank_both(*rows, positives, skip_unmatched=True, **options)
        back = self.rank(rows[::-1], positives.transpose(), sharded=sharded)
        return self.rank(rows, positives, sharded=sharded), back

    def rank(
        self, rows: tuple[np.ndarray, np.ndarray], positives: Positives, *, sharded: bool = False
    ) -> Ranks:
        """Ranks of each query's matches, corrected for hubs; queries without a match are left out."""
        options: dict[str, Any] = {"device": self.device, "sharded": sharded}
        corrected: tuple[Any, Any] = rows
        if self.scoring.hubness != "none":
            corrected = corrected_rows(*rows, self.scoring.hubness, **options)
        return rank_queries(*corrected, positives, skip_unmatched=True, **options)

    def _parts(
        self, ends: tuple[str, str], z: tuple[np.ndarray, np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of matrices whose cosines are averaged."""
        a, b = ends
        if self.scoring.kind == "correlation":
            if ends not in self.axes:
                raise InvalidValueError(f"the correlation data have no pairs of {a!r} and {b!r}")
            return [self.axes[ends].rows(*z)]
        if self.scoring.kind == "prediction" and not _is_ridge_solved(self.run):
            parts = []
            if (a, b) in self.run.predictors:
                parts.append((predict(self.run.predictors[a, b], z[0], device=self.device), z[1]))
            if (b, a) in self.run.predictors:
                parts.append((z[0], predict(self.run.predictors[b, a], z[1], device=self.device)))
            return parts
        return [z] if z[0].shape[1] == z[1].shape[1] else []


def comparison(
    run: Run,
    scoring: Scoring,
    *,
    device: torch.device,
    threads: int = 2,
    scored: Mapping[str, ShardIndex] | None = None,
) -> Comparison:
    """``scoring`` made ready for a run: correlation data are embedded and their axes estimated.

    ``scored``: the data that will be scored. Raises ValueError where they hold shards of the correlation data, and for
    prediction without predictors.
    """
    if scoring.kind == "prediction" and not run.predictors and not _is_ridge_solved(run):
        raise InvalidValueError(
            f"{run.folder} predicts nothing: it has no predictors (an objective with Prediction) and its heads are not "
            "those of the ridge solver; score it by cosine, or train or solve such a run"
        )
    if scoring.kind != "correlation":
        return Comparison(scoring, run, device)
    index = open_index(scoring.correlation_data)
    for name, other in (scored or {}).items():
        shared = {shard.entry.digest for shard in index.shards} & {
            shard.entry.digest for shard in other.shards
        }
        if shared:
            raise InvalidValueError(
                f"{len(shared)} shards of the correlation data are in the split {name!r} too: correlations are "
                "estimated on training data, or the scores are not those of held-out data"
            )
    store = embed_split(run, index, device=str(device), threads=threads, title="embed correlation data")
    branches = {name: rows.z for name, rows in store.views.items() if len(rows.z)}
    axes = {}
    for a, b in combinations(branches, 2):
        positives = store.positives(a, b)
        if len(positives.indices):
            axes[a, b] = correlation_axes(branches[a], branches[b], positives)
            axes[b, a] = axes[a, b].turned()
    return Comparison(scoring, run, device, axes)


def _is_ridge_solved(run: Run) -> bool:
    solver = run.config.get("solver")
    return isinstance(solver, dict) and solver.get("class") == RIDGE


def _first(rows_ND: np.ndarray, width: int) -> np.ndarray:
    if width > rows_ND.shape[1]:
        raise InvalidValueError(
            f"--widths {width}: the compared rows have {rows_ND.shape[1]} columns; give smaller widths"
        )
    return rows_ND[:, :width] if width else rows_ND


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose cosine is the mean of the cosines of the parts."""
    if len(parts) == 1:
        return parts[0]
    sides = []
    for matrices in zip(*parts, strict=True):
        unit: list[Tensor] = [normalize(torch.from_numpy(np.array(rows)), dim=1) for rows in matrices]
        sides.append(torch.cat(unit, dim=1).numpy())
    return sides[0], sides[1]
