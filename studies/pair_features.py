"""Frozen features of image-text pairs, divided by concept: what every method of the study is given.

N pairs, V augmented views or captions of each, E width of a representation, Q distinct captions.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.evaluation.positives import Positives
from mmvicreg.randomness import generator

TEST, VALIDATION = 0.1, 0.08
"""Fractions of the concepts; the rest trains."""
REGIME = re.compile(
    r"pairs-(?P<pairs>\d+|all)(-shuffled-(?P<shuffled>0\.\d+))?(-repeated-(?P<repeated>[1-9]\d*))?"
    r"(-batch-(?P<batch>[1-9]\d*))?-split-(?P<split>\d+)"
)


@dataclass(frozen=True)
class Regime:
    """Which pairs train, such as pairs-1000-split-0 or pairs-all-shuffled-0.4-split-2."""

    pairs: int | None
    """number of training pairs; None is all of the split"""
    shuffled: float
    """fraction of the training pairs whose captions are exchanged among themselves"""
    split: int
    """number of the division by concept"""
    repeated: int | None = None
    """training pairs that share each caption; None: as they come"""
    batch: int | None = None
    """of every trained method; None: it is searched"""


def parse_regime(text: str) -> Regime:
    """The regime of a name. Raises InvalidValueError with the form that is expected."""
    found = REGIME.fullmatch(text)
    if found is None:
        raise InvalidValueError(
            f"regime {text!r}; expected a name such as pairs-1000-split-0, pairs-all-shuffled-0.4-split-0, "
            "pairs-1000-repeated-4-split-0 or pairs-2000-batch-32-split-0"
        )
    pairs = None if found["pairs"] == "all" else int(found["pairs"])
    repeated, batch = (int(found[name]) if found[name] else None for name in ("repeated", "batch"))
    return Regime(pairs, float(found["shuffled"] or 0), int(found["split"]), repeated, batch)


@dataclass(frozen=True)
class Pairs:
    """Pairs of one part of a division.

    ``image`` float32 (N, V, E): the evaluation crop first; ``text`` float32 (N, V, E): the name first; for encoders
    that are trained, pictures (N, V, 3, S, S) of 0 to 255 and numbers of word pieces (N, V, L). ``captions`` int64
    (N,): how many of the V captions exist; ``identities`` int64 (N,): equal for pairs of the same name.
    """

    image: Tensor
    text: Tensor
    captions: Tensor
    identities: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def distinct_captions(self) -> tuple[Tensor, Positives]:
        """One name each (Q, E), and which of the names match each of the N images."""
        _, first, inverse = np.unique(self.identities.numpy(), return_index=True, return_inverse=True)
        matches = Positives.from_identities([[n] for n in inverse.tolist()], [[q] for q in range(len(first))])
        return self.text[torch.from_numpy(first), 0], matches


@dataclass(frozen=True)
class Division:
    """Training, validation and test pairs that share no concept."""

    train: Pairs
    validation: Pairs
    test: Pairs


@cache
def load_features(path: Path) -> dict[str, np.ndarray]:
    """All that ``studies/encode_pairs.py`` wrote. Raises MissingFileError without the file."""
    if not path.is_file():
        raise MissingFileError(
            f"{path} is missing; make it with: python studies/encode_pairs.py --out {path}"
        )
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def check_kind(path: Path, dimensions: int, made_by: str) -> None:
    """Raises MissingFileError where the pictures of ``path`` have other dimensions: features have 3, pixels 5.

    ``made_by``: options of the command that makes them.
    """
    shape = load_features(path)["image"].shape
    if len(shape) != dimensions:
        raise MissingFileError(
            f"{path} has pictures of shape {shape}, and {dimensions} dimensions are expected; make them with: "
            f"python studies/encode_pairs.py {made_by} --out FILE, and set MMVICREG_PAIRS=FILE"
        )


@lru_cache(maxsize=1)
def divide(path: Path, regime: Regime, *, seed: int) -> Division:
    """The division of a regime; ``seed`` draws the subset of the training pairs and which captions are shuffled.

    Raises MissingFileError without the features, InvalidValueError where the split has fewer pairs than asked for.
    """
    data = load_features(path)
    concepts, number = np.unique(data["concept"], return_inverse=True)
    order = generator("division", regime.split).permutation(len(concepts))
    test, validation = round(TEST * len(concepts)), round(VALIDATION * len(concepts))
    part = np.full(len(concepts), 2)
    part[order[:test]], part[order[test : test + validation]] = 0, 1
    rows = [np.flatnonzero(part[number] == which) for which in range(3)]
    train = _subset(rows[2], data["name"], regime, seed)
    shuffled = generator("shuffled", regime.split, seed).permutation(len(train))[
        : round(regime.shuffled * len(train))
    ]
    return Division(_pairs(data, train, shuffled), _pairs(data, rows[1]), _pairs(data, rows[0]))


def _subset(rows: np.ndarray, names: np.ndarray, regime: Regime, seed: int) -> np.ndarray:
    order = generator("subset", regime.split, seed).permutation(rows)
    if regime.repeated is not None:
        order = _repeated(order, names, regime.repeated)
    if regime.pairs is not None and regime.pairs > len(order):
        kind = "" if regime.repeated is None else f", {regime.repeated} of each name,"
        raise InvalidValueError(
            f"{regime.pairs} training pairs{kind} were asked for; split {regime.split} has {len(order)}"
        )
    return np.sort(order[: regime.pairs])


def _repeated(rows: np.ndarray, names: np.ndarray, repeated: int) -> np.ndarray:
    """``repeated`` rows of every name that has so many, one name after another."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        groups[names[row]].append(row)
    return np.array([row for group in groups.values() if len(group) >= repeated for row in group[:repeated]])


def _pairs(data: dict[str, np.ndarray], rows: np.ndarray, shuffled: np.ndarray | None = None) -> Pairs:
    captions_from = rows.copy()
    if shuffled is not None and len(shuffled) > 1:
        captions_from[shuffled] = np.roll(rows[shuffled], 1)
    _, identities = np.unique(data["name"][captions_from], return_inverse=True)
    return Pairs(
        torch.from_numpy(data["image"][rows].astype(np.float32)),
        torch.from_numpy(data["text"][captions_from].astype(np.float32)),
        torch.from_numpy(data["captions"][captions_from]),
        torch.from_numpy(identities),
    )


def map_image(x: Tensor, image_map: str) -> Tensor:
    """Image features (..., E): root is the signed square root, then unit length, for pooled ReLU features; unit is
    unit length alone."""
    return normalize(x.sign() * x.abs().sqrt() if image_map == "root" else x, dim=-1)


def mapped(pairs: Pairs, image_map: str) -> Pairs:
    """Features as heads read them: images by ``image_map``, text of unit length."""
    return Pairs(
        map_image(pairs.image, image_map), normalize(pairs.text, dim=-1), pairs.captions, pairs.identities
    )
