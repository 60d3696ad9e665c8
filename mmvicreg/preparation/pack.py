"""``mmvicreg pack``: pictures and captions into webdataset shards, and their index beside them.

Shards are written by webdataset's own TarWriter, each under another name until it is whole, in parallel; a
pack that was interrupted goes on with ``--resume`` at the shards that are missing. Exit status: 0, or 1 where
samples had to be left out (a picture that is missing or cannot be decoded), which ``skipped.jsonl`` lists.
"""

from __future__ import annotations

import glob
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from mmvicreg.errors import InvalidValueError
from mmvicreg.preparation.jobs import run_all
from mmvicreg.preparation.pack_sources import PICTURES, Columns, Content, Record, read_source
from mmvicreg.progress import bar
from mmvicreg.shards.index import open_index


@dataclass(frozen=True)
class PackConfig:
    """Write pictures and captions as webdataset shards."""

    source: Positional[str]
    """a folder; a csv, tsv, jsonl or parquet table; or the json of COCO, Karpathy or Flickr30k"""
    output: Positional[str]
    """folder for the shards"""
    prefix: str = "train"
    """shards are called PREFIX-000000.tar and so on"""
    images: str = ""
    """folder that the paths in a table or json begin at; the table's own folder if empty"""
    split: str = ""
    """of a Karpathy json, the split to take; all if empty"""
    columns: Columns = Columns()
    """names of a table's columns"""
    samples: int = 1000
    """samples a shard"""
    megabytes: float = 0.0
    """begin a new shard above this size too; 0 for no limit"""
    resize: int = 0
    """shrink pictures to this shorter side (re-encodes); 0 keeps the bytes"""
    encode: Literal["keep", "jpg", "webp", "png"] = "keep"
    """format to re-encode to"""
    quality: int = 90
    """of re-encoded pictures"""
    processes: int = 0
    """worker processes; 0 for all cores"""
    cluster: str = ""
    """address of a Dask scheduler to run on instead"""
    resume: bool = False
    """keep shards that are there already"""


@dataclass(frozen=True)
class ShardJob:
    """One shard to write."""

    path: str
    records: tuple[Record, ...]
    config: PackConfig


def main(config: PackConfig) -> int:
    """Run the tool; the exit status is 1 where samples were left out."""
    skipped = pack(config)
    paths = sorted(glob.glob(os.path.join(glob.escape(config.output), f"{glob.escape(config.prefix)}-*.tar")))
    index = open_index(paths)
    print(f"{len(paths)} shards, {len(index):,} samples in {config.output}, members {index.suffixes}")
    if skipped:
        path = os.path.join(config.output, f"{config.prefix}-skipped.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"key": key, "reason": reason}) + "\n" for key, reason in skipped)
        print(f"{len(skipped):,} samples were left out, see {path}; the first: {skipped[0]}")
    return 1 if skipped else 0


def pack(config: PackConfig) -> list[tuple[str, str]]:
    """Write all shards; returns (key, reason) of the samples left out.

    Raises FileExistsError where shards of that prefix are there and ``resume`` is off, ValueError for a
    source that cannot be read or a key that comes twice.
    """
    os.makedirs(config.output, exist_ok=True)
    there = glob.glob(os.path.join(glob.escape(config.output), f"{glob.escape(config.prefix)}-*.tar"))
    if there and not config.resume:
        raise FileExistsError(f"{len(there)} shards are there, such as {there[0]}; remove them, or --resume")
    records = read_source(config.source, images=config.images, split=config.split, columns=config.columns)
    jobs = [job for job in _jobs(records, config) if not os.path.exists(job.path)]
    skipped: list[tuple[str, str]] = []
    with bar("packing", sum(len(job.records) for job in jobs)) as advance:
        for number, left_out in run_all(
            write_shard, jobs, processes=config.processes, cluster=config.cluster
        ):
            skipped += left_out
            advance(len(jobs[number].records), f"{len(skipped)} left out" if skipped else "")
    return sorted(skipped)


def _jobs(records: Iterable[Record], config: PackConfig) -> Iterator[ShardJob]:
    limit = config.megabytes * 1e6 or float("inf")
    keys = set[str]()
    pending: list[Record] = []
    size, number = 0, 0
    job = partial(ShardJob, config=config)
    for record in records:
        if record.key in keys:
            raise InvalidValueError(
                f"two samples have the key {record.key!r}: dots and / in names become _; rename one"
            )
        keys.add(record.key)
        bytes_ = sum(_size(content) for content in record.members.values())
        if pending and (len(pending) >= config.samples or size + bytes_ > limit):
            yield job(_path(config, number), tuple(pending))
            pending, size, number = [], 0, number + 1
        pending.append(record)
        size += bytes_
    if not pending and not number:
        raise InvalidValueError(f"{config.source!r} holds no samples (pictures are {', '.join(PICTURES)})")
    yield job(_path(config, number), tuple(pending))


def _path(config: PackConfig, number: int) -> str:
    return os.path.join(config.output, f"{config.prefix}-{number:06d}.tar")


def _size(content: Content) -> int:
    if isinstance(content, bytes):
        return len(content)
    return os.path.getsize(content) if content.exists() else 0


def write_shard(job: ShardJob) -> list[tuple[str, str]]:
    """Write one shard and rename it when whole; (key, reason) of what was left out."""
    from webdataset import TarWriter

    skipped = []
    temporary = f"{job.path}.{os.getpid()}.part"
    try:
        with open(temporary, "wb") as file, TarWriter(file) as writer:
            for record in job.records:
                try:
                    members = {s: _member(s, c, job.config) for s, c in record.members.items()}
                except (OSError, ValueError) as error:
                    skipped.append((record.key, str(error)))
                    continue
                writer.write({"__key__": record.key, **{suffix: data for suffix, data in members.values()}})
        os.replace(temporary, job.path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return skipped


def _member(suffix: str, content: Content, config: PackConfig) -> tuple[str, bytes]:
    data = content if isinstance(content, bytes) else content.read_bytes()
    if suffix not in PICTURES:
        return suffix, data
    if not data:
        raise InvalidValueError("an empty picture")
    if config.encode == "keep" and not config.resize:
        return suffix, data
    return _encode(suffix, data, config)


def _encode(suffix: str, data: bytes, config: PackConfig) -> tuple[str, bytes]:
    """Decode by the documented rules, shrink, encode; untouched where neither is needed."""
    from PIL import Image

    from mmvicreg.modalities.decoding.pixels import decode

    target = config.encode if config.encode != "keep" else {"jpeg": "jpg"}.get(suffix, suffix)
    image = Image.fromarray(decode(data).array)
    shorter = min(image.size)
    if config.resize and shorter > config.resize:
        width, height = (max(1, round(side * config.resize / shorter)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    elif target == {"jpeg": "jpg"}.get(suffix, suffix):
        return suffix, data
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "JPEG"}.get(target, target.upper()), quality=config.quality)
    return target, buffer.getvalue()
