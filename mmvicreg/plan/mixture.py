"""A mixture: several data sets in one run, by weight, with the exactness of one; still a pure function of the slot.

The sequence of slots is divided into blocks of PERIOD slots. In every block, data set d gets exactly ``quotas[d]``
slots (its weight by largest remainder), at random places; the k-th slot that d gets in the whole run holds the k-th
sample of d's own sequence (see plan.py). So each data set goes through its own epochs, with each of its samples exactly
once in each, at the speed that its weight gives it; the state is still one number.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.plan.plan import Cursor, Locations, Order, Plan
from mmvicreg.randomness import generator
from mmvicreg.shards.index import ShardIndex
from mmvicreg.shards.subset import holds, keep

PERIOD = 10_000
"""slots in which every data set gets the fraction of its weight exactly"""


@dataclass(frozen=True)
class Part:
    """One data set of a mixture and its weight (weights need not sum to 1)."""

    index: ShardIndex
    weight: float


def join(parts: Sequence[Part]) -> ShardIndex:
    """One index over the shards of all parts, in order: the index that a stream of the mixture takes."""
    return ShardIndex(tuple(shard for part in parts for shard in part.index.shards))


class Mixture(Plan):
    """The order of a run over several data sets; use it like a Plan, with ``join(parts)`` as the index.

    ``steps`` is the number of steps in which as many samples are drawn as there are, and an epoch is that
    many steps. Raises ValueError for no parts or a weight that is not positive.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        seed: int,
        global_batch: int,
        lanes: int = 64,
        window: int = 8192,
        order: Order = "lanes",
        start: Cursor = Cursor(),  # noqa: B008  frozen
    ) -> None:
        weights = np.array([part.weight for part in parts], np.float64)
        if not len(parts) or not (weights > 0).all() or not np.isfinite(weights).all():
            raise InvalidValueError(f"a mixture needs parts with positive weights, found {weights.tolist()}")
        super().__init__(
            join(parts).counts,
            seed=seed,
            global_batch=global_batch,
            lanes=lanes,
            window=window,
            order=order,
            start=start,
        )
        self.quotas = quotas(weights)
        if not self.quotas.all():
            raise InvalidValueError(
                f"weights {weights.tolist()}: the smallest is below 1 in {PERIOD:,} of the sum"
            )
        self._plans = [
            Plan(part.index.counts, seed=seed + d, global_batch=1, lanes=lanes, window=window, order=order)
            for d, part in enumerate(parts)
        ]
        self._shards = np.cumsum([0, *(len(part.index.shards) for part in parts)])
        self._blocks: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def unique(self, consumed: int) -> int:
        """How many different samples the first ``consumed`` places hold: each data set has epochs of its own."""
        blocks, rest = divmod(consumed, PERIOD)
        drawn = blocks * self.quotas + np.bincount(self._block(blocks)[0][:rest], minlength=len(self.quotas))
        return sum(min(int(n), plan.samples) for n, plan in zip(drawn, self._plans, strict=True))

    def fingerprint(self) -> str:
        """Hash of everything the sequence depends on."""
        own = repr([self.quotas.tolist(), [plan.fingerprint() for plan in self._plans]]).encode()
        return hashlib.sha256(own).hexdigest()[:16]

    def locate_range(self, first: int, length: int, slots: np.ndarray) -> Locations:
        """Locations of ``slots`` of the ``length`` samples of the sequence that begin at ``first``."""
        blocks = [self._block(b) for b in range(first // PERIOD, (first + length - 1) // PERIOD + 1)]
        inside = slice(first % PERIOD, first % PERIOD + length)
        part = np.concatenate([p for p, _ in blocks])[inside]
        ordinal = np.concatenate([o for _, o in blocks])[inside]
        epoch, shard, place = (np.empty(len(slots), np.int64) for _ in range(3))
        for d, plan in enumerate(self._plans):
            mine = part[slots] == d
            if mine.any():
                members = np.flatnonzero(part == d)
                within = np.searchsorted(members, slots[mine])
                located = plan.locate_range(int(ordinal[members[0]]), len(members), within)
                epoch[mine], shard[mine], place[mine] = (
                    located.epoch,
                    located.shard + self._shards[d],
                    located.place,
                )
        return Locations(epoch, shard, place)

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """(part of each slot, how many slots of that part come before it in the whole run)."""
        held = self._blocks.get(block)
        if held is None:
            part = np.repeat(np.arange(len(self.quotas)), self.quotas)
            part = part[generator(self.seed, "mixture", block).permutation(PERIOD)]
            ordinal = np.empty(PERIOD, np.int64)
            for d, quota in enumerate(self.quotas.tolist()):
                ordinal[part == d] = block * quota + np.arange(quota)
            held = self._blocks[block] = part, ordinal
            while len(self._blocks) > 8:
                self._blocks.popitem(last=False)
        return held


def quotas(weights: np.ndarray) -> np.ndarray:
    """Slots of each part in a block, int64, summing to PERIOD: largest remainder."""
    exact = weights / weights.sum() * PERIOD
    whole = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: PERIOD - int(whole.sum())]] += 1
    return whole


