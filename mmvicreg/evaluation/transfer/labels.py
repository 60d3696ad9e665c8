"""Labelled shards and image folders: labels by sample, features beside them, class prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmvicreg.branches.model import Branch
from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.evaluation.store import EmbeddedItems
from mmvicreg.evaluation.transfer.classification import class_weights
from mmvicreg.modalities.decoding.formats import PICTURES, is_picture
from mmvicreg.shards.index import ShardIndex, open_index
from mmvicreg.stream.evaluation_items import RejectedItem, evaluation_items
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True)
class LabelReader(Reader):
    """A class number, from a member that holds it as text (webdataset's ``cls``) or ``json:FIELD``.

    Several labels (a JSON list) are items of their own. A string is the class of that name among ``names``.
    """

    label: str = "cls"
    names: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        return (self.label.partition(":")[0],)

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    @property
    def dtype(self) -> torch.dtype:
        return torch.int64

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        found = self.items(sample)
        return found[0] if found else None

    def items(self, sample: Sample) -> list[Item]:
        suffix, _, field = self.label.partition(":")
        if suffix not in sample.members:
            return []
        try:
            value = json.loads(sample.members[suffix])
            value = value[field] if field else value
            values = value if isinstance(value, list) else [value]
            return [Item(torch.tensor(self._number(v), dtype=torch.int64)) for v in values]
        except (ValueError, KeyError, TypeError) as error:
            raise BadSampleError(f"label: {suffix!r} holds no class number ({error})") from None

    def _number(self, value: int | str) -> int:
        if not isinstance(value, str):
            return int(value)
        if value not in self.names:
            known = (
                f"the {len(self.names)} class names"
                if self.names
                else "class names: none were given (--names FILE)"
            )
            raise InvalidValueError(f"{value!r} is not among {known}")
        return self.names.index(value)


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


def open_labelled(data: str, label: str = "cls", *, cache: str | Path, names: Sequence[str] = ()) -> Labelled:
    """Shards with labels in ``label``, or an image folder CLASS/PICTURE, packed as a shard under ``cache``.

    ``names``: of the classes, for shards, in the order of their numbers. Raises FileNotFoundError or ValueError where
    there is no data or no label.
    """
    named = list(names)
    if Path(data).is_dir():
        source = Path(data).resolve()
        own = hashlib.sha256(str(source).encode()).hexdigest()[:8]  # two folders may both be called "train"
        packed = Path(cache) / f"{source.name}-{own}-000000.tar"
        packed.parent.mkdir(parents=True, exist_ok=True)
        named = pack_folder(data, packed)
        data, label = str(packed), "cls"
    index = open_index(data)
    return Labelled(index, labels_of(index, label, named), named, LabelReader(label, tuple(named)))


def check_same_classes(train: Labelled, test: Labelled) -> None:
    """Raises ValueError where two image folders hold different classes: their numbers would not mean the same."""
    if train.names and test.names and train.names != test.names:
        odd = sorted(set(train.names) ^ set(test.names))
        listed = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
        raise InvalidValueError(
            f"--train and --test hold different classes ({listed}); give both the same class folders"
        )


def labels_of(index: ShardIndex, label: str = "cls", names: Sequence[str] = ()) -> list[list[int]]:
    """Class numbers of every sample, by sample number; an empty list where it has none.

    Raises ValueError where no sample has one.
    """
    reason = ""
    labels: list[list[int]] = [[] for _ in range(len(index))]
    for item in evaluation_items(index, {"label": LabelReader(label, tuple(names))}):
        if isinstance(item, RejectedItem):
            reason = reason or f" (sample {item.key}: {item.reason})"
        else:
            labels[item.number].append(int(item.value))
    if not any(labels):
        raise InvalidValueError(
            f"no sample has a class number in {label!r}{reason}; name the member, or json:FIELD"
        )
    return labels


def features_with_labels(
    rows: EmbeddedItems, labels: Sequence[Sequence[int]], *, output: str = "h"
) -> tuple[np.ndarray, list[list[int]]]:
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


@torch.inference_mode()
def zero_shot_weights(
    branch: Branch,
    reader: Reader,
    names: Sequence[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Unit rows (C, D) of the text branch, one per class name: the ensemble of its prompts (``{}`` takes the name).

    Raises ValueError for a template without ``{}`` or a text the reader cannot read.
    """
    if not names or not templates:
        raise InvalidValueError(f"{len(names)} class names and {len(templates)} templates; both are needed")
    for template in templates:
        if "{}" not in template:
            raise InvalidValueError(f"template {template!r} has no {{}} for the class name")
    prompts = []
    for name in names:
        texts = [template.replace("{}", name) for template in templates]
        values = torch.stack([text_item(reader, text) for text in texts])
        prompts.append(branch(values.to(device)).z.float().cpu())
    return class_weights(prompts)


def text_item(reader: Reader, text: str) -> Tensor:
    """What the reader makes of a text, whatever member it takes captions from."""
    from mmvicreg.modalities.text import TextReader

    if isinstance(reader, TextReader):
        return reader.encode(text)
    items = reader.items(Sample("", 0, {member: text.encode() for member in reader.members}))
    if not items:
        raise InvalidValueError(f"{type(reader).__name__} reads no item from the text {text!r}")
    return items[0].value


def pack_folder(folder: str | Path, shard: str | Path) -> list[str]:
    """Write an image folder (CLASS/PICTURE) as one shard with ``cls`` members; class names, sorted.

    Raises FileNotFoundError or ValueError where there are no classes or no pictures.
    """
    from webdataset import TarWriter

    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    files = [
        (c, f) for c, n in enumerate(names) for f in sorted((folder / n).rglob("*")) if is_picture(f.suffix)
    ]
    if not files:
        raise InvalidValueError(
            f"{folder} has {len(names)} class folders and no {', '.join(PICTURES)} in them"
        )
    with TarWriter(str(shard)) as writer:
        for number, (label, file) in enumerate(files):
            key = f"{number:08d}"
            writer.write(
                {"__key__": key, file.suffix.lower()[1:]: file.read_bytes(), "cls": str(label).encode()}
            )
    return names


def read_lines(path: str | Path) -> list[str]:
    """Class names or templates, one a line, blank lines left out; a JSON list or {name: number} too."""
    if not Path(path).is_file():
        raise MissingFileError(
            f"{path}: no such file; expected class names or templates, one a line, or JSON"
        )
    text = Path(path).read_text(encoding="utf-8")
    if Path(path).suffix == ".json":
        found = json.loads(text)
        if isinstance(found, Mapping):
            return sorted(found, key=lambda name: int(found[name]))
        return [str(name) for name in found]
    return [line.strip() for line in text.splitlines() if line.strip()]
