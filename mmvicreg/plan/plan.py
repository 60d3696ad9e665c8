"""The plan: which sample is in which slot of which global batch, a pure function of (counts, seed, step, slot).

The order is one infinite sequence of passes over the data set (epochs); every pass holds every sample
exactly once, and global batch ``step`` is the next ``global_batch`` places of the sequence. So the sequence
does not depend on the global batch, the processes or the workers; nothing is left over at the end of an epoch
(a batch may hold the end of one and the beginning of the next); and the whole state of a run is one number,
the samples consumed. N = samples, C = lanes, S = window.

Order of one epoch, ``order="lanes"``: shards are permuted and concatenated, the concatenation is rotated by
a random amount and cut into C lanes; each lane is read in windows of S consecutive samples, each window
permuted. Place p of the epoch is place p // C of lane p % C. Inside a batch, slots are sorted by lane, so
consecutive slots (those of one of R processes) touch few lanes: a process reads about 1/R of the bytes, nearly in
order.
``order="global"``: one permutation of all samples; best mixing, needs fast random access to all shards.

Memory: O(shards) for two epochs, and four windows of every lane (8 MB by default); nothing grows with N.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.randomness import generator

Order = Literal["lanes", "global"]
VERSION = 1


@dataclass(frozen=True)
class Cursor:
    """How far a run is: steps done and samples consumed by them. All that a checkpoint needs to keep."""

    step: int = 0
    consumed: int = 0

    def state(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Locations:
    """Where the samples of some slots lie: int64 arrays of one length."""

    epoch: np.ndarray
    shard: np.ndarray
    place: np.ndarray
    """place of the sample in its shard"""


class _Epoch:
    """The permuted, concatenated shards of one epoch."""

    def __init__(self, counts: np.ndarray, seed: int, epoch: int) -> None:
        random = generator(seed, "shards", epoch)
        self.shards = random.permutation(len(counts))
        self.ends = np.cumsum(counts[self.shards])
        self.rotation = int(random.integers(self.ends[-1]))

    def locate(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = self.ends[-1]
        places = (places + self.rotation) % total
        k = np.searchsorted(self.ends, places, side="right")
        starts = np.where(k > 0, self.ends[k - 1], 0)
        return self.shards[k], places - starts


class Plan:
    """The order of a run over shards of ``counts`` samples.

    ``start`` continues a run whose global batch changed: pass the cursor of its checkpoint. Raises
    ValueError for empty data, a global batch below 1, or an unknown order.
    """

    def __init__(
        self,
        counts: Sequence[int] | np.ndarray,
        *,
        seed: int,
        global_batch: int,
        lanes: int = 64,
        window: int = 8192,
        order: Order = "lanes",
        start: Cursor = Cursor(),
    ) -> None:
        self.counts = np.asarray(counts, np.int64)
        self.samples = int(self.counts.sum())
        if self.samples < 1 or self.counts.min() < 0:
            raise InvalidValueError(f"a plan needs at least one sample; the counts sum to {self.samples}")
        if min(global_batch, lanes, window) < 1:
            raise InvalidValueError(
                f"global_batch, lanes and window must be at least 1: {global_batch}, {lanes}, {window}"
            )
        if order not in ("lanes", "global"):
            raise InvalidValueError(f"order {order!r}; expected 'lanes' or 'global'")
        self.seed, self.global_batch, self.order, self.start = seed, global_batch, order, start
        self.lanes, self.window = min(lanes, self.samples), window
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()

    @property
    def steps(self) -> int:
        """Whole steps in an epoch: samples // global batch, at least 1."""
        return max(1, self.samples // self.global_batch)

    def cursor(self, step: int) -> Cursor:
        """Where a run that has done ``step`` steps stands."""
        if step < self.start.step:
            raise InvalidValueError(f"step {step} lies before this plan's start, step {self.start.step}")
        return Cursor(step, self.start.consumed + (step - self.start.step) * self.global_batch)

    def epoch(self, step: int) -> int:
        """Epoch of the first sample of a step."""
        return self.cursor(step).consumed // self.samples

    def unique(self, consumed: int) -> int:
        """How many different samples the first ``consumed`` places of the sequence hold."""
        return min(consumed, self.samples)

    def fingerprint(self) -> str:
        """Hash of everything the sequence depends on; the global batch is not part of it."""
        own = repr((VERSION, self.seed, self.order, self.lanes, self.window, len(self.counts))).encode()
        return hashlib.sha256(own + self.counts.astype("<i8").tobytes()).hexdigest()[:16]

    def locate(self, step: int, slots: Sequence[int] | np.ndarray) -> Locations:
        """Locations of the samples in ``slots`` (0 to global_batch - 1) of the global batch of ``step``."""
        slots = np.asarray(slots, np.int64)
        if len(slots) and not 0 <= slots.min() <= slots.max() < self.global_batch:
            raise InvalidValueError(
                f"slots {slots.min()}..{slots.max()}; a global batch has 0..{self.global_batch - 1}"
            )
        return self.locate_range(self.cursor(step).consumed, self.global_batch, slots)

    def locate_range(self, first: int, length: int, slots: np.ndarray) -> Locations:
        """Locations of ``slots`` of the ``length`` samples of the sequence that begin at ``first``."""
        epoch, shard, place = (np.empty(len(slots), np.int64) for _ in range(3))
        begin = 0
        while begin < length:
            e, p = divmod(first + begin, self.samples)
            here = min(self.samples - p, length - begin)
            mine = (slots >= begin) & (slots < begin + here)
            if mine.any():
                epoch[mine] = e
                shard[mine], place[mine] = self._in_epoch(e, self._sorted(p, here, slots[mine] - begin))
            begin += here
        return Locations(epoch, shard, place)

    def _sorted(self, p: int, length: int, slots: np.ndarray) -> np.ndarray:
        """Place in the epoch of each slot, when the places p to p + length are sorted by (lane, place)."""
        if self.order == "global":
            return p + slots
        c = self.lanes
        lane_order = np.arange(c)
        sizes = (p + length - lane_order + c - 1) // c - (p - lane_order + c - 1) // c
        ends = np.cumsum(sizes)
        lane = np.searchsorted(ends, slots, side="right")
        within = slots - (ends[lane] - sizes[lane])
        return ((p - lane + c - 1) // c + within) * c + lane

    def _in_epoch(self, epoch: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        held = self._epochs.get(epoch)
        if held is None:
            held = self._epochs[epoch] = _Epoch(self.counts, self.seed, epoch)
            while len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        if self.order == "global":
            return held.locate(permute(places, self.samples, generator(self.seed, "global", epoch)))
        c, s = self.lanes, self.window
        lane, q = places % c, places // c
        base, extra = divmod(self.samples, c)  # the first `extra` lanes hold one sample more
        begin = lane * base + np.minimum(lane, extra)
        window = q // s
        result = begin + window * s
        for w in np.unique(window).tolist():  # lanes advance together, so there are one or two
            rows = window == w
            result[rows] += self._window(epoch, w, lane[rows])[lane[rows], q[rows] - w * s]
        return held.locate(result)

    def _window(self, epoch: int, window: int, lanes: np.ndarray) -> np.ndarray:
        """Permutations of one window of every lane, int32 (C, S); those of ``lanes`` are filled in."""
        base, extra = divmod(self.samples, self.lanes)
        held = self._windows.get((epoch, window))
        if held is None:
            size = min(self.window, base + (extra > 0) - window * self.window)
            held = np.empty((self.lanes, size), np.int32), np.zeros(self.lanes, bool)
            self._windows[epoch, window] = held
            while len(self._windows) > 4:
                self._windows.popitem(last=False)
        table, filled = held
        for lane in np.unique(lanes[~filled[lanes]]).tolist():
            size = min(self.window, base + (lane < extra) - window * self.window)
            table[lane, :size] = generator(self.seed, "window", epoch, lane, window).permutation(size)
            filled[lane] = True
        return table


def permute(places: np.ndarray, total: int, random: np.random.Generator) -> np.ndarray:
    """Images of ``places`` (in 0 .. total - 1) under a random permutation of that range, in O(1) memory.

    A Feistel network over the next even number of bits, walked until it is back inside the range (Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains", cycle walking); six rounds of a multiply-shift mix.
    """
    half = max(1, ((total - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = random.integers(0, 1 << 63, size=6, dtype=np.uint64)

    def once(x: np.ndarray) -> np.ndarray:
        left, right = x >> np.uint64(half), x & mask
        for key in keys:
            mixed = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(32))) & mask)
        return (left << np.uint64(half)) | right

    result = once(places.astype(np.uint64))
    outside = result >= np.uint64(total)
    while outside.any():
        result[outside] = once(result[outside])
        outside = result >= np.uint64(total)
    return result.astype(np.int64)
