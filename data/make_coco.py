"""Pack COCO images with Karpathy's split into webdataset shards.

    python data/make_coco.py --images coco/ --captions dataset_coco.json --out shards/

`--images` holds the folders `train2014` and `val2014` of the COCO download; `dataset_coco.json` is in
Karpathy's `caption_datasets.zip`. The images are copied byte for byte: 19 GB, minutes on a local disk.
Writes `coco-train-*.tar` (113,287 images, Karpathy's train and restval), `coco-val-*.tar` (5,000) and
`coco-test-*.tar` (5,000), each sample `key.jpg`, `key.txt` (first caption) and `key.json` (all captions).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.progress import track
from shard_files import refuse_existing, write_shards

SHARDS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
FOLDERS = ("train2014", "val2014")


@dataclass(frozen=True)
class Config:
    """Pack COCO images with Karpathy's split into webdataset shards."""

    images: Path
    """Folder that holds train2014 and val2014."""
    captions: Path
    """Karpathy's dataset_coco.json."""
    out: Path
    """Where the shards go."""
    per_shard: int = 1000
    overwrite: bool = False
    """Replace shards that are there."""


@dataclass(frozen=True)
class Picture:
    """One image of the split."""

    path: Path
    cocoid: int
    captions: tuple[str, ...]


def read_split(captions: Path, images: Path) -> dict[str, list[Picture]]:
    """Karpathy's file -> {"train", "val", "test"}: pictures; train in a fixed random order.

    Raises FileNotFoundError without the file, ValueError where it is not Karpathy's.
    """
    if not captions.is_file():
        raise FileNotFoundError(
            f"no file {captions}: --captions is dataset_coco.json of caption_datasets.zip"
        )
    found: dict[str, list[Picture]] = {"train": [], "val": [], "test": []}
    try:
        for entry in json.loads(captions.read_bytes())["images"]:
            texts = tuple(" ".join(sentence["raw"].split()) for sentence in entry["sentences"])
            path = images / entry["filepath"] / entry["filename"]
            found[SHARDS[entry["split"]]].append(Picture(path, entry["cocoid"], texts))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{captions} is not Karpathy's dataset_coco.json ({type(error).__name__}: {error}); expected "
            '{"images": [{"filepath", "filename", "split", "cocoid", "sentences": [{"raw"}, ...]}, ...]}'
        ) from error
    random.Random(0).shuffle(found["train"])
    return found


def check_images(split: dict[str, list[Picture]], images: Path) -> None:
    """Raises FileNotFoundError where the layout is another or images are missing, with their number."""
    absent = [folder for folder in FOLDERS if not (images / folder).is_dir()]
    if absent:
        there = sorted(path.name for path in images.iterdir())[:5] if images.is_dir() else "no such folder"
        raise FileNotFoundError(f"{images} has no folder {' and no '.join(absent)}; found there: {there}")
    names = {folder: {path.name for path in (images / folder).iterdir()} for folder in FOLDERS}
    pictures = [picture for part in split.values() for picture in part]
    missing = [p.path for p in pictures if p.path.name not in names.get(p.path.parent.name, set())]
    if missing:
        counts = dict(Counter(path.parent.name for path in missing))
        raise FileNotFoundError(
            f"{len(missing)} of {len(pictures)} images are missing {counts}, such as "
            f"{', '.join(str(path) for path in missing[:3])}; unpack the COCO 2014 archives again"
        )


def sample(picture: Picture) -> dict[str, str | bytes]:
    """The webdataset sample; ValueError where the file is no JPEG."""
    data = picture.path.read_bytes()
    if not data.startswith(b"\xff\xd8"):
        raise ValueError(f"{picture.path} ({len(data)} bytes) is not a JPEG file; unpack it again")
    record = {"captions": picture.captions, "cocoid": picture.cocoid, "filename": picture.path.name}
    return {
        "__key__": f"{picture.cocoid:012d}",
        "jpg": data,
        "txt": picture.captions[0].encode(),
        "json": json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(),
    }


def main(config: Config) -> None:
    split = read_split(config.captions, config.images)
    check_images(split, config.images)
    for name in split:
        refuse_existing(config.out, f"coco-{name}-%06d.tar", overwrite=config.overwrite)

    def samples(name: str) -> Iterator[dict[str, str | bytes]]:
        for picture in track(split[name], description=f"{name:5}"):
            yield sample(picture)

    for name, pictures in split.items():
        pattern = f"coco-{name}-%06d.tar"
        paths = write_shards(config.out, pattern, samples(name), per_shard=config.per_shard)
        captions = sum(len(picture.captions) for picture in pictures)
        print(f"{name}: {len(pictures)} images, {captions} captions, {len(paths)} shards in {config.out}")


if __name__ == "__main__":
    main(tyro.cli(Config))
