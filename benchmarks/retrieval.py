"""Retrieval at COCO size (5,000 images, 25,000 captions, 512 dimensions): ours beside CLIP_benchmark and open_clip.

    python benchmarks/retrieval.py                # about 6 minutes on a quiet core; open_clip takes most of it
    python benchmarks/retrieval.py --tiny         # seconds: 200 images, one run each
    python benchmarks/retrieval.py --million      # also all of 1M x 1M (about 25 minutes of one core; minutes on a GPU)

Every contestant runs alone in its own process on the same features, through its own public function, with
one thread. Time is processor time, the median of three runs in turn (one of open_clip). Memory is the peak above
what the process held once the features were loaded, in a fourth run of both in which the C library maps every
larger allocation on its own, so that what it keeps for itself does not count. open_clip counts one caption per
image only, so its recalls are not comparable.
The last line is one JSON object. Needs ``clip-benchmark`` (pip install --no-deps clip-benchmark) and
``open_clip_torch``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from measure import apart

CAPTIONS, WIDTH = 5, 512
KS = (1, 5, 10)
BATCH = 64  # CLIP_benchmark's default
MILLION_WIDTH, SAMPLED = 64, 1024


@dataclass(frozen=True)
class Sizes:
    """Images of the comparison; rows of the large one, and how many of them are queries."""

    images: int = 5000
    million: int = 1_000_000
    queries: int = SAMPLED


def make_features(folder: Path, count: int) -> None:
    """Captions scattered around their image, so that recalls are far from 0 and 1."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((count, WIDTH), dtype=np.float32)
    noise = generator.standard_normal((count * CAPTIONS, WIDTH), dtype=np.float32)
    for name, rows in (("images", images), ("captions", images.repeat(CAPTIONS, 0) + 7 * noise)):
        np.save(folder / f"{name}.npy", rows / np.linalg.norm(rows, axis=1, keepdims=True))


