"""Duplicates of images and captions, exact and near, from one number an item.

Two images are near duplicates if their perceptual hashes differ in at most ``DISTANCE`` of 64 bits and their mean
colours by at most ``TINT``. The hash is pHash (Zauner, "Implementation and benchmarking of perceptual image hash
functions", 2010): signs, about their median, of the lowest 64 frequencies of the cosine transform of the image in 32
by 32 grey values. Two captions are near duplicates if they have the same words in the same order, whatever the case,
punctuation and width of letters.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

import numpy as np
from PIL import Image

DISTANCE = 4
"""Bits. Measured on 400 photographs of 224 pixels: re-encoding at quality 75 changes at most 2, halving the size at
quality 40 at most 4 of 93% of them; different photographs differ in 10 or more."""
TINT = 20
"""Largest difference of the mean red, green or blue, of 255 (chosen: the hash sees no colours, and icons of one shape
in several colours are different images)."""
SIDE, LOWEST = 32, 8
BANDS, BITS = 5, 13
"""Bands of a hash; of two hashes at most 4 bits apart, one of the five is equal."""
LARGEST_BUCKET = 2000
"""Hashes with one equal band that are compared each with each; of more, each with its successors only."""
FLAT = 2.0
"""An image whose grey values have a smaller standard deviation shows nothing and has no hash."""


@dataclass(frozen=True)
class Duplicates:
    """Items that repeat others, and the largest groups."""

    exact: int
    """items that equal an earlier one"""
    near: int
    """further items that nearly equal an earlier one"""
    groups: tuple[tuple[int, ...], ...]
    """places of the items of the largest groups of either kind, largest first"""


def item_digest(data: bytes) -> int:
    """64 bits of BLAKE2b, as an integer: equal for equal bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def caption_digest(text: str) -> int:
    """The digest of the words of a caption; of the text itself where it has none."""
    words = " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
    return item_digest((words or text).encode("utf-8", "surrogatepass"))


def perceptual_hash(image: np.ndarray) -> int | None:
    """64-bit pHash of uint8 (H, W, 3); None for a flat image."""
    grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    values = np.asarray(grey, dtype=np.float64)
    if values.std() < FLAT:
        return None
    transform = _cosines()
    lowest = (transform @ values @ transform.T)[:LOWEST, :LOWEST].flatten()
    bits = lowest > np.median(lowest[1:])  # the first is the mean grey value
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _cosines() -> np.ndarray:
    place, frequency = np.arange(SIDE), np.arange(SIDE)[:, None]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE))


def mean_colour(image: np.ndarray) -> tuple[int, int, int]:
    """Mean red, green and blue of uint8 (H, W, 3), rounded."""
    red, green, blue = image.reshape(-1, 3).mean(0).round().astype(int).tolist()
    return red, green, blue


def find_duplicates(
    exact_N: np.ndarray, near_N: np.ndarray, *, colour_N3: np.ndarray | None = None, groups: int = 6
) -> Duplicates:
    """Duplicates among N items by digest (uint64) and by hash (uint64; 0 for items without one).

    Hashes must be equal, or, where ``colour_N3`` has the mean colours, near in hash and in colour.
    """
    names, exact_of = np.unique(exact_N, return_inverse=True)
    joined = _Groups(len(exact_N))
    joined.join_equal(np.arange(len(exact_N)), exact_of)
    hashed = np.flatnonzero(near_N)
    colour_N3 = np.zeros((len(exact_N), 3), np.uint64) if colour_N3 is None else colour_N3.astype(np.uint64)
    key_M4, row_of = np.unique(np.column_stack([near_N, colour_N3])[hashed], axis=0, return_inverse=True)
    joined.join_equal(hashed, row_of)
    first = np.zeros(len(key_M4), dtype=np.int64)
    first[row_of[::-1]] = hashed[::-1]
    for a, b in _pairs(key_M4) if colour_N3.any() else []:
        joined.join(int(first[a]), int(first[b]))
    group_N = joined.numbers()
    members = np.bincount(group_N, minlength=1)
    largest = [int(group) for group in np.argsort(-members, kind="stable")[:groups] if members[group] > 1]
    exact = len(exact_N) - len(names)
    return Duplicates(
        exact=exact,
        near=len(exact_N) - len(np.unique(group_N)) - exact,
        groups=tuple(tuple(np.flatnonzero(group_N == group).tolist()) for group in largest),
    )


def _pairs(key_M4: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows (hash, red, green, blue) that are near, each found in a band of the hash that is equal in both."""
    hash_M, colour_M3 = key_M4[:, 0], key_M4[:, 1:].astype(np.int64)
    found: list[tuple[int, int]] = []
    for band in range(BANDS):
        band_M = (hash_M >> np.uint64(BITS * band)) & np.uint64(2**BITS - 1)
        order = np.argsort(band_M, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(band_M[order])) + 1):
            for offset in range(1, min(len(bucket), LARGEST_BUCKET)):
                a, b = bucket[offset:], bucket[:-offset]
                near = np.bitwise_count(hash_M[a] ^ hash_M[b]) <= DISTANCE
                near &= np.abs(colour_M3[a] - colour_M3[b]).max(1) <= TINT
                found += zip(a[near].tolist(), b[near].tolist(), strict=True)
    return found


class _Groups:
    """Disjoint groups of items (union-find)."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def join(self, a: int, b: int) -> None:
        a, b = self._top(a), self._top(b)
        self._above[max(a, b)] = min(a, b)

    def join_equal(self, item_K: np.ndarray, group_K: np.ndarray) -> None:
        first: dict[int, int] = {}
        for item, group in zip(item_K.tolist(), group_K.tolist(), strict=True):
            self.join(first.setdefault(group, item), item)

    def numbers(self) -> np.ndarray:
        return np.unique([self._top(item) for item in range(len(self._above))], return_inverse=True)[
            1
        ].astype(np.int64)

    def _top(self, item: int) -> int:
        while self._above[item] != item:
            self._above[item] = item = self._above[self._above[item]]
        return item
