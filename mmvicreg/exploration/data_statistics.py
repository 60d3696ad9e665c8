"""Statistics of a data set from one pass over its shards: what there is, how long, how large, and what repeats.

Memory is bounded by the number of samples that are looked at (about 100 bytes each) and by ``WORDS`` words.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from mmvicreg.exploration.duplicates import (
    Duplicates,
    caption_digest,
    find_duplicates,
    item_digest,
)
from mmvicreg.exploration.sample_facts import SampleFacts, measure
from mmvicreg.exploration.scripts import writing_of
from mmvicreg.modalities.decoding.formats import IMAGES, RECORDINGS
from mmvicreg.modalities.text import TextReader
from mmvicreg.modalities.vocabulary import words_of
from mmvicreg.progress import bar
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.fetcher import Fetcher

WORDS = 500_000
"""Distinct words that are counted; beyond, words seen once are forgotten, and the vocabulary is a lower bound."""
LONGEST = 4
"""Captions are tokenized up to this many times the length of a branch; longer ones count as that long."""
AT_ONCE, AHEAD = 16, 32


@dataclass(frozen=True)
class Spread:
    """A distribution in six numbers, and the values themselves for a histogram."""

    count: int
    minimum: float
    median: float
    mean: float
    percentile_95: float
    maximum: float
    values: np.ndarray = field(repr=False, compare=False)

    def to_json(self) -> dict[str, float]:
        """The six numbers."""
        return {name: value for name, value in vars(self).items() if name != "values"}


@dataclass(frozen=True)
class Tokens:
    """Captions in tokens of one branch, before truncation."""

    length: int
    """tokens that the branch reads"""
    counts: Spread
    truncated: float
    """fraction of captions with more tokens than that"""


@dataclass(frozen=True)
class Repeats:
    """Duplicates with the numbers of the samples they are in."""

    items: int
    exact: int
    near: int
    groups: tuple[tuple[int, ...], ...]
    """sample numbers of the largest groups"""


@dataclass(frozen=True)
class DataStatistics:
    """What :func:`statistics_of` found; parts that the data has not are empty or None."""

    samples: int
    looked_at: int
    combinations: dict[str, int]
    """samples by what they hold, such as {"image + text": 300}"""
    suffixes: dict[str, int]
    faults: dict[str, int]
    """what could not be used, by modality and reason"""
    faulty: tuple[str, ...]
    """the first keys with the reason"""
    characters: Spread | None
    captions_per_sample: Spread | None
    tokens: dict[str, Tokens]
    words: int
    frequent_words: tuple[tuple[str, int], ...]
    writing: dict[str, int]
    languages: dict[str, int]
    width: Spread | None
    height: Spread | None
    aspect: Spread | None
    """width divided by height"""
    flat: int
    """images without any contrast"""
    seconds: Spread | None
    images: Repeats | None
    captions: Repeats | None


def statistics_of(
    index: ShardIndex,
    *,
    places: tuple[str, ...],
    readers: Mapping[str, TextReader],
    others: Mapping[str, tuple[str, ...]],
    samples: int,
    threads: int,
) -> DataStatistics:
    """Measure ``samples`` samples of ``index``, evenly spread.

    ``places``: where captions are; ``readers``: text readers whose tokens are counted; ``others``: members of further
    modalities by name.
    """
    numbers = np.unique(np.linspace(0, len(index) - 1, min(samples, len(index))).round().astype(int))
    held = _Counts(readers)
    with bar("look", len(numbers)) as advance:
        for found in _measured(index, numbers.tolist(), places, others, threads):
            held.add(found)
            advance(1, "")
    return held.conclude(index, len(numbers))


def _measured(
    index: ShardIndex,
    numbers: Sequence[int],
    places: tuple[str, ...],
    others: Mapping[str, tuple[str, ...]],
    threads: int,
) -> Iterator[SampleFacts]:
    fetch = Fetcher(index)
    wanted = {*IMAGES, *RECORDINGS, *(place.partition(":")[0] for place in places)}
    wanted |= {member for members in others.values() for member in members}

    def read(some: Sequence[int]) -> list[SampleFacts]:
        return [
            replace(measure(fetch(*index.place(number), wanted), places, others), number=number)
            for number in some
        ]

    ahead: deque[Future[list[SampleFacts]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(numbers), AT_ONCE):
            ahead.append(pool.submit(read, numbers[start : start + AT_ONCE]))
            if len(ahead) > AHEAD:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


class _Counts:
    """Counts as samples come."""

    def __init__(self, readers: Mapping[str, TextReader]) -> None:
        self.readers = {
            name: replace(each, length=max(512, LONGEST * each.length)) for name, each in readers.items()
        }
        self.length = {name: reader.length for name, reader in readers.items()}
        self.padding = {name: int(reader.encode("")[-1]) for name, reader in self.readers.items()}
        self.combinations: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.writing: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.numbers: dict[str, list[float]] = {
            name: [] for name in ("characters", "captions", "width", "height", "seconds")
        }
        self.tokens: dict[str, list[float]] = {name: [] for name in readers}
        self.images: list[tuple[int, ...]] = []
        self.texts: list[tuple[int, ...]] = []
        self.faulty: list[str] = []
        self.flat = 0

    def add(self, found: SampleFacts) -> None:
        self.combinations[" + ".join(sorted(found.present)) or "nothing"] += 1
        for modality, reason in found.faults.items():
            self.faults[f"{modality}: {reason.partition(':')[0]}"] += 1
            if len(self.faulty) < 20:
                self.faulty.append(f"sample {found.number}, {modality}: {reason}")
        self.languages.update(found.languages)
        if found.image is not None:
            self.numbers["width"].append(found.image.width)
            self.numbers["height"].append(found.image.height)
            self.flat += found.image.hash is None
            about = (found.image.digest, found.image.hash or 0, found.number)
            self.images.append((*about, *found.image.colour))
        if found.seconds is not None:
            self.numbers["seconds"].append(found.seconds)
        if found.captions:
            self.numbers["captions"].append(len(found.captions))
        for caption in found.captions:
            self._add_caption(caption, found.number)

    def _add_caption(self, caption: str, number: int) -> None:
        self.numbers["characters"].append(len(caption))
        self.writing[writing_of(caption)] += 1
        self.words.update(word for word in words_of(caption) if word[0].isalnum())
        if len(self.words) > WORDS:
            self.words = Counter({word: count for word, count in self.words.items() if count > 1})
        digest = item_digest(caption.encode("utf-8", "surrogatepass"))
        self.texts.append((digest, caption_digest(caption), number))
        for name, reader in self.readers.items():
            used = (reader.encode(caption) != self.padding[name]).nonzero()[:, 0]
            self.tokens[name].append(int(used[-1]) + 1 if len(used) else 0)

    def conclude(self, index: ShardIndex, looked_at: int) -> DataStatistics:
        spread = {name: _spread(values) for name, values in self.numbers.items()}
        width, height = (np.array(self.numbers[name]) for name in ("width", "height"))
        return DataStatistics(
            samples=len(index),
            looked_at=looked_at,
            combinations=dict(self.combinations.most_common()),
            suffixes=index.suffixes,
            faults=dict(self.faults.most_common()),
            faulty=tuple(self.faulty),
            characters=spread["characters"],
            captions_per_sample=spread["captions"],
            tokens={name: self._tokens_of(name) for name, counts in self.tokens.items() if counts},
            words=len(self.words),
            frequent_words=tuple(self.words.most_common(20)),
            writing=dict(self.writing.most_common()),
            languages=dict(self.languages.most_common()),
            width=spread["width"],
            height=spread["height"],
            aspect=_spread((width / height).tolist()) if len(width) else None,
            flat=self.flat,
            seconds=spread["seconds"],
            images=_repeats(self.images),
            captions=_repeats(self.texts),
        )

    def _tokens_of(self, name: str) -> Tokens:
        counts = np.array(self.tokens[name])
        spread = _spread(counts.tolist())
        assert spread is not None
        return Tokens(self.length[name], spread, float((counts > self.length[name]).mean()))


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    array = np.array(values, dtype=np.float64)
    low, middle, high95, high = np.percentile(array, [0, 50, 95, 100]).round(3).tolist()
    return Spread(len(array), low, middle, round(float(array.mean()), 3), high95, high, array)


def _repeats(items: Sequence[tuple[int, ...]]) -> Repeats | None:
    """Duplicates of items (digest, hash, sample number) with the mean colour after it for images."""
    if not items:
        return None
    exact_N, near_N, number_N, *colours = np.array(items, dtype=np.uint64).T
    found: Duplicates = find_duplicates(exact_N, near_N, colour_N3=np.stack(colours, 1) if colours else None)
    groups = tuple(tuple(number_N[list(group)].tolist()) for group in found.groups)
    return Repeats(len(items), found.exact, found.near, groups)
