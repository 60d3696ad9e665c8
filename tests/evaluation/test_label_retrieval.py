"""Retrieval by label: the scores are those of the representations and labels, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from photographs import encoded
from small_runs import make_run
from webdataset import TarWriter

import mmvicreg as mm

KINDS = ("bird", "boat", "barn")


def write(path: Path, seeds: range) -> str:
    """A shard of photographs; every fifth has no label, one a label that nothing else has."""
    with TarWriter(str(path)) as writer:
        for number in seeds:
            label = {} if number % 5 == 4 else {"kind": "alone" if number == 10 else KINDS[number % 3]}
            writer.write(
                {
                    "__key__": f"{number:03d}",
                    "png": encoded(number, format="PNG"),
                    "json": json.dumps(label).encode(),
                }
            )
    return str(path)


def test_a_query_is_answered_by_the_nearest_item_of_its_label(tmp_path: Path) -> None:
    queries, items = write(tmp_path / "q.tar", range(0, 12)), write(tmp_path / "i.tar", range(20, 44))
    image = mm.ImageModality(encoder="timm/test_resnet", size=32, projector=())
    run = make_run(tmp_path, {"image": image})
    found = mm.retrieve_by_label(run, queries=queries, items=items, label="json:kind", resamples=0)

    def embedded(seeds: range) -> np.ndarray:
        pictures = [encoded(number, format="PNG") for number in seeds]
        h = run.encode("image", pictures).numpy()  # no projector: embeddings are representations
        return h / np.linalg.norm(h, axis=1, keepdims=True)

    asked = [n for n in range(12) if n % 5 != 4 and n != 10]
    shown = [n for n in range(20, 44) if n % 5 != 4]
    cosine = embedded(range(0, 12))[asked] @ embedded(range(20, 44))[[n - 20 for n in shown]].T
    right = np.array([[q % 3 == i % 3 for i in shown] for q in asked])
    best = right[np.arange(len(asked)), cosine.argmax(1)]
    assert found.num_queries == len(asked) == 9 and found.num_items == len(shown)
    assert found.recall[1] == pytest.approx(best.mean(), abs=1e-6)
    with pytest.raises(KeyError, match="sound"):
        mm.retrieve_by_label(run, queries=queries, items=items, label="json:kind", branch="sound")
