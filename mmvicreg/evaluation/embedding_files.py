"""Embeddings as files for other tools."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.store import Store
from mmvicreg.files import write_text, write_with

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
