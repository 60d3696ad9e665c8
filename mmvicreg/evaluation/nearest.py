"""Embeddings as files for other tools, and the nearest rows of a query."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.evaluation.store import Store
from mmvicreg.evaluation.transfer.prompts import image_branches, text_branches, text_item
from mmvicreg.evaluation.unit_rows import require_finite
from mmvicreg.files import write_text, write_with
from mmvicreg.modalities.decoding.formats import is_image
from mmvicreg.objectives.predictors import between
from mmvicreg.runs.run import Run
from mmvicreg.stream.reader import Sample

BLOCK = 65_536
LARGE = 1_000_000
"""From this many rows on, faiss searches where it is installed."""
SUFFIXES = (".safetensors", ".npy", ".npz", ".parquet")


def check_rows_name(path: str | Path) -> None:
    """Raise InvalidValueError where :func:`write_rows` knows no format for the suffix of ``path``."""
    if Path(path).suffix not in SUFFIXES:
        raise InvalidValueError(f"{path}: expected a name in {', '.join(SUFFIXES)}")


def write_rows(store: Store, path: str | Path, *, output: str = "z") -> Path:
    """All views' rows in one file by its suffix: .safetensors, .npz, or .parquet (needs pyarrow).

    Per view: float32 rows, identities, and for each row the key of the first sample it occurs in. For .npy a file a
    view, ``STEM.VIEW.npy``, which NumPy maps into memory, and ``STEM.VIEW.jsonl`` with a row's key and identity a
    line. Gives the file, for .npy the first. Raises ValueError for another suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    matrices = {view: np.asarray(rows.z if output == "z" else rows.h) for view, rows in store.views.items()}
    first = {view: [store.keys[s[0]] for s in rows.samples] for view, rows in store.views.items()}
    names = {view: rows.identities for view, rows in store.views.items()}
    if path.suffix == ".safetensors":
        _write_safetensors(path, matrices, first, names)
    elif path.suffix == ".npz":
        columns = {f"{view}.{output}": rows for view, rows in matrices.items()}
        columns |= {f"{view}.keys": np.array(keys, dtype=str) for view, keys in first.items()}
        columns |= {f"{view}.identities": np.array(found, dtype=str) for view, found in names.items()}
        write_with(path, lambda partial: _write_npz(partial, columns))
    elif path.suffix == ".npy":
        return _write_npy(path, matrices, first, names)
    elif path.suffix == ".parquet":
        _write_parquet(path, matrices, first, names)
    else:
        check_rows_name(path)
    return path


