"""Class labels of samples: how they are read, and the features beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.store import EmbeddedItems
from mmvicreg.modalities.decoding.records import read_record, read_text
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.evaluation_items import RejectedItem, evaluation_items
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

MAX_CLASSES = 1_000_000
"""A class number must be below this: scores have a column for each class."""
NUMBER = re.compile(r"[+-]?\d{1,12}")
Label = TypeVar("Label")


@dataclass(frozen=True)
class LabelReader(Reader):
    """The class of a sample: a member that holds it as text (webdataset's ``cls``), or ``json:FIELD``.

    A label is a class number (digits in text are one too, leading zeros or not) or one of ``names``, which stands for
    its place there. A JSON list is several labels, an item each; an empty list, null or a missing field is none. An
    item's value is the class number, int64 (); its identity is the label as text. With ``any_name``, any text is a
    label, and the value of one that is no number is -1.

    Raises BadSampleError for anything else: a negative number, a fraction, a name that is not among ``names``.
    """

    label: str = "cls"
    names: tuple[str, ...] = ()
    any_name: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        return (self.label.partition(":")[0],)

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> torch.dtype:
        return torch.int64

    def items(self, sample: Sample) -> list[Item]:
        suffix, _, field = self.label.partition(":")
        if suffix not in sample.members:
            return []
        data = sample.members[suffix]
        value = read_record(data, suffix).get(field) if field else _plain(read_text(data, suffix).strip())
        values = value if isinstance(value, list) else [value]
        return [
            Item(torch.tensor(self._number(label), dtype=torch.int64), identity=str(label))
            for label in values
            if label is not None and label != ""
        ]

    def _number(self, label: Any) -> int:
        if isinstance(label, str):
            if label in self.names:
                return self._place(label)
            if not NUMBER.fullmatch(label):
                return self._unnamed(label)
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, int | float) or label != label // 1:
            raise BadSampleError(
                f"label: {label!r} is no class number; expected 0, 1, 2, ... or a class name"
            )
        if not 0 <= label < MAX_CLASSES:
            raise BadSampleError(f"label: class number {label!r} is not between 0 and {MAX_CLASSES - 1:,}")
        return int(label)

    def _place(self, name: str) -> int:
        if self.names.count(name) > 1:
            raise BadSampleError(
                f"label: {name[:100]!r} is the name of several classes; expected a class number"
            )
        return self.names.index(name)

    def _unnamed(self, label: str) -> int:
        if self.any_name:
            return -1
        known = (
            f"the {len(self.names)} class names"
            if self.names
            else "class names: none were given (--names FILE)"
        )
        raise BadSampleError(f"label: {label[:100]!r} is not among {known}")


def _plain(text: str) -> Any:
    """A label member: a JSON list or string, else the text itself."""
    if text[:1] not in ("[", '"'):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@dataclass(frozen=True)
class Labelled:
    """Labelled data: its index, the class numbers of every sample, the classes' names where it has some, and what
    reads the labels."""

    index: ShardIndex
    labels: list[list[int]]
    names: list[str]
    reader: LabelReader

    def single(self) -> np.ndarray:
        """The one class number of every sample, int64 (N,), -1 where it has none.

        Raises ValueError where a sample has several.
        """
        several = [number for number, found in enumerate(self.labels) if len(found) > 1]
        if several:
            raise InvalidValueError(
                f"{len(several)} samples have several labels (the first is number {several[0]}); this needs one "
                "each: 'mmvicreg classify' takes several"
            )
        return np.array([found[0] if found else -1 for found in self.labels], dtype=np.int64)


def labels_of(index: ShardIndex, label: str = "cls", names: Sequence[str] = ()) -> list[list[int]]:
    """Class numbers of every sample, by sample number; an empty list where it has none.

    Samples whose label cannot be used are counted in a notice. Raises ValueError where no sample has a label.
    """
    rejected: list[RejectedItem] = []
    labels: list[list[int]] = [[] for _ in range(len(index))]
    for item in evaluation_items(index, {"label": LabelReader(label, tuple(names))}):
        if isinstance(item, RejectedItem):
            rejected.append(item)
        else:
            labels[item.number].append(int(item.value))
    reason = f" (sample {rejected[0].key}: {rejected[0].reason})" if rejected else ""
    if not any(labels):
        raise InvalidValueError(f"no sample has a class in {label!r}{reason}; name the member, or json:FIELD")
    if rejected:
        notice = f"notice: {len(rejected):,} of {len(index):,} samples are left out, for their label cannot be used"
        Console(stderr=True).print(f"{notice}{reason}", markup=False)
    return labels


def features_with_labels(
    rows: EmbeddedItems, labels: Sequence[Sequence[Label]], *, output: str = "h"
) -> tuple[np.ndarray, list[list[Label]]]:
    """Features (M, E or D) of the rows whose sample has a label, and the labels of each."""
    matrix = rows.h if output == "h" else rows.z
    kept = [m for m, samples in enumerate(rows.samples) if labels[samples[0]]]
    return np.asarray(matrix[kept]), [list(labels[rows.samples[m][0]]) for m in kept]


def label_matrix(labels: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """Bool (M, C): the targets of several labels."""
    targets = np.zeros((len(labels), classes), dtype=bool)
    for row, found in enumerate(labels):
        targets[row, list(found)] = True
    return targets
