"""Captions of several sources are drawn by weight in training, the same for any start, and read in order otherwise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from towers_small import text_folder
from webdataset import TarWriter

import mmvicreg as mm
from mmvicreg.errors import InvalidValueError
from mmvicreg.plan.plan import Plan
from mmvicreg.randomness import generator
from mmvicreg.shards.index import open_index
from mmvicreg.stream.stream import Stream

PLACES = ("txt", "json:synthetic", "json:alt")


def text(weights: tuple[float, ...], members: tuple[str, ...] = PLACES) -> mm.TextModality:
    encoder = f"transformers/{text_folder()}"
    return mm.TextModality(encoder=encoder, length=8, members=members, member_weights=weights)


def sample(number: int, *, synthetic: bool = True) -> dict[str, bytes]:
    """A human caption, two synthetic ones where there are, and an alt text."""
    record = {"alt": "large dog"} | ({"synthetic": ["a cat", "small cat"]} if synthetic else {})
    return {"txt": b"photograph", "json": json.dumps(record).encode()}


def drawn(weights: tuple[float, ...], *, synthetic: bool, count: int = 1500) -> dict[str, float]:
    """The fraction of each caption among ``count`` draws."""
    reader = text(weights).reader()
    one = mm.Sample("some", 0, sample(0, synthetic=synthetic))
    found = [reader.read(one, generator("draw", number)) for number in range(count)]
    names, counts = np.unique([item.identity for item in found if item], return_counts=True)
    return dict(zip(names.tolist(), (counts / count).tolist(), strict=True))


def test_captions_are_drawn_by_the_weights_of_their_places() -> None:
    found = drawn((1.0, 6.0, 3.0), synthetic=True)
    expected = {"photograph": 0.1, "a cat": 0.3, "small cat": 0.3, "large dog": 0.3}
    assert found.keys() == expected.keys()
    assert all(abs(found[name] - expected[name]) < 0.05 for name in expected)  # four standard deviations


def test_the_weight_of_a_place_without_a_caption_goes_to_the_others() -> None:
    found = drawn((1.0, 6.0, 3.0), synthetic=False)
    assert found.keys() == {"photograph", "large dog"} and abs(found["photograph"] - 0.25) < 0.05
    nothing = mm.Sample("some", 0, {"json": b"{}"})
    assert text((1.0, 6.0, 3.0)).reader().read(nothing, generator("draw")) is None


def test_without_weights_and_in_evaluation_the_first_place_is_read() -> None:
    assert drawn((), synthetic=True, count=50) == {"photograph": 1.0}
    one = mm.Sample("some", 0, sample(0))
    assert [item.identity for item in text((1.0, 6.0, 3.0)).reader().items(one)] == ["photograph"]


def test_a_stream_that_is_continued_draws_the_same_captions(tmp_path: Path) -> None:
    path = str(tmp_path / "train-000000.tar")
    with TarWriter(path) as writer:
        for number in range(40):
            writer.write({"__key__": f"{number:03d}", **sample(number)})
    index = open_index(path)
    readers = {"text": text((1.0, 2.0, 1.0)).reader()}

    def batches(start: int) -> list[torch.Tensor]:
        plan = Plan(index.counts, seed=1, global_batch=8, lanes=2, window=8)
        stream = Stream(index, plan, readers=readers, start=start, stop=10)
        return [batch.inputs["text"].clone() for batch in stream]

    whole, rest = batches(0), batches(4)
    assert len(whole) == 10 and len(torch.cat(whole).unique(dim=0)) == 4
    assert all(torch.equal(one, other) for one, other in zip(whole[4:], rest, strict=True))


@pytest.mark.parametrize(
    ("weights", "words"),
    [((1.0,), "1 values, members 3"), ((1.0, 0.0, 1.0), "above 0"), ((1.0, float("nan"), 1.0), "above 0")],
)
def test_weights_that_do_not_fit_are_refused(weights: tuple[float, ...], words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        text(weights).reader()
