"""Encode image-text pairs once with frozen towers: the features that every method of a study shares.

    python studies/encode_pairs.py --pairs "pairs/{train,val,test}-*.tar" --out features

For each pair: the evaluation crop and random training crops through EfficientNet-Lite0 at 128 pixels, and the English
name, its other English form and its keywords through MiniLM. Written as one ``features.npz``: image (N, crops, 1280)
and text (N, captions, 384) float16, counts of captions (N,), names, concepts, sources. About 12 minutes for
10,645 pairs on two cores.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import torch
import tyro

import mmvicreg as mm
from mmvicreg.errors import show_messages_alone
from mmvicreg.progress import bar
from mmvicreg.randomness import generator
from mmvicreg.shards.index import expand
from mmvicreg.stream.sequential import sequential_samples

CAPTIONS = 3
IMAGE = replace(mm.EFFICIENTNET_LITE0, frozen=True, projector=())
TEXT = replace(mm.MINILM, frozen=True, projector=())


@dataclass(frozen=True)
class Config:
    """Pairs to encode, and where to write their features."""

    pairs: str
    """shards with a picture and a JSON member (name, keywords, captions, concept, source)"""
    out: str = "features.npz"
    """file to write"""
    crops: int = 1
    """random training crops beside the evaluation crop"""
    batch: int = 64
    """pictures encoded together"""


def captions(record: dict) -> list[str]:
    """The English texts of a pair: its name first."""
    texts = [record["name"], record["captions"].get("en", ""), ", ".join(record.get("keywords", []))]
    return list(dict.fromkeys(text for text in texts if text))[:CAPTIONS]


def main(config: Config) -> None:
    """Read, encode, write."""
    paths = expand(config.pairs)
    samples = list(sequential_samples((path, open(path, "rb")) for path in paths))
    records = [json.loads(sample.members["json"]) for sample in samples]
    image, text = IMAGE.branch().eval(), TEXT.branch().eval()
    read, tokenize = IMAGE.reader(), TEXT.reader()
    pictures = np.zeros((len(samples), 1 + config.crops, 1280), np.float16)
    sentences = np.zeros((len(samples), CAPTIONS, 384), np.float16)
    counts = np.zeros(len(samples), np.int64)
    with torch.inference_mode(), bar("encode", len(samples)) as advance:
        for start in range(0, len(samples), config.batch):
            part = range(start, min(start + config.batch, len(samples)))
            crops = [_crops(read, samples[n], config.crops, n) for n in part]
            h = image.represent(torch.cat(crops))
            pictures[part.start : part.stop] = h.view(len(part), 1 + config.crops, -1).numpy()
            found = [captions(records[n]) for n in part]
            counts[part.start : part.stop] = [len(texts) for texts in found]
            ids = torch.stack([tokenize.encode(caption) for texts in found for caption in texts])
            place = np.arange(CAPTIONS) < counts[part.start : part.stop, None]
            sentences[part.start : part.stop][place] = text.represent(ids).numpy()
            advance(len(part), "")
    np.savez(
        config.out,
        image=pictures,
        text=sentences,
        captions=counts,
        name=np.array([record["name"] for record in records]),
        concept=np.array([record["concept"] for record in records]),
        source=np.array([record["source"] for record in records]),
        split=np.array([record["split"] for record in records]),
        key=np.array([sample.key for sample in samples]),
    )


def _crops(reader: mm.Reader, sample: mm.Sample, count: int, number: int) -> torch.Tensor:
    """uint8 (1 + count, 3, 128, 128): the evaluation crop first."""
    whole = reader.items(sample)[0].value
    found = [reader.read(sample, generator("study crop", number, draw)) for draw in range(count)]
    return torch.stack([whole, *(item.value for item in found if item is not None)])


if __name__ == "__main__":
    show_messages_alone()
    main(tyro.cli(Config))
