"""Plan: a pure function; every sample exactly once an epoch, whatever the global batch, at any size."""

import time

import numpy as np
import pytest

from mmvicreg.plan.plan import Cursor, Plan, permute
from mmvicreg.randomness import generator as random

LAYOUTS = [{"lanes": 4, "window": 5}, {"lanes": 7, "window": 100}, {"lanes": 64}, {"order": "global"}]
COUNTS = [13, 0, 40, 7, 1, 29]


def numbers(plan, first, last):
    """(epoch, number) rows of steps first to last."""
    starts = np.concatenate([[0], np.cumsum(plan.counts)])
    places = [plan.locate(step, range(plan.global_batch)) for step in range(first, last)]
    return [
        (int(e), int(starts[s] + r))
        for p in places
        for e, s, r in zip(p.epoch, p.shard, p.place, strict=True)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 8, 33, 200])
def test_every_sample_exactly_once_in_every_epoch(layout, batch):
    plan = Plan(COUNTS, seed=5, global_batch=batch, **layout)
    rows = numbers(plan, 0, -(-4 * 90 // batch))
    for epoch in range(4):
        assert sorted(n for e, n in rows if e == epoch) == list(range(90))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_order_depends_on_seed_and_epoch(layout):
    plan = Plan(COUNTS, seed=5, global_batch=90, **layout)
    first, second = ([n for _, n in numbers(plan, e, e + 1)] for e in (0, 1))
    other = [n for _, n in numbers(Plan(COUNTS, seed=6, global_batch=90, **layout), 0, 1)]
    assert first != second and first != other and first != sorted(first)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slots_may_be_asked_in_any_pieces_by_any_plan(layout):
    whole = Plan(COUNTS, seed=5, global_batch=24, **layout)
    rows = numbers(whole, 0, 9)
    for step in (8, 3, 0, 5):
        pieces = []
        for rank in range(4):
            fresh = Plan(COUNTS, seed=5, global_batch=24, **layout)
            place = fresh.locate(step, range(rank * 6, rank * 6 + 6))
            pieces += [
                (int(e), int(s), int(r))
                for e, s, r in zip(place.epoch, place.shard, place.place, strict=True)
            ]
        starts = np.concatenate([[0], np.cumsum(COUNTS)])
        assert [(e, int(starts[s] + r)) for e, s, r in pieces] == rows[step * 24 : step * 24 + 24]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("then", [5, 16, 48])
def test_changed_global_batch_goes_on_with_the_same_sequence(layout, then):
    before = Plan(COUNTS, seed=5, global_batch=8, **layout)
    after = Plan(COUNTS, seed=5, global_batch=then, start=before.cursor(7), **layout)
    assert after.fingerprint() == before.fingerprint()
    rows = numbers(before, 0, 7) + numbers(after, 7, 7 + -(-(3 * 90 - 56) // then))
    for epoch in range(3):
        assert sorted(n for e, n in rows if e == epoch) == list(range(90))
    assert after.cursor(9) == Cursor(9, 56 + 2 * then)
    with pytest.raises(ValueError, match="before this plan's start"):
        after.locate(6, [0])


@pytest.mark.parametrize("layout", LAYOUTS[:3])
def test_content_of_a_batch_is_the_same_set_for_other_batch_sizes(layout):
    small, large = (Plan(COUNTS, seed=5, global_batch=b, **layout) for b in (8, 24))
    assert sorted(numbers(small, 3, 6)) == sorted(numbers(large, 1, 2))


def test_a_rank_reads_its_share_of_the_lanes():
    plan = Plan([1000] * 64, seed=0, global_batch=256, lanes=64, window=256)
    shards = set()
    for step in range(plan.steps // 4):
        shards |= set(plan.locate(step, range(64)).shard.tolist())
    assert len(shards) <= 16 + 17  # 16 of 64 lanes, each touching at most two shards


def test_neighbours_in_a_batch_come_from_many_shards():
    plan = Plan([1000] * 500, seed=0, global_batch=4096)
    assert len(np.unique(plan.locate(10, range(4096)).shard)) > 200


@pytest.mark.parametrize("total", [1, 2, 3, 90, 4096, 100_003])
def test_permute_is_a_permutation(total):
    image = permute(np.arange(total), total, random(1, "global", 0))
    assert sorted(image.tolist()) == list(range(total))
    if total > 1000:
        assert abs(np.corrcoef(np.arange(total), image)[0, 1]) < 0.1


def test_two_billion_samples_at_step_a_million_as_fast_as_at_step_zero():
    counts = np.full(200_000, 10_000)
    seconds = {}
    for step in (0, 1_000_000):
        plan = Plan(counts, seed=0, global_batch=4096)
        begun = time.perf_counter()
        plan.locate(step, range(512))
        seconds[step] = time.perf_counter() - begun
    assert max(seconds.values()) < 1.0, seconds


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="at least one sample"):
        Plan([], seed=0, global_batch=1)
    with pytest.raises(ValueError, match="global_batch"):
        Plan([3], seed=0, global_batch=0)
    with pytest.raises(ValueError, match="'shuffled'"):
        Plan([3], seed=0, global_batch=1, order="shuffled")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has 0\.\.3"):
        Plan([3], seed=0, global_batch=4).locate(0, [4])
