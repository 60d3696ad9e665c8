"""Nearest rows of a fixed matrix: built once, asked often. Exact in blocks, or approximate by faiss above a size.

IVF sorts rows into cells about cluster centres and looks into the nearest cells of a query; HNSW walks a graph of near
rows (Malkov and Yashunin, 2018). Both may miss rows; how many is measured on a sample of the rows
when an index is built.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.unit_rows import require_finite

Method = Literal["auto", "exact", "ivf", "hnsw"]
APPROXIMATE_ABOVE = 500_000
"""Rows above which ``auto`` takes IVF, where faiss is installed (chosen: an exact query over 512 dimensions then takes
about half a second on two cores)."""
BLOCK = 65_536
PROBED = 64
"""Cells that an IVF query looks into."""
LINKS, WIDTH = 32, 128
"""Of HNSW: links of a row, and rows kept while a query walks."""
MEASURED, MEASURED_AT = 100, 10
"""Rows that are searched exactly, too, and how many of their nearest rows are compared."""
TRAINED_ON = 64
"""Rows a cell that the centres of IVF are fitted on."""


class RowIndex:
    """The rows (M, D) of one view, searched by cosine. Raises ValueError for rows that are not finite.

    ``recall``: fraction of the 10 nearest other rows that an approximate search finds, over 100 rows as queries; 1 of
    an exact one. Queries of another modality may lie elsewhere, and find fewer.
    """

    def __init__(self, rows_MD: np.ndarray, *, method: Method = "auto") -> None:
        require_finite(rows_MD, "embedded items")
        self.rows = rows_MD
        self._inverse_norm_M = np.concatenate(
            [_inverse_norms(rows_MD[start : start + BLOCK]) for start in range(0, len(rows_MD), BLOCK)]
            or [np.zeros(0, np.float32)]
        )
        self.method = _chosen(method, len(rows_MD))
        self._faiss = None if self.method == "exact" else self._built()
        self.recall = 1.0 if self._faiss is None else self._measured_recall()

    def description(self) -> str:
        """How rows are searched, in words."""
        if self.method == "exact":
            return f"exact search of {len(self.rows):,} items"
        return (
            f"approximate search ({self.method}) of {len(self.rows):,} items: it finds {100 * self.recall:.1f}% of "
            f"the {MEASURED_AT} nearest (measured on {min(MEASURED, len(self.rows))} of them; --method exact finds all)"
        )

    def search(self, queries_QD: Tensor, *, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(cosine, row) of the nearest rows, both (Q, k), best first; of fewer than k rows, all.

        Rows that an approximate search did not find have the row number -1.
        """
        if queries_QD.shape[1] != self.rows.shape[1]:
            raise InvalidValueError(
                f"the query has width {queries_QD.shape[1]}, the rows {self.rows.shape[1]}: branches of different "
                "widths meet in a predictor only (--by-predictor)"
            )
        require_finite(queries_QD, "queries")
        k = min(k, len(self.rows))
        queries_QD = torch.nn.functional.normalize(queries_QD.float(), dim=1)
        if self._faiss is not None:
            cosine, rows = self._faiss.search(queries_QD.numpy(), k)
            return cosine, rows
        return self._exact(queries_QD, k)

    def unit(self, start: int, stop: int) -> Tensor:
        """Rows start..stop of unit length, float32; rows of zeros stay zero."""
        block = np.array(self.rows[start:stop], dtype=np.float32)
        return torch.from_numpy(block * self._inverse_norm_M[start:stop, None])

    def _exact(self, queries_QD: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        best = torch.zeros((len(queries_QD), 0))
        places = torch.zeros((len(queries_QD), 0), dtype=torch.int64)
        for start in range(0, len(self.rows), BLOCK):
            cosine = queries_QD @ self.unit(start, start + BLOCK).T
            number = torch.arange(start, start + cosine.shape[1]).expand_as(cosine)
            both = torch.cat([best, cosine], dim=1)
            best, chosen = both.topk(min(k, both.shape[1]), dim=1)
            places = torch.cat([places, number], dim=1).gather(1, chosen)
        return best.numpy(), places.numpy()

    def _measured_recall(self) -> float:
        chosen = np.unique(np.linspace(0, len(self.rows) - 1, MEASURED).round().astype(int))
        queries_QD = torch.cat([self.unit(row, row + 1) for row in chosen.tolist()])
        k = min(MEASURED_AT + 1, len(self.rows))
        found, nearest = self.search(queries_QD, k=k)[1], self._exact(queries_QD, k)[1]
        fractions = [
            len({*one.tolist()} & {*other.tolist()} - {row}) / max(1, len({*other.tolist()} - {row}))
            for row, one, other in zip(chosen.tolist(), found, nearest, strict=True)
        ]
        return float(np.mean(fractions))

    def _built(self) -> Any:
        import faiss

        index: Any
        count, width = self.rows.shape
        if self.method == "hnsw":
            index = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = index.hnsw.efSearch = WIDTH
        else:
            cells = max(1, round(4 * count**0.5))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
            sample = np.unique(np.linspace(0, count - 1, min(count, TRAINED_ON * cells)).round().astype(int))
            index.cp.min_points_per_centroid = 1
            index.train(self.rows[sample] * self._inverse_norm_M[sample, None])
            index.nprobe = min(cells, PROBED)
        for start in range(0, count, BLOCK):
            index.add(self.unit(start, start + BLOCK).numpy())
        return index


def _chosen(method: Method, rows: int) -> Literal["exact", "ivf", "hnsw"]:
    if method == "exact" or (method == "auto" and rows <= APPROXIMATE_ABOVE):
        return "exact"
    try:
        import faiss  # noqa: F401
    except ImportError:
        if method == "auto":
            return "exact"
        raise InvalidValueError(
            f'approximate search ({method}) needs faiss: pip install "mmvicreg[search]", or use exact'
        ) from None
    return "ivf" if method == "auto" else method


def _inverse_norms(rows_MD: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows_MD.astype(np.float64), axis=1)
    return np.where(norm > 0, 1 / np.maximum(norm, 1e-300), 0.0).astype(np.float32)
