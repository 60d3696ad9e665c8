"""What more views of a pair bring to linear CCA: a second crop, more captions, concepts weighted alike, scatter within.

    python studies/pair_views.py --features features.npz          # a minute or two of one core

Each is added alone to the plain solution and left out of the whole one, with the same ridges and axis power, on all
training pairs and on 1,000 (three draws). Scores are mean recall of the validation pairs, and of two of four folds of
the training concepts, solved on the others; the test pairs are left out when the features are read. ``features`` is
what ``studies/encode_pairs.py --crops 1`` wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from pair_ablation import variants
from pair_features import load_features

import mmvicreg as mm
from mmvicreg.errors import show_messages_alone
from mmvicreg.randomness import generator
from mmvicreg.solvers.scoring import Scorer
from mmvicreg.solvers.selection import Problem, moments_of, spaces_of
from mmvicreg.solvers.statistics.pairing import PairedRows, PairingConfig

FOLDS = 4
CPU = torch.device("cpu")
MAPS = {"image": mm.FeatureMap(("signed_root", "unit")), "text": mm.FeatureMap(("unit",))}


@dataclass(frozen=True)
class Views:
    """What of a pair enters the moments."""

    crops: int = 1
    """of these, the first is the evaluation crop"""
    captions: int = 1
    """the name, its other English form, its keywords"""
    concept_power: float = 0.0
    within: float = 0.0
    """weight of the scatter within concepts in the whitening of both branches"""


WHOLE = Views(crops=2, captions=3, concept_power=0.5)
PARTS: Mapping[str, Mapping[str, float]] = {
    "a second crop": {"crops": 1},
    "other form of the name, keywords": {"captions": 1},
    "concepts weighted by the root of their pictures": {"concept_power": 0.0},
}
"""Each part by the fields that leave it out."""


@dataclass(frozen=True)
class Config:
    """Features to solve on."""

    features: Path = Path("studies/features.npz")
    """file that studies/encode_pairs.py wrote"""
    pairs: tuple[int, ...] = (0, 1000)
    """numbers of training pairs; 0 is all"""
    draws: int = 3
    """draws of a number of pairs"""


def compared() -> dict[str, Views]:
    """Views by name: nothing, everything, each part alone and left out, and everything with scatter."""
    found = {name: Views(**fields) for name, fields in variants(vars(WHOLE), PARTS).items()}  # type: ignore[arg-type]
    return {**found, "everything, and scatter within concepts": replace(WHOLE, within=0.5)}


def read(path: Path) -> dict[str, np.ndarray]:
    """Features of the training and validation pairs."""
    found = load_features(path)
    kept = np.isin(found["split"], ("train", "val"))
    return {name: found[name][kept] for name in ("image", "text", "captions", "concept", "split")}


def paired_rows(data: Mapping[str, np.ndarray], chosen: np.ndarray, views: Views) -> PairedRows:
    """The rows of these pairs; equal captions are one row that matches several pictures."""
    image = data["image"][chosen, : views.crops].reshape(-1, data["image"].shape[-1]).astype(np.float32)
    matches: dict[bytes, list[int]] = {}
    for number, row in enumerate(chosen):
        for caption in data["text"][row, : min(views.captions, int(data["captions"][row]))]:
            matches.setdefault(caption.tobytes(), []).append(number)
    text = np.array([np.frombuffer(each, data["text"].dtype) for each in matches], dtype=np.float32)
    of_image = [[number] for number in range(len(chosen)) for _ in range(views.crops)]
    return PairedRows({"image": image, "text": text}, {"image": of_image, "text": list(matches.values())})


def score(data: Mapping[str, np.ndarray], train: np.ndarray, held_out: np.ndarray, views: Views) -> float:
    """Mean recall of ``held_out`` by heads solved on ``train``, a fraction."""
    pairing = PairingConfig(concept_power=views.concept_power, within=views.within > 0)
    problem = Problem(paired_rows(data, train, views), MAPS, (), pairing, 0, CPU)
    solver = mm.CCA(mm.Whitening(within=views.within))
    spaces = spaces_of(problem, solver)
    axes = solver.decompose(moments_of(problem, solver, spaces), leading=solver.width)
    return Scorer(paired_rows(data, held_out, Views()), spaces, CPU)(solver.heads(axes))


def main(config: Config) -> None:
    """A Markdown table for each number of pairs."""
    data = read(config.features)
    train, validation = (np.flatnonzero(data["split"] == name) for name in ("train", "val"))
    concepts, number = np.unique(data["concept"][train], return_inverse=True)
    fold = (generator(0, "folds").permutation(len(concepts)) % FOLDS)[number]
    divisions = [(train, validation), *((train[fold != each], train[fold == each]) for each in (0, 1))]
    for count in config.pairs:
        print(f"\n{count or len(train)} pairs | validation, % | folds of the training concepts, %")
        for name, views in compared().items():
            scores = []
            for rows, held_out in divisions:
                draws = [
                    np.sort(generator(draw, "subset").permutation(rows)[:count]) if count else rows
                    for draw in range(config.draws if count else 1)
                ]
                scores.append(100 * np.mean([score(data, drawn, held_out, views) for drawn in draws]))
            print(f"{name} | {scores[0]:.1f} | {np.mean(scores[1:]):.1f}", flush=True)


if __name__ == "__main__":
    show_messages_alone()
    main(tyro.cli(Config))
