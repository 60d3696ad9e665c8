"""Feature maps of pictures with masks, computed once and kept in half precision.

N pictures, E channels, S side of a picture and its mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.embed import store_name
from mmvicreg.evaluation.transfer.dense.feature_map import feature_map
from mmvicreg.evaluation.transfer.dense.masks import MaskedReader
from mmvicreg.evaluation.unit_rows import require_finite
from mmvicreg.evaluation.work_folder import move_folder, work_folder
from mmvicreg.files import write_json
from mmvicreg.progress import bar
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.evaluation_items import EvaluationItem, evaluation_items


@dataclass(frozen=True)
class Maps:
    """Kept features, float16 (N, E, rows, columns), masks uint8 (N, S, S), keys; the first two memory-mapped."""

    features: np.ndarray
    masks: np.ndarray
    keys: list[str]
    skipped: int
    """samples without a picture or a mask, or with damaged ones"""


def feature_maps(
    branch: Branch,
    index: ShardIndex,
    reader: MaskedReader,
    *,
    folder: Path,
    device: str,
    batch_size: int = 16,
) -> Maps:
    """Features and masks of every sample, under ``folder``: opened if they are there, made if not.

    Raises ValueError where no sample has both a picture and a mask.
    """
    name = store_name(Model({"image": branch}, {"image": "image"}), index, {"image": reader}, settings="maps")
    target = folder / f"{name}.maps"
    if not (target / "maps.json").is_file():
        work = work_folder(target)
        _write_maps(branch, index, reader, work, device=device, batch_size=batch_size)
        move_folder(work, target)
    found = json.loads((target / "maps.json").read_text(encoding="utf-8"))
    shapes = {"features": (np.float16, found["features"]), "masks": (np.uint8, found["masks"])}
    arrays = {
        name: np.memmap(target / name, dtype=kind, mode="r", shape=tuple(shape))
        for name, (kind, shape) in shapes.items()
    }
    return Maps(arrays["features"], arrays["masks"], found["keys"], found["skipped"])


def _write_maps(
    branch: Branch, index: ShardIndex, reader: MaskedReader, folder: Path, *, device: str, batch_size: int
) -> None:
    encoder = branch.encoder.eval().to(device)
    keys: list[str] = []
    shape: tuple[int, ...] = ()
    with (
        open(folder / "features", "wb") as features,
        open(folder / "masks", "wb") as masks,
        bar("encode", len(index)) as advance,
    ):
        for found in _batches(index, reader, batch_size):
            both = torch.stack([item.value for item in found])
            half = feature_map(encoder, both[:, :3].to(device)).half().cpu().contiguous()
            require_finite(half, "features in half precision")
            shape = tuple(half.shape[1:])
            features.write(half.numpy().tobytes())
            masks.write(both[:, 3].contiguous().numpy().tobytes())
            keys += [item.key for item in found]
            advance(len(found), "")
    if not keys:
        raise InvalidValueError(
            f"none of the {len(index)} samples has a picture and a mask {reader.mask!r} of its size"
        )
    content = {"features": [len(keys), *shape], "masks": [len(keys), *reader.shape[1:]], "keys": keys}
    write_json(folder / "maps.json", content | {"skipped": len(index) - len(keys)})


def _batches(index: ShardIndex, reader: MaskedReader, size: int) -> Iterator[list[EvaluationItem]]:
    held: list[EvaluationItem] = []
    for item in evaluation_items(index, {"image": reader}):
        if isinstance(item, EvaluationItem):
            held.append(item)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
