"""Embed images, arrays, files and texts with a run: what ``Run.encode`` and its relatives do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmvicreg.branches.model import Branch
from mmvicreg.branches.padding import batches_by_length, rows_at_once
from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.files import typed_text
from mmvicreg.modalities.decoding.pixels import from_pillow
from mmvicreg.modalities.image import ImageModality, ImageReader
from mmvicreg.modalities.text import TextModality, TextReader
from mmvicreg.runs.run import Run
from mmvicreg.stream.reader import BadSampleError, Reader, Sample

SORTED = 16
"""Batches of texts that are sorted by length together."""
SINGLE = (str, Path, bytes, Image.Image, np.ndarray, Tensor)
"""Types of one item; anything else is a sequence of items."""


@torch.inference_mode()
def encode(
    run: Run,
    view: str,
    items: object,
    *,
    normalize: bool = True,
    batch_size: int = 64,
    device: str = "",
) -> Tensor:
    """Embeddings float32 (n, D) on the CPU of ``items``, one or several; see :meth:`mmvicreg.Run.encode`."""
    if batch_size < 1:
        raise InvalidValueError(f"batch_size is {batch_size}; expected 1 or more")
    branch = run.model.branch(view).eval()
    reader = run.modalities[run.model.views[view]].reader()
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    branch.to(chosen)
    several: Any = [items] if isinstance(items, SINGLE) else items
    rows = (input_of(reader, item) for item in several)
    together = batch_size * (SORTED if branch.ignores_padding else 1)
    found = [_embedded(branch, batch, batch_size, chosen) for batch in _batches(rows, together)]
    if not found:
        raise InvalidValueError(f"view {view!r}: no items to encode")
    z_nD = torch.cat(found)
    return torch.nn.functional.normalize(z_nD, dim=-1) if normalize else z_nD


def _embedded(branch: Branch, inputs: Sequence[Tensor], batch_size: int, device: torch.device) -> Tensor:
    """z float32 (n, D) of the inputs, in their order."""
    parts: list[Tensor] = []
    order: list[int] = []
    for places, batch in batches_by_length(branch, inputs, rows_at_once(device, batch_size)):
        parts.append(branch(batch.to(device)).z.float().cpu())
        order += places
    return torch.cat(parts)[torch.argsort(torch.tensor(order))]


def only_view(run: Run, kind: type[ImageModality] | type[TextModality]) -> str:
    """The one view that a modality of this kind encodes. Raises ValueError where there is none, or several."""
    views = [view for view, name in run.model.views.items() if isinstance(run.modalities[name], kind)]
    if len(views) != 1:
        raise InvalidValueError(
            f"expected one view of {kind.__name__}, found {views or 'none'} among {list(run.model.views)}; "
            "name the view: run.encode(view, items)"
        )
    return views[0]


def input_of(reader: Reader, item: object) -> Tensor:
    """What a reader makes of one item for evaluation.

    Raises FileNotFoundError and ValueError for files that are not there and items of a type that it cannot take.
    """
    if isinstance(item, Tensor) and tuple(item.shape) == reader.shape and item.dtype == reader.dtype:
        return item
    if isinstance(reader, TextReader) and isinstance(item, str):
        return reader.encode(typed_text(item))
    if isinstance(reader, ImageReader) and isinstance(item, Image.Image | np.ndarray):
        return reader.prepare(_pixels(item))
    if isinstance(item, str | Path):
        return _from_file(reader, Path(item).expanduser())
    if isinstance(item, bytes):
        return _first(reader, reader.members[0], item, "these bytes")
    taken = "strings" if isinstance(reader, TextReader) else "paths, bytes"
    if isinstance(reader, ImageReader):
        taken = "PIL images, uint8 arrays (H, W, 3), paths, bytes"
    found = (
        f"{type(item).__name__} of shape {tuple(item.shape)}"
        if isinstance(item, Tensor)
        else type(item).__name__
    )
    raise InvalidValueError(
        f"{type(reader).__name__} takes {taken}, or its own input as a tensor {reader.shape} of {reader.dtype}; found "
        f"{found}"
    )


def _pixels(item: Image.Image | np.ndarray) -> np.ndarray:
    if isinstance(item, np.ndarray):
        if (
            item.dtype != np.uint8
            or item.ndim not in (2, 3)
            or (item.ndim == 3 and item.shape[2] not in (1, 3, 4))
        ):
            raise InvalidValueError(
                f"an image is an array uint8 (H, W), (H, W, 3) or (H, W, 4); found {item.dtype} {item.shape}"
            )
        item = Image.fromarray(item[:, :, 0] if item.ndim == 3 and item.shape[2] == 1 else item)
    return from_pillow(item)


def _from_file(reader: Reader, file: Path) -> Tensor:
    if not file.is_file():
        raise MissingFileError(f"{file}: no such file; {type(reader).__name__} takes strings as paths")
    suffix = file.suffix.lower().removeprefix(".")
    fitting = [name for name in reader.members if name == suffix or name.endswith(f".{suffix}")]
    if not fitting:
        raise InvalidValueError(f"{file}: {type(reader).__name__} reads {', '.join(reader.members)}")
    return _first(reader, fitting[0], file.read_bytes(), str(file))


def _first(reader: Reader, member: str, data: bytes, name: str) -> Tensor:
    try:
        found = reader.items(Sample(name, 0, {member: data}))
    except BadSampleError as error:
        raise InvalidValueError(f"{name}: {error}") from None
    if not found:
        raise InvalidValueError(f"{name}: {type(reader).__name__} finds nothing to embed in it")
    return found[0].value


def _batches(rows: Iterator[Tensor], size: int) -> Iterator[Sequence[Tensor]]:
    while batch := list(islice(rows, size)):
        yield batch
