"""Claim: held out, speech finds pictures, speech finds text and pictures find text at least 3 times as often as chance.

    python benchmarks/speech.py
    python benchmarks/speech.py --tiny         # seconds: one epoch on made-up samples, small image and speech encoders
    python benchmarks/speech.py --train "MORE/train-*.tar" --held-out "MORE/{val,test}-*.tar" --seeds 0 1 2

Trains recipes/speech.py once a seed (weights, order, dropout; frozen towers encode once for all) and scores R@1 of
every direction. Intervals are of the mean over seeds: 95% bootstrap, seeds and queries drawn again together. Last
line: one JSON object.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import mmvicreg as mm
from mmvicreg.evaluation.embed import embed_samples
from mmvicreg.evaluation.ranks import Ranks, rank_both
from mmvicreg.evaluation.store import Store
from mmvicreg.runs.config import import_recipe

DATA = ROOT / "data" / "speech"
CLAIMED = ("speech_to_image", "speech_to_text", "image_to_text")


@dataclass(frozen=True)
class Options:
    """What to train and to score."""

    train: str = str(DATA / "train-*.tar")
    held_out: str = str(DATA / "{val,test}-*.tar")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/speech-seeds"
    resamples: int = 2000
    tiny: bool = False
    """one seed and epoch on 32 made-up samples, to see that it runs"""


def main(options: Options) -> None:
    recipe = import_recipe(ROOT / "recipes" / "speech.py")
    base = replace(recipe.Config(), train=options.train, feature_cache=f"{options.out}/features", cpu=True)
    if options.tiny:
        base = small(base)
    found: dict[str, list[Ranks]] = {}
    store: Store | None = None
    for seed in options.seeds:
        run = mm.train(replace(base, seed=seed, out=f"{options.out}/seed-{seed}"), recipe.objective)
        store = store or held_out(run, options)
        for direction, ranks in scores(run, store).items():
            found.setdefault(direction, []).append(ranks)
    table = {direction: pooled(ranks, options.resamples) for direction, ranks in found.items()}
    for direction, row in table.items():
        low, high = row["interval"]
        print(
            f"{direction:16} R@1 {row['recall']:6.1%}  ({low:.1%} to {high:.1%}; chance {row['chance']:.2%})  "
            f"{row['recall'] / row['chance']:5.1f} times chance, at least {low / row['chance']:.1f}"
        )
    holds = {name: table[name]["interval"][0] >= 3 * table[name]["chance"] for name in CLAIMED}
    print(json.dumps({"seeds": options.seeds, "claim": holds, **table}))


def small(config: Any) -> Any:
    """The recipe's configuration for one epoch of small random encoders."""
    image = replace(config.image, encoder="timm/test_resnet", weights="", size=32)
    speech, effect = (
        replace(each, encoder="mel", weights="", seconds=1.0) for each in (config.speech, config.effect)
    )
    changed = {"batch_size": 16, "epochs": 1.0, "image": image, "speech": speech, "effect": effect}
    return replace(config, optimizer=replace(config.optimizer, warmup_epochs=0.0), **changed)


def made_up(folder: Path) -> str:
    """A shard of 32 samples: a plain picture, a caption, a tone as speech, and every fourth time an effect."""
    import soundfile
    from PIL import Image
    from webdataset import TarWriter

    def tone(hertz: float) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, np.sin(2 * np.pi * hertz * np.arange(8000) / 8000) / 2, 8000, format="OGG")
        return file.getvalue()

    path = folder / "made-up-000.tar"
    with TarWriter(str(path)) as writer:
        for number in range(32):
            picture = io.BytesIO()
            Image.new("RGB", (32, 32), (8 * number, 255 - 8 * number, 99)).save(picture, "WEBP")
            texts = json.dumps({"captions": {"fr": f"un chat {number}"}})
            members = {"webp": picture.getvalue(), "json": texts.encode(), "ogg": tone(200 + 20 * number)}
            members |= {"effect.ogg": tone(1000 + number)} if number % 4 == 0 else {}
            writer.write({"__key__": f"{number:03d}", **members})
    return str(path)


def held_out(run: mm.Run, options: Options) -> Store:
    """Representations of the held-out items: those of frozen towers are the same for every seed."""
    readers = {name: modality.reader() for name, modality in run.modalities.items()}
    index = mm.open_index(options.held_out)
    return embed_samples(run.model.eval(), index, readers, folder=f"{options.out}/embeddings")


@torch.no_grad()
def scores(run: mm.Run, store: Store) -> dict[str, Ranks]:
    """Ranks of every direction."""
    z = {}
    for name, rows in store.views.items():
        z[name] = run.model.eval().branch_named(name).projector(torch.tensor(np.array(rows.h)))
    result = {}
    for a, b in combinations(z, 2):
        there, back = rank_both(z[a], z[b], store.positives(a, b), skip_unmatched=True)
        result[f"{a}_to_{b}"], result[f"{b}_to_{a}"] = there, back
    return result


def pooled(ranks: list[Ranks], resamples: int) -> dict[str, Any]:
    """R@1 of the mean over seeds, of each seed, of chance, and the interval."""
    hits_SQ = np.stack([each.recall(1) for each in ranks])
    random = np.random.default_rng(0)
    seeds, queries = hits_SQ.shape
    drawn = [
        hits_SQ[np.ix_(random.integers(0, seeds, seeds), random.integers(0, queries, queries))].mean()
        for _ in range(resamples)
    ]
    return {
        "recall": float(hits_SQ.mean()),
        "interval": [float(edge) for edge in np.quantile(drawn, [0.025, 0.975])],
        "seeds": hits_SQ.mean(1).tolist(),
        "chance": float(ranks[0].chance(1).mean()),
        "queries": queries,
    }


if __name__ == "__main__":
    wanted = tyro.cli(Options)
    if wanted.tiny:
        with tempfile.TemporaryDirectory() as temporary:
            shard = made_up(Path(temporary))
            main(
                replace(
                    wanted, train=shard, held_out=shard, seeds=(0,), out=f"{temporary}/runs", resamples=20
                )
            )
    else:
        main(wanted)
