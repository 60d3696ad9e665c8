"""Samples with a rare member are found by the index file alone, and a mixture shows them more often."""

from pathlib import Path

import numpy as np
import pytest
from webdataset import TarWriter

from mmvicreg.plan.mixture import Mixture, Part, join, raise_fractions
from mmvicreg.shards.index import ShardIndex, open_index
from mmvicreg.shards.subset import holds, only, with_members
from mmvicreg.stream.fetcher import Fetcher


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    """Two shards of 50; every tenth sample has an effect."""
    paths = []
    for shard in range(2):
        paths.append(str(tmp_path / f"train-{shard}.tar"))
        with TarWriter(paths[-1]) as writer:
            for row in range(50):
                extra = {"effect.ogg": b"boom"} if row % 10 == 3 else {}
                extra |= {"depth.npy": b"far"} if row % 10 in (4, 5) else {}
                writer.write({"__key__": f"{shard}{row:03d}", "txt": b"a cat", **extra})
    return open_index(paths)


def test_the_subset_holds_exactly_the_samples_with_the_member(index: ShardIndex) -> None:
    rare = with_members(index, ["effect.ogg", "txt"])
    fetch = Fetcher(rare)
    samples = [fetch(*rare.place(number), ("effect.ogg",)) for number in range(len(rare))]
    assert [sample.key for sample in samples] == [
        f"{s}{row:03d}" for s in range(2) for row in range(3, 50, 10)
    ]
    assert all(sample.members["effect.ogg"] == b"boom" for sample in samples)
    assert with_members(rare, ["txt"]).counts.tolist() == [5, 5]


def test_a_mixture_keeps_enough_rows_of_a_rare_modality_in_every_step(index: ShardIndex) -> None:
    parts = [Part(index, 0.75), Part(with_members(index, ["effect.ogg"]), 0.25)]
    mixture, joined = Mixture(parts, seed=0, global_batch=100), join(parts)
    fetch = Fetcher(joined)
    for step in range(20):
        places = mixture.locate(step, range(100))
        rows = zip(places.shard.tolist(), places.place.tolist(), strict=True)
        present = sum("effect.ogg" in fetch(*place, ("effect.ogg",)).members for place in rows)
        assert 18 <= present <= 52  # about a third, where the data have a tenth


def test_no_sample_is_an_error_that_names_the_members(index: ShardIndex) -> None:
    with pytest.raises(
        ValueError, match=r"no sample of 100 has depth.png; members are depth.npy, effect.ogg, txt"
    ):
        with_members(index, ["depth.png"])


def test_shares_of_several_rare_members_are_reached_together(index: ShardIndex) -> None:
    parts = raise_fractions(
        [Part(index, 2.0)],
        {"effect": 0.4, "depth": 0.3},
        {"effect": ("wav", "effect.ogg"), "depth": ("depth.npy",)},
    )
    mixture, joined = Mixture(parts, seed=0, global_batch=10_000), join(parts)
    places = mixture.locate(0, range(10_000))
    numbers = joined.starts[places.shard] + places.place
    for suffix, share in (("effect.ogg", 0.4), ("depth.npy", 0.3)):
        assert holds(joined, [suffix])[numbers].mean() == pytest.approx(share, abs=0.01)
    assert len(np.unique(numbers)) == len(joined)  # the rest still comes


def test_shares_that_exclude_each_other_are_an_error(index: ShardIndex) -> None:
    members = {"effect": ("effect.ogg",), "depth": ("depth.npy",)}
    with pytest.raises(
        ValueError, match=r"no weights give these fractions together.*effect 10.0%, depth 20.0%"
    ):
        raise_fractions([Part(index, 1.0)], {"effect": 0.6, "depth": 0.6}, members)


def test_numbers_choose_samples_of_a_subset_too(index: ShardIndex) -> None:
    rare = with_members(index, ["effect.ogg"])
    for whole, numbers in ((index, [99, 0, 50, 7]), (rare, [9, 0, 4])):
        part = only(whole, numbers)
        fetch, every = Fetcher(part), Fetcher(whole)
        found = [fetch(*part.place(number), ()).key for number in range(len(part))]
        assert found == [every(*whole.place(number), ()).key for number in sorted(numbers)]
        assert part.fingerprint != whole.fingerprint
    with pytest.raises(ValueError, match="sample numbers 3 to 100; the index has samples 0 to 99"):
        only(index, [3, 100])
