"""Embeddings are computed once, counted once, and equal on any number of processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import Photo, Words, encoded
from torch import nn
from webdataset import TarWriter

from mmvicreg.branches.model import Branch, Model
from mmvicreg.evaluation.embed import embed_samples
from mmvicreg.evaluation.retrieval import cross_modal_metrics
from mmvicreg.evaluation.store import open_store
from mmvicreg.shards.index import open_index
from mmvicreg.testing.processes import pool

SAMPLES = 61


class Pixels(nn.Module):
    def forward(self, x):
        return x.float().flatten(1) / 255


def model():
    torch.manual_seed(0)
    image = Branch(nn.Sequential(Pixels(), nn.Linear(3 * 16 * 16, 12)), nn.Linear(12, 6))
    text = Branch(
        nn.Sequential(nn.Embedding(256, 12), nn.Flatten(), nn.Linear(24 * 12, 12)), nn.Linear(12, 6)
    )
    return Model({"image": image, "text": text}, {"image": "image", "text": "text"})


def write(folder):
    """Captions shared by several samples, some samples without an image, one with a damaged one."""
    with TarWriter(str(folder / "data-000000.tar")) as writer:
        for number in range(SAMPLES):
            sample = {"__key__": f"{number:04d}", "txt": f"caption {number % 13}".encode()}
            if number % 10 != 9:
                sample["jpg"] = b"\xff\xd8damaged" if number == 30 else encoded(number)
            writer.write(sample)
    return str(folder / "data-000000.tar")


def embed_on_one_rank(path, folder):
    torch.set_num_threads(1)
    store = embed_samples(model(), open_index(path), readers(), folder=folder, batch_size=8, block_size=10)
    there, back = cross_modal_metrics(
        store.items("image").z,
        store.items("text").z,
        store.positives("image", "text"),
        tile=5,
        sharded=True,
        skip_unmatched=True,
    )
    return {
        "z": {view: np.array(rows.z) for view, rows in store.views.items()},
        "samples": {view: rows.samples for view, rows in store.views.items()},
        "proof": (store.proof.samples, store.proof.digest, dict(store.proof.rejected)),
        "ranges": store.proof.ranges,
        "scores": (there, back),
    }


def readers():
    return {"image": Photo(), "text": Words()}


@pytest.mark.slow
def test_one_two_and_three_processes_give_the_same_bits_scores_and_proof(tmp_path):
    path = write(tmp_path)
    found = {size: pool(size).run(embed_on_one_rank, path, str(tmp_path / str(size))) for size in (1, 2, 3)}
    one = found[1][0]
    for size, results in found.items():
        for result in results:
            for view in ("image", "text"):
                np.testing.assert_array_equal(result["z"][view], one["z"][view])
            assert result["samples"] == one["samples"]
            assert result["proof"] == one["proof"]
            assert result["scores"] == one["scores"]
            bounds = [bound for span in result["ranges"] for bound in span]
            assert bounds[0] == 0 and bounds[-1] == SAMPLES and len(result["ranges"]) == size
            assert bounds[1:-1:2] == bounds[2:-1:2]  # each process begins where the one before ended
    assert one["proof"][2] == {"image": 1}


def test_rows_are_distinct_items_with_every_sample_they_occur_in(tmp_path):
    store = embed_samples(
        model(), open_index(write(tmp_path)), readers(), folder=tmp_path / "e", block_size=7
    )
    text = store.items("text")
    shared = text.identities.index("caption 3")
    assert text.samples[shared] == [3, 16, 29, 42, 55]
    assert len(set(text.identities)) == len(text.identities)
    assert len(store.items("image").z) == SAMPLES - 6 - 1
    assert store.keys[5] == "0005"
    matched = store.positives("text", "image")
    assert matched.counts[shared] == 4  # sample 29 has no image


def test_a_store_is_read_back_not_made_again_until_weights_or_data_change(tmp_path):
    path = write(tmp_path)
    options = {"folder": tmp_path / "e", "block_size": 16}
    first = embed_samples(model(), open_index(path), readers(), **options)
    stamp = (first.folder / "store.json").stat().st_mtime_ns
    again = embed_samples(model(), open_index(path), readers(), **options)
    assert (again.folder / "store.json").stat().st_mtime_ns == stamp
    other = model()
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1e-3
    assert embed_samples(other, open_index(path), readers(), **options).folder != first.folder
    smaller = {"image": Photo(side=16), "text": Words()} | {"text": Words()}
    assert embed_samples(model(), open_index(path), smaller, **options).folder == first.folder
    assert sorted(p.name[0] for p in Path(options["folder"]).iterdir()).count(".") == 0


def test_damaged_stores_are_refused(tmp_path):
    store = embed_samples(model(), open_index(write(tmp_path)), readers(), folder=tmp_path / "e")
    with open(store.folder / "image.z.f32", "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"image\.z\.f32 has .* bytes"):
        open_store(store.folder)
    found = json.loads((store.folder / "store.json").read_text())
    (store.folder / "store.json").write_text(json.dumps(found | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        open_store(store.folder)
    with pytest.raises(FileNotFoundError, match="holds no embeddings"):
        open_store(tmp_path)
