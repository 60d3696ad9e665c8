"""A run in which every modality is often missing: numbers, a record, a caption through BERT, and a rare series.

    python tests/support/toy_missing.py --train FOLDER/train-*.tar --words.encoder transformers/BERT --out FOLDER/run

Each sample lacks each modality with probability 0.3; the series is in every twentieth sample only, so that most
processes have none of it in most steps.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import toy

import mmvicreg as mm
from mmvicreg.objectives.alignments import Prediction

WORDS = ("cat", "dog", "small", "large")


@dataclass(frozen=True)
class Config(toy.ToyConfig):
    """Four branches; the series has embeddings of another width and meets numbers through predictors."""

    a: toy.Numbers = toy.Numbers("a.npy", dropout=0.0)
    b: mm.TableModality = mm.TableModality(
        numbers=("size",), categories=("kind",), width=8, projector=(32, 16)
    )
    words: mm.TextModality = mm.TextModality(length=8, projector=(32, 16))
    series: mm.SeriesModality = mm.SeriesModality(
        channels=3, length=64, width=4, members=("series.npy",), projector=(16, 8)
    )


def objective(config: Config) -> mm.Objective:
    """A star around the numbers; the rare branch has a regularizer too."""
    shared = mm.Invariance(25.0)
    to_series = Prediction(widths=(16, 8), hidden=(12,))
    pairs = {("a", "b"): shared, ("a", "words"): shared, ("a", "series"): to_series}
    return mm.Objective(pairs, {name: mm.VICReg() for name in ("a", "b", "words", "series")})


def write_shards(folder: Path, *, samples: int = 96, missing: float = 0.3) -> str:
    """Shards of up to four members a sample, all from one hidden vector; their pattern."""
    random = np.random.default_rng(0)
    mixing = random.standard_normal((6, toy.WIDTH)).astype(np.float32)
    with tarfile.open(folder / "train-000.tar", "w") as tar:
        for number in range(samples):
            hidden = random.standard_normal(6).astype(np.float32)
            members: dict[str, object] = {
                "a.npy": hidden @ mixing,
                "json": {"size": float(hidden[0]), "kind": WORDS[int(hidden[1] > 0)]},
                "txt": f"a {WORDS[2 + int(hidden[2] > 0)]} {WORDS[int(hidden[1] > 0)]}",
            }
            kept = {name: value for name, value in members.items() if random.random() > missing}
            if number % 20 == 7:
                kept["series.npy"] = random.standard_normal((64, 3)) * hidden[:3]
            kept["key.txt"] = "here"  # a sample without any modality is a sample still
            for suffix, value in kept.items():
                _add(tar, f"s{number:05d}.{suffix}", value)
    return str(folder / "train-*.tar")


def _add(tar: tarfile.TarFile, name: str, value: object) -> None:
    out = io.BytesIO()
    if isinstance(value, np.ndarray):
        np.save(out, value)
    else:
        out.write((value if isinstance(value, str) else json.dumps(value)).encode())
    info = tarfile.TarInfo(name)
    info.size = len(out.getvalue())
    tar.addfile(info, io.BytesIO(out.getvalue()))


if __name__ == "__main__":
    import tyro

    finished = mm.train(tyro.cli(Config), objective)
    print("finished", finished.step)
