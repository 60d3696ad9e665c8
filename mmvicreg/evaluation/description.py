"""Geometry of the embeddings in a store: of each branch alone, and of matching rows of two branches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmvicreg.evaluation.geometry import (
    Geometry,
    ModalityGap,
    alignment,
    describe,
    lidar,
    modality_gap,
    spectrum,
)
from mmvicreg.evaluation.independence import Independence, independence
from mmvicreg.evaluation.store import Store

ROWS = 25_600
"""Rows that statistics of a branch are taken from, evenly spread (RankMe: 25,600)."""
PAIRS = 2_000
"""Matching pairs that alignment and LiDAR are taken from."""


@dataclass(frozen=True)
class PairGeometry:
    """Matching rows of two branches of one width: ``alignment`` of unit rows, and ``lidar`` (class = pair)."""

    pairs: int
    alignment: float
    lidar: float


@dataclass(frozen=True)
class Description:
    """``geometry`` and ``independence`` of the embeddings of each branch, the same of its representations, ``gaps`` and
    ``pairs`` of two branches under the name "a_b", and the ``spectra`` of the embeddings."""

    geometry: Mapping[str, Geometry]
    representations: Mapping[str, Geometry]
    independence: Mapping[str, Independence]
    representations_independence: Mapping[str, Independence]
    gaps: Mapping[str, ModalityGap]
    pairs: Mapping[str, PairGeometry]
    spectra: Mapping[str, np.ndarray]

    def to_json(self) -> dict[str, Any]:
        """Every number; spectra are left out."""
        named: dict[str, Mapping[str, Any]] = {
            "geometry": self.geometry,
            "independence": self.independence,
            "representations": self.representations,
            "representations_independence": self.representations_independence,
            "modality_gap": self.gaps,
            "matching_pairs": self.pairs,
        }
        return {name: {key: asdict(found) for key, found in each.items()} for name, each in named.items()}


def describe_store(store: Store, *, device: str | torch.device = "cpu") -> Description:
    """All statistics of the branches that have two rows or more."""
    branches = {name: rows for name, rows in store.views.items() if len(rows.z) > 1}
    z = {name: sample(rows.z).to(device) for name, rows in branches.items()}
    h = {name: sample(rows.h).to(device) for name, rows in branches.items()}
    gaps, pairs = {}, {}
    for a, b in combinations(branches, 2):
        if z[a].shape[1] != z[b].shape[1]:
            continue  # branches of different widths have no common space
        gaps[f"{a}_{b}"] = modality_gap(z[a], z[b])
        first, second = _matching(store, a, b)
        if len(first) > 1:
            found = [
                torch.from_numpy(branches[name].z[at]).to(device) for name, at in ((a, first), (b, second))
            ]
            pairs[f"{a}_{b}"] = PairGeometry(len(first), alignment(*found), lidar(torch.stack(found, dim=1)))
    return Description(
        geometry={name: describe(rows) for name, rows in z.items()},
        representations={name: describe(rows) for name, rows in h.items()},
        independence={name: independence(rows) for name, rows in z.items()},
        representations_independence={name: independence(rows) for name, rows in h.items()},
        gaps=gaps,
        pairs=pairs,
        spectra={name: spectrum(rows) for name, rows in z.items()},
    )


def sample(rows_MD: np.ndarray, *, count: int = ROWS) -> Tensor:
    """At most ``count`` rows, evenly spread."""
    chosen = np.unique(np.linspace(0, len(rows_MD) - 1, min(count, len(rows_MD))).round().astype(int))
    return torch.from_numpy(rows_MD[chosen])


def _matching(store: Store, a: str, b: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both, evenly spread over a, each with the first that matches."""
    positives = store.positives(a, b)
    matched = np.flatnonzero(positives.counts)
    chosen = matched[
        np.unique(np.linspace(0, len(matched) - 1, min(PAIRS, len(matched))).round().astype(int))
    ]
    return chosen, positives.indices[positives.offsets[chosen]]
