"""Embeddings as a Parquet table that embedding-atlas opens: a row an item, with its place on a map and its neighbours.

    embedding-atlas rows.parquet --x x --y y --neighbors neighbors --text text

``neighbors`` holds row numbers of the table ("ids", the nearest first) and cosine distances ("distances").
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.report.content import SampleContent
from mmvicreg.evaluation.store import Store
from mmvicreg.exploration.projection import Projection, project
from mmvicreg.exploration.row_index import Method, RowIndex
from mmvicreg.progress import bar

NEIGHBOURS = 15
AT_ONCE = 1024


def write_table(
    store: Store,
    content: SampleContent,
    path: Path,
    *,
    output: str = "z",
    projection: Projection = "pca",
    method: Method = "auto",
) -> Path:
    """Write the items of every view to ``path``.

    Columns: view, key and source of the first sample, identity, text (of a text item itself, of others the caption of
    their sample), embedding (list of float32), x, y, neighbors (among all items of the same width). Raises
    InvalidValueError without pyarrow.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InvalidValueError(
            f'{path}: parquet needs pyarrow: pip install "mmvicreg[parquet]", or write .npz or .safetensors'
        ) from None
    rows = {view: np.asarray(items.z if output == "z" else items.h) for view, items in store.views.items()}
    rows = {view: matrix for view, matrix in rows.items() if len(matrix)}
    places = project(rows, projection)
    neighbours = _neighbours(rows, method)
    columns: dict[str, list[object]] = {
        name: [] for name in ("view", "key", "source", "identity", "text", "embedding", "x", "y", "neighbors")
    }
    with bar("write items", sum(map(len, rows.values())), unit="items") as advance:
        for view, matrix in rows.items():
            items = store.items(view)
            for samples, identity in zip(items.samples, items.identities, strict=True):
                source, text = content.describe(view, samples[0], identity)
                columns["source"].append(source)
                columns["text"].append(text)
                advance(1, "")
            columns["view"] += [view] * len(matrix)
            columns["key"] += [store.keys[samples[0]] for samples in items.samples]
            columns["identity"] += items.identities
            columns["embedding"] += list(matrix)
            columns["x"] += places[view][:, 0].tolist()
            columns["y"] += places[view][:, 1].tolist()
            columns["neighbors"] += neighbours[view]
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def _neighbours(rows: dict[str, np.ndarray], method: Method) -> dict[str, list[object]]:
    """For every row, {"ids", "distances"} of its nearest rows among all views of its width, itself first."""
    starts = dict(zip(rows, np.cumsum([0, *map(len, rows.values())])[:-1].tolist(), strict=True))
    found: dict[str, list[object]] = {view: [] for view in rows}
    for width in {matrix.shape[1] for matrix in rows.values()}:
        views = [view for view, matrix in rows.items() if matrix.shape[1] == width]
        number = np.concatenate([starts[view] + np.arange(len(rows[view])) for view in views])
        index = RowIndex(np.concatenate([rows[view] for view in views]), method=method)
        done = 0
        for view in views:
            for start in range(done, done + len(rows[view]), AT_ONCE):
                stop = min(start + AT_ONCE, done + len(rows[view]))
                cosine, places = index.search(index.unit(start, stop), k=NEIGHBOURS + 1)
                for values, chosen in zip(cosine, places, strict=True):
                    kept = chosen >= 0
                    ids, distances = number[chosen[kept]].tolist(), (1 - values[kept]).clip(0).tolist()
                    found[view].append({"ids": ids, "distances": distances})
            done += len(rows[view])
    return found
