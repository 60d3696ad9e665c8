"""Rows of embeddings as scores compare them: finite, and of unit length.

Rows that are not finite are refused, by number, before anything is counted: NaN compares false with everything, so a
ranking or an arg max of NaN scores would look perfect instead of broken.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError

ROWS_AT_ONCE = 65_536
"""Rows that are read at a time, so that a memory-mapped matrix is never held whole."""
NORMS = (2.0**-100, 2.0**100)
"""Between these lengths, unit rows are formed in fp32; a row outside takes the whole comparison to fp64."""


def require_finite(rows_ND: Tensor | np.ndarray, name: str) -> None:
    """Raise ValueError if any value of ``rows_ND`` (rows, ...) is NaN or infinite.

    ``name`` says in the message what the rows are ("items", "training features").
    """
    bad: list[int] = []
    for start in range(0, len(rows_ND), ROWS_AT_ONCE):
        part = rows_ND[start : start + ROWS_AT_ONCE]
        finite = part.isfinite() if isinstance(part, Tensor) else torch.from_numpy(np.isfinite(part))
        wrong = (~finite.reshape(len(finite), -1).all(dim=1)).nonzero()[:, 0]
        bad += (wrong + start).tolist()
    if bad:
        raise InvalidValueError(
            f"row {bad[0]} of the {name} is not finite: {len(bad):,} of {len(rows_ND):,} rows hold NaN or infinity, "
            "and no score of them means anything. Check the checkpoint that made them (its loss, its precision)"
        )


class UnitRows:
    """The queries or the items: rows of unit length, tile by tile. A row of zeros stays zero.

    Raises ValueError for rows that are not finite, with ``name`` in the message.
    """

    def __init__(self, rows_ND: Tensor | np.ndarray, name: str, tile: int, device: torch.device) -> None:
        require_finite(rows_ND, name)
        self.tile, self.device = tile, device
        # A GPU holds the rows; a CPU reads them tile by tile, from a memory map too.
        self.rows = rows_ND if device.type == "cpu" else _tensor(rows_ND[:]).to(device)
        norm_N = torch.cat([self._norms(*span) for span in self.tiles()])
        require_finite(norm_N, f"{name} (squared, they overflow fp64)")
        self.inverse_norm = torch.where(norm_N > 0, norm_N.reciprocal(), 0.0)
        moderate = (norm_N == 0) | ((norm_N > NORMS[0]) & (norm_N < NORMS[1]))
        self.moderate = bool(moderate.all())

    def __len__(self) -> int:
        return len(self.rows)

    def tiles(self) -> list[tuple[int, int]]:
        return [(a, min(a + self.tile, len(self))) for a in range(0, len(self), self.tile)]

    def unit(self, start: int, stop: int) -> Tensor:
        """Rows start..stop in fp32, each value within 2^-22 of itself."""
        return self._read(slice(start, stop)).float() * self.inverse_norm[start:stop, None].float()

    def exact(self, row_n: Tensor) -> Tensor:
        """These rows in fp64."""
        rows = self.rows[row_n] if isinstance(self.rows, Tensor) else _tensor(self.rows[row_n.numpy()])
        return rows.to(self.device, torch.float64) * self.inverse_norm[row_n, None]

    def _read(self, rows: slice) -> Tensor:
        return _tensor(self.rows[rows]).to(self.device)

    def _norms(self, start: int, stop: int) -> Tensor:
        return self._read(slice(start, stop)).double().square().sum(1).sqrt()


def _tensor(rows: Tensor | np.ndarray) -> Tensor:
    if isinstance(rows, Tensor):
        return rows
    return torch.from_numpy(np.require(rows, requirements=["W", "C"]))  # torch warns about read-only maps
