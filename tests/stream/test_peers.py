"""The shards are the field's: img2dataset's output is read as it is, and open_clip's own loaders read what we pack."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import open_clip_train.data
import pytest
import torch
from open_clip import get_tokenizer, image_transform
from photographs import encoded
from pyarrow import parquet
from shard_members import demo_samples
from torch import Tensor
from towers_small import open_clip_name
from webdataset import WebDataset

import mmvicreg as mm
from mmvicreg.cli.check import check as check_command
from mmvicreg.modalities.decoding.pixels import decode
from mmvicreg.modalities.text import TextReader
from mmvicreg.preparation.check import CheckConfig
from mmvicreg.preparation.pack import PackConfig, pack
from mmvicreg.stream.evaluation_items import EvaluationItem, evaluation_items
from mmvicreg.stream.fetcher import Fetcher

MADE = Path(__file__).parents[1] / "support" / "img2dataset"
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files open


def main(config: CheckConfig) -> int:
    """Show what the command gives, as the command line does; its exit status."""
    output = check_command(config)
    output.show(as_json=False)
    return output.status


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))
    yield
    gc.collect()  # their files close here, where the warning about it is not an error


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    """A folder as img2dataset left it: tars, and .parquet and _stats.json beside them."""
    folder = tmp_path / "img2dataset"
    shutil.copytree(MADE, folder)
    return folder


def test_img2dataset_output_is_clean_and_whole(downloaded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = f"{downloaded}/{{00000..00001}}.tar"
    assert main(CheckConfig(pattern, depth="decode", require=("jpg", "txt", "json"), processes=1)) == 0
    assert "10 samples" in capsys.readouterr().out
    index = mm.open_index(f"{downloaded}/*.tar")
    assert index.counts.tolist() == [5, 5] and index.suffixes == {"jpg": 10, "json": 10, "txt": 10}
    fetch, named = Fetcher(index), {json.loads(s["json"])["name"] for s in demo_samples()["train"].values()}
    tables = [parquet.read_table(downloaded / f"{shard:05d}.parquet").to_pylist() for shard in range(2)]
    kept = {row["key"]: row for table in tables for row in table if row["status"] == "success"}
    assert [len(table) for table in tables] == [6, 6], (
        "what could not be had is in the tables and not in the tars"
    )
    theirs = {s["__key__"]: s for s in WebDataset([s.path for s in index.shards], shardshuffle=False)}
    assert set(theirs) == set(kept)
    for number in range(len(index)):
        sample = fetch(*index.place(number), {"jpg", "txt", "json"})
        record = json.loads(sample.members["json"])
        assert sample.members["txt"].decode() == record["caption"] == kept[sample.key]["caption"]
        assert record["caption"] in named
        assert decode(sample.members["jpg"]).array.shape == (record["height"], record["width"], 3)
        assert dict(sample.members) == {name: theirs[sample.key][name] for name in sample.members}


@dataclass(frozen=True)
class Config(mm.TrainConfig):
    image: mm.ImageModality = mm.ImageModality(encoder=open_clip_name(), size=32, projector=(16,))
    text: mm.TextModality = mm.TextModality(encoder=open_clip_name(), length=12, projector=(16,))
    batch_size: int | Literal["auto"] = 5
    epochs: float = 2.0
    cpu: bool = True


@pytest.mark.parametrize("caption", ["txt", "json:caption"])
def test_a_run_trains_on_img2dataset_output(downloaded: Path, tmp_path: Path, caption: str) -> None:
    text = mm.TextModality(encoder=open_clip_name(), length=12, projector=(16,), members=(caption,))
    config = Config(train=f"{downloaded}/*.tar", out=str(tmp_path / "run"), text=text)
    run = mm.train(
        config, lambda _: mm.Objective(mm.Invariance(), {"image": mm.VISReg(), "text": mm.VISReg()})
    )
    found = json.loads((run.folder / "data.json").read_text())
    assert run.step == 4 and found["unique"] == 10 and found["missing"] == {"image": 0, "text": 0}
    assert found["rejected"] == {} and found["recovered"] == 0


def packed(folder: Path) -> list[str]:
    """Shards of twelve photographs, jpg and png, as ``mmvicreg pack`` writes them."""
    (folder / "in").mkdir()
    for i in range(12):
        suffix, kind = ("png", "PNG") if i % 4 == 3 else ("jpg", "JPEG")
        (folder / "in" / f"p{i:02d}.{suffix}").write_bytes(encoded(i, width=90, format=kind))
        (folder / "in" / f"p{i:02d}.txt").write_text(f"Photograph {i}, résumé")
    pack(PackConfig(str(folder / "in"), str(folder / "out"), samples=5, processes=1))
    return [str(path) for path in sorted((folder / "out").glob("*.tar"))]


def their_batches(shards: list[str], *, train: bool) -> list[tuple[Tensor, Tensor]]:
    """Batches of open_clip's own loader with its own evaluation transform and tokenizer."""
    args = SimpleNamespace(
        train_data="::".join(shards),
        val_data="::".join(shards),
        train_num_samples=12,
        val_num_samples=12,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=4,
        workers=0,
        world_size=1,
        seed=0,
    )
    preprocess = image_transform(32, is_train=False)
    data = open_clip_train.data.get_wds_dataset(args, preprocess, train, tokenizer=get_tokenizer("ViT-B-32"))
    return list(data.dataloader)


def our_rows(shards: list[str]) -> list[tuple[Tensor, Tensor]]:
    """What our evaluation reads: the crop normalized as the model does, and token ids."""
    image = mm.ImageModality(encoder="open_clip/ViT-B-32", size=32).reader()
    text = mm.TextModality(encoder="open_clip/ViT-B-32").reader()
    assert isinstance(text, TextReader)
    index = mm.open_index(shards)
    found = list(evaluation_items(index, {"image": image, "text": text}))
    values = [item.value for item in found if isinstance(item, EvaluationItem)]
    assert len(values) == len(found)
    return list(zip(values[::2], values[1::2], strict=True))


def normalized(pixels: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        )
    )
    return (pixels / 255 - mean) / std


def test_open_clips_evaluation_loader_reads_packed_shards_as_we_do(tmp_path: Path) -> None:
    shards = packed(tmp_path)
    pictures, texts = (torch.cat(part) for part in zip(*their_batches(shards, train=False), strict=True))
    ours = our_rows(shards)
    assert len(ours) == len(pictures) == 12
    for (pixels, ids), picture, text in zip(ours, pictures, texts, strict=True):
        assert torch.equal(ids, text)
        assert (normalized(pixels) - picture).abs().max() < 1.5 / 255 / 0.26


def test_open_clips_training_loader_reads_packed_shards(tmp_path: Path, monkeypatch: Any) -> None:
    """open_clip 3.3 stops at the marks that webdataset 1.x puts between shards; here they are left out."""
    inner = open_clip_train.data.tar_file_expander

    def without_marks(*args: Any, **options: Any) -> Iterator[dict[str, Any]]:
        return (item for item in inner(*args, **options) if "fname" in item)

    shards = packed(tmp_path)
    with pytest.raises(KeyError, match="fname"):
        their_batches(shards, train=True)
    monkeypatch.setattr(open_clip_train.data, "tar_file_expander", without_marks)
    texts = torch.cat([text for _, text in their_batches(shards, train=True)])
    ours = {tuple(ids.tolist()) for _, ids in our_rows(shards)}
    assert len(texts) == 12 and {tuple(row) for row in texts.tolist()} == ours
