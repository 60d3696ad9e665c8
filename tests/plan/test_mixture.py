"""Mixture: exact weights, every data set in its own exact epochs, still a pure function of the slot."""

import numpy as np
import pytest
from photographs import Words, write_shards

from mmvicreg.plan.mixture import PERIOD, Mixture, Part, join, quotas
from mmvicreg.shards.index import open_index
from mmvicreg.stream.sample_counts import coverage
from mmvicreg.stream.stream import Stream


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return [
        Part(open_index(write_shards(folder, [30, 10], prefix="large")), 3.0),
        Part(open_index(write_shards(folder, [7, 5], prefix="small")), 1.0),
    ]


def rows(mixture, first, last):
    found: list[tuple[int, int, int]] = []
    for step in range(first, last):
        places = mixture.locate(step, range(mixture.global_batch))
        found += zip(places.epoch.tolist(), places.shard.tolist(), places.place.tolist(), strict=True)
    return found


def test_weights_are_exact_in_every_block_and_each_part_keeps_its_epochs(parts):
    mixture = Mixture(parts, seed=2, global_batch=100, lanes=4)
    found = rows(mixture, 0, 2 * PERIOD // 100)
    for block in range(2):
        assert sum(shard < 2 for _, shard, _ in found[block * PERIOD : (block + 1) * PERIOD]) == 0.75 * PERIOD
    for first, last, count in ((0, 2, 40), (2, 4, 12)):
        own = [row for row in found if first <= row[1] < last]
        for epoch in range(len(own) // count):
            assert len(set(own[epoch * count : (epoch + 1) * count])) == count
            assert {e for e, _, _ in own[epoch * count : (epoch + 1) * count]} == {epoch}


def test_pieces_and_other_batches_give_the_same_sequence(parts):
    whole = rows(Mixture(parts, seed=2, global_batch=60, lanes=4), 0, 400)
    mixture = Mixture(parts, seed=2, global_batch=60, lanes=4)
    places = mixture.locate(399, range(20, 40))
    assert (
        list(zip(places.epoch, places.shard, places.place, strict=True))
        == whole[399 * 60 + 20 : 399 * 60 + 40]
    )
    later = Mixture(parts, seed=2, global_batch=120, lanes=4, start=mixture.cursor(4))
    assert sorted(rows(later, 4, 5)) == sorted(whole[240:360])


def test_a_mixture_streams_like_a_data_set(parts):
    index = join(parts)
    mixture = Mixture(parts, seed=2, global_batch=16)
    batches = list(Stream(index, mixture, readers={"text": Words()}, start=3, stop=6))
    again = list(Stream(index, mixture, readers={"text": Words()}, start=5, stop=6, rank=1, world=2))
    assert batches[2].keys[8:] == again[0].keys
    assert all(batch.present["text"].all() for batch in batches)


def test_wrong_weights_are_named(parts):
    with pytest.raises(ValueError, match="positive weights"):
        Mixture([Part(parts[0].index, 0.0)], seed=0, global_batch=1)
    with pytest.raises(ValueError, match="below 1 in 10,000"):
        Mixture([parts[0], Part(parts[1].index, 1e-9)], seed=0, global_batch=1)
    assert quotas(np.array([1.0, 1.0, 1.0])).sum() == PERIOD


def test_coverage_is_what_was_streamed(parts):
    from mmvicreg.plan.plan import Plan

    index = parts[0].index
    plan = Plan(index.counts, seed=1, global_batch=16)
    for steps in (1, 2, 3, 7):
        seen = [
            n for b in Stream(index, plan, readers={"text": Words()}, stop=steps) for n in b.numbers.tolist()
        ]
        found = coverage(plan, steps)
        assert (found.seen, found.unique) == (len(seen), len(set(seen)))
        assert found.never_seen == 40 - len(set(seen))


def test_coverage_of_a_mixture_counts_each_data_set_by_its_own_epochs(parts):
    index = join(parts)
    even = [
        Part(part.index, 1.0) for part in parts
    ]  # the small one begins again long before the large one ends
    for start in (0, 7):
        mixture = Mixture(even, seed=2, global_batch=50, lanes=4)
        mixture = Mixture(even, seed=2, global_batch=50, lanes=4, start=mixture.cursor(start))
        whole = rows(Mixture(even, seed=2, global_batch=50, lanes=4), 0, 450)
        for steps in (start, start + 1, start + 3, 420):
            found = coverage(mixture, steps)
            different = len({(shard, row) for _, shard, row in whole[: steps * 50]})
            assert (found.seen, found.unique) == (steps * 50, different)
            assert (found.duplicate, found.never_seen) == (steps * 50 - different, len(index) - different)