def load(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` images and their captions."""
    return np.load(folder / "images.npy")[:count], np.load(folder / "captions.npy")[: count * CAPTIONS]


def ours(folder: Path, count: int) -> Callable[[], dict[str, float]]:
    from mmvicreg.evaluation.positives import Positives
    from mmvicreg.evaluation.retrieval import cross_modal_metrics

    images, captions = load(folder, count)
    image_of = np.arange(count).repeat(CAPTIONS)
    sizes = {"num_queries": len(images), "num_items": len(captions)}
    positives = Positives.from_pairs(image_of, np.arange(len(captions)), **sizes)

    def run() -> dict[str, float]:
        there, back = cross_modal_metrics(images, captions, positives, ks=KS)
        return {f"i2t@{k}": there.recall[k] for k in KS} | {f"t2i@{k}": back.recall[k] for k in KS}

    return run


def clip_benchmark(folder: Path, count: int) -> Callable[[], dict[str, float]]:
    import torch
    from clip_benchmark.metrics import zeroshot_retrieval

    images, captions = (torch.from_numpy(rows) for rows in load(folder, count))
    texts = captions.view(count, CAPTIONS, WIDTH)
    batches = [(images[a : a + BATCH], texts[a : a + BATCH]) for a in range(0, count, BATCH)]

    class Identity:
        """Its model and tokenizer: the features are there already."""

        encode_image = staticmethod(lambda x: x)
        encode_text = staticmethod(lambda x: x)

    def run() -> dict[str, float]:
        options = {"device": "cpu", "amp": False, "recall_k_list": list(KS)}
        found = zeroshot_retrieval.evaluate(Identity(), batches, torch.stack, **options)
        names = {"i2t": "text_retrieval", "t2i": "image_retrieval"}
        return {f"{ours}@{k}": found[f"{name}_recall@{k}"] for ours, name in names.items() for k in KS}

    return run


def open_clip(folder: Path, count: int) -> Callable[[], dict[str, float]]:
    import torch
    from open_clip_train.train import get_clip_metrics

    images, captions = (torch.from_numpy(rows) for rows in load(folder, count))
    images = images.repeat_interleave(CAPTIONS, 0)  # it knows pairs only

    def run() -> dict[str, float]:
        found = get_clip_metrics(images, captions, torch.tensor(1.0))
        names = {"i2t": "image_to_text", "t2i": "text_to_image"}
        return {f"{ours}@{k}": found[f"{name}_R@{k}"] for ours, name in names.items() for k in KS}

    return run


def million(folder: Path, sizes: Sizes) -> Callable[[], dict[str, float]]:
    """1M queries among 1M items; by default ``SAMPLED`` queries of them, which need the same memory."""
    import torch

    from mmvicreg.evaluation.positives import Positives
    from mmvicreg.evaluation.ranks import rank_queries

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in ("million-a", "million-b"):
        if not (folder / f"{name}.npy").exists():
            rows = np.random.default_rng(0).standard_normal((sizes.million, MILLION_WIDTH), dtype=np.float32)
            if name == "million-b":
                rows += 0.5 * np.random.default_rng(1).standard_normal(rows.shape, dtype=np.float32)
            np.save(folder / f"{name}.npy", rows)
            del rows
    a, b = (np.load(folder / f"million-{name}.npy", mmap_mode="r") for name in "ab")
    positives = Positives(np.arange(sizes.million + 1), np.arange(sizes.million), sizes.million)

    def run() -> dict[str, float]:
        ranks = rank_queries(a, b, positives, device=device, queries=range(sizes.queries))
        return {"queries": sizes.queries} | {f"i2t@{k}": float(ranks.recall(k).mean()) for k in KS}

    return run


CONTESTANTS = {"ours": ours, "clip_benchmark": clip_benchmark, "open_clip": open_clip}


def measure(name: str, folder: Path, sizes: Sizes) -> dict[str, float]:
    """Run one contestant; for a process of its own."""
    if name == "million":
        run = million(folder, sizes)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        CONTESTANTS[name](folder, 2 * BATCH)()  # libraries load what they need, so that it is not measured
        run = CONTESTANTS[name](folder, sizes.images)
    Path("/proc/self/clear_refs").write_text(
        "5", encoding="utf-8"
    )  # resets the peak of resident memory (Linux)
    before = resident("VmRSS")
    start, wall = time.process_time(), time.perf_counter()
    result = run()
    spent = {"seconds": time.process_time() - start, "wall": time.perf_counter() - wall}
    return result | spent | {"megabytes": max(resident("VmHWM") - before, 1) / 1024}


def resident(field: str) -> int:
    """A field of this process's memory status, in kB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--million", action="store_true", help="all 1M x 1M instead of a sample of its queries"
    )
    parser.add_argument("--tiny", action="store_true", help="200 images, one run each, to see that it runs")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    sizes = Sizes(200, 2000, 64) if options.tiny else Sizes(queries=1_000_000 if options.million else SAMPLED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_features(folder, sizes.images)
        runs: dict[str, list[dict[str, float]]] = {}
        for contestant in ("ours", "clip_benchmark") * (1 if options.tiny else 3) + ("open_clip", "million"):
            found = apart(measure, contestant, folder, sizes, mapped=False)
            runs.setdefault(contestant, []).append(found)
            print(
                f"{contestant:>15}: " + ", ".join(f"{k} {v:.4g}" for k, v in found.items()),
                flush=True,
            )
        rows = {
            name: {key: median(run[key] for run in found) for key in found[0]} for name, found in runs.items()
        }
        for contestant in ("ours", "clip_benchmark"):
            rows[contestant]["megabytes"] = apart(measure, contestant, folder, sizes)["megabytes"]
    recalls = [key for key in rows["ours"] if "@" in key]
    peer, own, big = rows["clip_benchmark"], rows["ours"], rows["million"]
    summary = {
        "time_ratio_vs_clip_benchmark": peer["seconds"] / own["seconds"],
        "memory_ratio_vs_clip_benchmark": peer["megabytes"] / own["megabytes"],
        "time_ratio_vs_open_clip": rows["open_clip"]["seconds"] / own["seconds"],
        "memory_ratio_vs_open_clip": rows["open_clip"]["megabytes"] / own["megabytes"],
        "identical": all(round(peer[key], 6) == round(own[key], 6) for key in recalls),
        "million_queries": big["queries"],
        "million_peak_megabytes": big["megabytes"],
        "million_seconds_per_thousand_queries": 1000 * big["wall"] / big["queries"],
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