def raise_fractions(
    parts: Sequence[Part], fractions: Mapping[str, float], members: Mapping[str, Collection[str]]
) -> tuple[Part, ...]:
    """``parts``, and one more part for each view that too few of their samples have: the samples that have it.

    ``fractions``: by view, the least fraction of all slots whose samples have any of the view's ``members``. The
    weights of ``parts`` keep their proportions. Raises ValueError for a fraction outside 0 to 1, for a view that no
    sample has, and for fractions that no weights give together.
    """
    wrong = {view: fraction for view, fraction in fractions.items() if not 0 < fraction < 1}
    if wrong:
        raise InvalidValueError(f"minimum_fraction {wrong}: the fraction of a view lies between 0 and 1")
    weights = np.array([part.weight for part in parts], np.float64)
    weights /= weights.sum()
    index = join(parts)
    has = {view: holds(index, members[view]) for view in fractions}
    rare = {view: keep(index, has[view], wanted=f"any of {', '.join(members[view])}") for view in fractions}
    ends = np.cumsum([len(part.index) for part in parts])[:-1]
    base = np.array([[rows.mean() for rows in np.split(has[view], ends)] for view in fractions]) @ weights
    among = np.array([[has[u][has[v]].mean() for v in fractions] for u in fractions])
    extra = _extra_weights(np.array(list(fractions.values())), base, among)
    if extra.sum() >= 1 - 1 / PERIOD:
        found = ", ".join(f"{view} {fraction:.1%}" for view, fraction in zip(fractions, base, strict=True))
        raise InvalidValueError(
            f"minimum_fraction {dict(fractions)}: no weights give these fractions together: their samples have little "
            f"in common (the data have {found}); ask for less"
        )
    whole = [Part(part.index, w * (1 - extra.sum())) for part, w in zip(parts, weights.tolist(), strict=True)]
    added = [
        Part(rare[view], w) for view, w in zip(fractions, extra.tolist(), strict=True) if w * PERIOD >= 1
    ]
    return (*whole, *added)


def _extra_weights(fractions_V: np.ndarray, base_V: np.ndarray, among_VV: np.ndarray) -> np.ndarray:
    """Least weights w >= 0 with (1 - sum w) base + among w >= fractions; their sum reaches 1 where there are none.

    ``base_V``: fraction of samples that have each view, without the extra weights; ``among_VV[u, v]``: fraction that
    have u of those that have v. Each weight in turn is raised until its own fraction is reached; none ever falls.
    """
    extra_V = np.zeros(len(fractions_V))
    for _ in range(1000):
        before = extra_V.copy()
        for u in range(len(extra_V)):
            others = np.delete(np.arange(len(extra_V)), u)
            reached = (1 - extra_V[others].sum()) * base_V[u] + among_VV[u, others] @ extra_V[others]
            if reached < fractions_V[u]:
                extra_V[u] = (fractions_V[u] - reached) / (1 - base_V[u])
        if extra_V.sum() >= 1 or np.abs(extra_V - before).max(initial=0) < 1e-6:
            break
    return extra_V
