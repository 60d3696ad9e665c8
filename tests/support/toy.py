"""A toy run of seconds: two small modalities of one recipe file, on shards of pictures and captions.

    python tests/support/toy.py --train FOLDER/train-*.tar --out FOLDER/run

The modalities are defined here, as a user's would be. Dropout and random directions are on: what a resumed
run gets wrong shows.
"""

from __future__ import annotations

import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))
import mmvicreg as mm
from mmvicreg.branches.model import projector
from mmvicreg.stream.reader import Item, Reader, Sample

WIDTH = 12
torch.set_num_threads(1)  # toy sizes: threads only wait for each other


@dataclass(frozen=True)
class BytesReader(Reader):
    """``width`` numbers of a member, with a little noise drawn for each reading."""

    suffix: str
    stall: float = 0.0
    noise: float = 0.1

    @property
    def members(self) -> tuple[str, ...]:
        return (self.suffix,)

    @property
    def shape(self) -> tuple[int, ...]:
        return (WIDTH,)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        if self.suffix not in sample.members:
            return None
        if self.stall and sample.number == 40:
            time.sleep(self.stall)
        value = self._array(sample)
        return Item(torch.from_numpy(value + self.noise * generator.standard_normal(WIDTH, dtype=np.float32)))

    def items(self, sample: Sample) -> list[Item]:
        return [Item(torch.from_numpy(self._array(sample)))] if self.suffix in sample.members else []

    def _array(self, sample: Sample) -> np.ndarray:
        return np.load(io.BytesIO(sample.members[self.suffix]), allow_pickle=False)


@dataclass(frozen=True)
class Numbers:
    """An MLP over stored numbers."""

    suffix: str = "a.npy"
    widths: tuple[int, ...] = (32, 16)
    norm: Literal["batch", "layer"] = "batch"
    dropout: float = 0.1
    frozen: bool = False
    learning_rate: float | None = None
    stall: float = 0.0
    """seconds that reading sample 40 takes"""

    def reader(self) -> Reader:
        """Float32 (12,)."""
        return BytesReader(self.suffix, self.stall)

    def branch(self) -> mm.Branch:
        """Two blocks, then the projector."""
        norm = nn.BatchNorm1d if self.norm == "batch" else nn.LayerNorm
        blocks = [
            # A bias that the normalization takes away again has a gradient of rounding errors only.
            nn.Sequential(
                nn.Linear(WIDTH, WIDTH, bias=False), norm(WIDTH), nn.GELU(), nn.Dropout(self.dropout)
            )
            for _ in range(2)
        ]
        encoder = nn.Sequential()
        encoder.add_module("blocks", nn.Sequential(*blocks))
        return mm.Branch(
            encoder,
            projector(WIDTH, self.widths, dropout=self.dropout),
            frozen=self.frozen,
            learning_rate=self.learning_rate,
        )


@dataclass(frozen=True)
class ToyConfig(mm.TrainConfig):
    """Seconds on a CPU; no modality yet."""

    batch_size: int | Literal["auto"] = 16
    epochs: float = 2.0
    threads: int = 1
    cpu: bool = True
    log_every: int = 1
    checkpoint_every: int = 5
    guard: mm.GuardConfig = mm.GuardConfig(diagnose_every=5)


@dataclass(frozen=True)
class Config(ToyConfig):
    """Two modalities a and b."""

    a: Numbers = Numbers("a.npy")
    b: Numbers = Numbers("b.npy")
    goal: Literal["vicreg", "sigreg", "infonce"] = "sigreg"


def objective(config: Config) -> mm.Objective:
    """What ``goal`` says."""
    if config.goal == "infonce":
        return mm.Objective(mm.InfoNCE(), {})
    if config.goal == "vicreg":
        regularizer: mm.Regularizer = mm.VICReg()
    else:
        regularizer = mm.SIGReg(slices=8)
    return mm.Objective(mm.Invariance(25.0), {"a": regularizer, "b": regularizer})


def write_shards(
    folder: Path, *, shards: int = 3, samples: int = 32, missing: int = 7, seed: int = 0, poison: int = -1
) -> str:
    """Shards of pairs, both made from one hidden vector; every ``missing``-th sample lacks b. Their pattern.

    a of sample ``poison`` is not a number.
    """
    import json
    import tarfile

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((2, 6, WIDTH)).astype(np.float32)
    for shard in range(shards):
        with tarfile.open(folder / f"train-{shard:03d}.tar", "w") as tar:
            for row in range(samples):
                number = shard * samples + row
                hidden = random.standard_normal(6).astype(np.float32)
                members: dict[str, bytes] = {}
                for name, matrix in zip("ab", mixing, strict=True):
                    if name == "b" and missing and number % missing == 3:
                        continue
                    out = io.BytesIO()
                    np.save(out, hidden @ matrix * (np.nan if number == poison and name == "a" else 1))
                    members[f"{name}.npy"] = out.getvalue()
                members["json"] = json.dumps({"class": "big" if hidden[0] > 0 else "small"}).encode()
                for suffix, content in members.items():
                    info = tarfile.TarInfo(f"s{number:05d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return str(folder / "train-*.tar")


if __name__ == "__main__":
    import tyro

    finished = mm.train(tyro.cli(Config), objective)
    print("finished", finished.step)
