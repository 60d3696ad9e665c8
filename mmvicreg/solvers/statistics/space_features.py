"""Features of the rows of a space: computed once and kept while they are few, computed again where they are many.

n rows of a block, M rows of a branch, E width of a representation, F width of the features.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError

BLOCK = 1024
"""Rows whose features are computed together."""
KEPT_BYTES = 1 << 29
"""Features of a space that take no more are kept: every row is in its own moments and in those of its pairs."""


@dataclass(frozen=True)
class Space:
    """Features of one branch that have moments: ``features`` maps (n, E) to (n, F)."""

    branch: str
    features: nn.Sequential


class SpaceFeatures:
    """The features of rows (M, E) in a space.

    Moments must not depend on the number of processes, but the rounding of a matrix product depends on the rows that
    are multiplied together. Kept features are therefore those of fixed blocks, in fp32; features that are computed
    again are fp64.
    """

    def __init__(self, name: str, space: Space, rows_ME: np.ndarray, device: torch.device) -> None:
        if not len(rows_ME):
            raise InvalidValueError(
                f"{name!r} has no rows: nothing to solve; are its members in these shards?"
            )
        self.rows, self.device, self.features = rows_ME, device, space.features
        self.kept: dict[int, Tensor] | None = None
        self.dtype = torch.float32
        if not len(space.features):
            self.width = rows_ME.shape[1]
            return  # the rows themselves, which are not worth a copy
        first = self._compute(slice(0, BLOCK))
        self.width = first.shape[1]
        if 4 * len(rows_ME) * self.width <= KEPT_BYTES:
            self.kept = {0: first}
        else:
            self.features, self.dtype = deepcopy(space.features).double(), torch.float64

    @torch.no_grad()
    def _compute(self, rows: slice | np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        found = torch.from_numpy(np.array(self.rows[rows], dtype=np.float32))
        return self.features(found.to(self.device, dtype))

    def origin(self, count: int) -> Tensor:
        """The mean (F,) of the first ``count`` rows (at most one block), fp64."""
        return self.take(np.arange(min(count, BLOCK, len(self.rows)))).double().mean(0)

    def take(self, rows_n: np.ndarray) -> Tensor:
        """The features (n, F) of these rows; a row that occurs several times is computed once."""
        distinct, place = np.unique(rows_n, return_inverse=True)
        if self.kept is None:
            run = slice(int(distinct[0]), int(distinct[-1]) + 1)
            consecutive = run.stop - run.start == len(distinct)
            found = self._compute(run if consecutive else distinct, self.dtype)
        else:
            found = self._kept(distinct)
        if len(distinct) == len(rows_n) and bool((place == np.arange(len(place))).all()):
            return found
        return found[torch.from_numpy(place).to(self.device)]

    def _kept(self, distinct_n: np.ndarray) -> Tensor:
        assert self.kept is not None
        parts = []
        for number in np.unique(distinct_n // BLOCK).tolist():
            start = number * BLOCK
            if number not in self.kept:
                self.kept[number] = self._compute(slice(start, start + BLOCK))
            wanted = distinct_n[(distinct_n >= start) & (distinct_n < start + BLOCK)] - start
            block = self.kept[number]
            parts.append(block if len(wanted) == len(block) else block[torch.from_numpy(wanted)])
        return torch.cat(parts) if len(parts) != 1 else parts[0]
