"""One side of benchmarks/stream.py: a process that reads an epoch on one core whenever it is told to.

Run by benchmarks/stream.py, each side with its own interpreter: ``python stream_peer.py SIDE SHARDS CORE``.
For every line on standard input it does one epoch and prints {"images", "cpu", "wall"} as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

BATCH, SIZE = 64, 224


def open_clip_epoch(shards: list[str], images: int) -> Callable[[], int]:
    """open_clip's own training loader, augmentation and tokenizer, without worker processes."""
    from open_clip import get_tokenizer, image_transform
    from open_clip_train.data import get_wds_dataset

    args = SimpleNamespace(
        train_data="::".join(shards),
        train_num_samples=images,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=BATCH,
        workers=0,
        world_size=1,
        seed=0,
    )
    preprocess = image_transform(SIZE, is_train=True)
    data = get_wds_dataset(args, preprocess, True, tokenizer=get_tokenizer("ViT-B-32"))

    def epoch() -> int:
        return sum(len(pictures) for pictures, _ in data.dataloader)

    return epoch


def our_epoch(shards: list[str], images: int) -> Callable[[], int]:
    """The same crops and token ids through this project's stream, one thread."""
    from mmvicreg import ImageModality, Plan, TextModality, open_index
    from mmvicreg.stream.stream import Stream

    index = open_index(shards)
    plan = Plan(index.counts, seed=0, global_batch=BATCH)
    readers = {"image": ImageModality(size=SIZE).reader(), "text": TextModality().reader()}
    step = 0

    def epoch() -> int:
        nonlocal step
        first, step = step, step + images // BATCH
        return sum(
            len(b.keys) for b in Stream(index, plan, readers=readers, start=first, stop=step, threads=1)
        )

    return epoch


def floor_epoch(shards: list[str], images: int) -> Callable[[], int]:
    """Decode, crop and resize alone, on bytes that are in memory already."""
    import numpy as np

    from mmvicreg import open_index
    from mmvicreg.modalities.decoding.crops import random_box, resize_crop
    from mmvicreg.modalities.decoding.pixels import decode
    from mmvicreg.stream.fetcher import Fetcher

    index = open_index(shards)
    fetch = Fetcher(index)
    data = [fetch(*index.place(n), {"jpg"}).members["jpg"] for n in range(len(index))]
    random = np.random.default_rng(0)

    def epoch() -> int:
        for content in data:
            picture = decode(content).array
            resize_crop(picture, random_box(random, picture.shape[1], picture.shape[0]), SIZE)
        return len(data)

    return epoch


def webdataset_read(shards: list[str], images: int) -> Callable[[], int]:
    """webdataset's bytes of all members, nothing decoded."""
    import webdataset

    options = {"shardshuffle": False, "empty_check": False} if webdataset.__version__ >= "1" else {}
    dataset = webdataset.WebDataset(shards, **options)

    def epoch() -> int:
        return sum(len(sample["jpg"]) > 0 for sample in dataset)

    return epoch


def our_read(shards: list[str], images: int) -> Callable[[], int]:
    """Planned order, then all members of each sample by positioned reads, nothing decoded."""
    from mmvicreg import Plan, open_index
    from mmvicreg.stream.fetcher import Fetcher

    index = open_index(shards)
    fetch, members = Fetcher(index), frozenset(index.suffixes)
    plan = Plan(index.counts, seed=0, global_batch=BATCH)
    step = 0

    def epoch() -> int:
        nonlocal step
        read, last = 0, step + images // BATCH
        while step < last:
            places = plan.locate(step, range(BATCH))
            for shard, row in zip(places.shard.tolist(), places.place.tolist(), strict=True):
                read += len(fetch(shard, row, members).members["jpg"]) > 0
            step += 1
        return read

    return epoch


SIDES = {
    "open_clip": open_clip_epoch,
    "ours": our_epoch,
    "floor": floor_epoch,
    "webdataset read": webdataset_read,
    "our read": our_read,
}


def main() -> None:
    side, shards, core, images = sys.argv[1], sys.argv[2].split("::"), int(sys.argv[3]), int(sys.argv[4])
    os.sched_setaffinity(0, {core})
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    epoch = SIDES[side](shards, images)
    print("{}", file=answers)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        count = epoch()
        row = {"images": count, "cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps(row), file=answers)


if __name__ == "__main__":
    main()