def _write_npz(path: Path, columns: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:  # a name would get another suffix
        np.savez(file, **columns)  # type: ignore[arg-type]


def _save_npy(path: Path, rows: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, np.ascontiguousarray(rows))


def _write_npy(
    path: Path, matrices: dict[str, np.ndarray], keys: dict[str, list[str]], names: dict[str, list[str]]
) -> Path:
    import json

    files = [path.with_name(f"{path.stem}.{view}.npy") for view in matrices]
    for file, (view, rows) in zip(files, matrices.items(), strict=True):
        write_with(file, partial(_save_npy, rows=rows))
        lines = [
            json.dumps({"key": key, "identity": name}, ensure_ascii=False)
            for key, name in zip(keys[view], names[view], strict=True)
        ]
        write_text(file.with_suffix(".jsonl"), "".join(f"{line}\n" for line in lines))
    return files[0]


def _write_safetensors(
    path: Path, matrices: dict[str, np.ndarray], keys: dict[str, list[str]], names: dict[str, list[str]]
) -> None:
    import json

    from safetensors.numpy import save_file

    metadata = {f"{view}.keys": json.dumps(found) for view, found in keys.items()}
    metadata |= {f"{view}.identities": json.dumps(found, ensure_ascii=False) for view, found in names.items()}
    tensors = {view: np.ascontiguousarray(rows) for view, rows in matrices.items()}
    write_with(path, lambda partial: save_file(tensors, partial, metadata=metadata))


def _write_parquet(
    path: Path, matrices: dict[str, np.ndarray], keys: dict[str, list[str]], names: dict[str, list[str]]
) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InvalidValueError(
            f"{path}: parquet needs pyarrow; install it, or write .npz or .safetensors"
        ) from None
    columns = {
        "view": [view for view, rows in matrices.items() for _ in rows],
        "key": [key for found in keys.values() for key in found],
        "identity": [name for found in names.values() for name in found],
        "embedding": [row for rows in matrices.values() for row in rows],
    }
    write_with(path, lambda partial: pyarrow.parquet.write_table(pyarrow.table(columns), partial))


@torch.inference_mode()
def embed_query(
    run: Run, query: str, *, branch: str = "", to: str = "", device: str | torch.device = "cpu"
) -> Tensor:
    """Embedding (D,) of a picture file or, where the query does not end as one, of a text.

    ``branch``: which branch embeds it; needed where several could. ``to``: what it predicts of that branch. Raises
    FileNotFoundError for a missing picture, ValueError where the run has no branch for the query, or no such predictor.
    """
    picture = is_image(Path(query).suffix)
    if picture and not Path(query).is_file():
        raise MissingFileError(f"{query}: no such picture")
    name = branch or _only_branch(run, picture)
    module = run.model.branch_named(name).eval().to(device)  # KeyError with those there are
    reader = run.modalities[name].reader()
    if picture:
        member = Path(query).suffix.lower()[1:]
        value = reader.items(Sample(query, 0, {member: Path(query).read_bytes()}))[0].value
    else:
        value = text_item(reader, query)
    predictor = between(run.predictors, name, to).to(device) if to else torch.nn.Identity()
    return predictor(module(value[None].to(device)).z)[0].float().cpu()


def _only_branch(run: Run, picture: bool) -> str:
    kind = "picture" if picture else "text"
    found = image_branches(run) if picture else text_branches(run)
    if len(found) != 1:
        which = (
            f"several branches for it: {', '.join(found)}" if found else f"only {', '.join(run.modalities)}"
        )
        raise InvalidValueError(f"the query is a {kind}, and the run has {which}; choose with --query-branch")
    return found[0]


def nearest(queries_QD: Tensor, rows_MD: np.ndarray, *, k: int = 10) -> tuple[Tensor, Tensor]:
    """(cosine, row) of the k nearest rows, both (Q, k), best first.

    Exact, in blocks of rows; from ``LARGE`` rows on by faiss (inner product, exact too) where installed.
    """
    if queries_QD.shape[1] != rows_MD.shape[1]:
        raise InvalidValueError(
            f"the query has width {queries_QD.shape[1]}, the rows {rows_MD.shape[1]}: branches of different widths "
            "meet in a predictor only (--by-predictor)"
        )
    require_finite(queries_QD, "queries")
    require_finite(rows_MD, "embedded items")
    k = min(k, len(rows_MD))
    unit = torch.nn.functional.normalize
    queries_QD = unit(queries_QD.float(), dim=1)
    if len(rows_MD) >= LARGE:
        found = _by_faiss(queries_QD, rows_MD, k)
        if found is not None:
            return found
    best = queries_QD.new_full((len(queries_QD), 0), 0.0)
    places = torch.zeros((len(queries_QD), 0), dtype=torch.int64)
    for start in range(0, len(rows_MD), BLOCK):
        block = torch.from_numpy(np.array(rows_MD[start : start + BLOCK]))
        cosine = queries_QD @ unit(block, dim=1).T
        number = torch.arange(start, start + len(block)).expand_as(cosine)
        best, chosen = torch.cat([best, cosine], dim=1).topk(min(k, best.shape[1] + len(block)), dim=1)
        places = torch.cat([places, number], dim=1).gather(1, chosen)
    return best, places


def _by_faiss(queries_QD: Tensor, rows_MD: np.ndarray, k: int) -> tuple[Tensor, Tensor] | None:
    try:
        import faiss
    except ImportError:
        return None
    index = faiss.IndexFlatIP(rows_MD.shape[1])
    for start in range(0, len(rows_MD), BLOCK):
        block = np.array(rows_MD[start : start + BLOCK])
        faiss.normalize_L2(block)
        index.add(block)
    cosine, places = index.search(queries_QD.numpy(), k)
    return torch.from_numpy(cosine), torch.from_numpy(places)
