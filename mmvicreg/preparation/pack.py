"""``mmvicreg pack``: write images and captions as webdataset shards.

Shards are written in parallel by webdataset's own TarWriter, each under a temporary name until it is whole. Everything
that the source holds becomes a sample of a shard or a line of ``PREFIX-skipped.jsonl`` with the reason. A packing that
was interrupted, or that left samples out, is continued with ``--resume``.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mmvicreg.errors import InvalidValueError, WrongOptionError
from mmvicreg.files import lock, write_json, write_text
from mmvicreg.modalities.decoding.formats import IMAGES
from mmvicreg.preparation.divide import Fractions, divide
from mmvicreg.preparation.jobs import run_all
from mmvicreg.preparation.pack_shards import (
    Encoding,
    ShardJob,
    left_out_of,
    plan_shards,
    state_folder,
    write_shard,
)
from mmvicreg.preparation.pack_sources import read_source
from mmvicreg.preparation.records import Columns, LeftOut, Record
from mmvicreg.progress import bar


@dataclass(frozen=True)
class PackConfig:
    """Write images and captions as webdataset shards.

    A folder: every image ``x.jpg`` (or png, webp, ...) is a sample, with the files of its name beside it: ``x.txt``
    (captions, one a line), ``x.json`` (fields), ``x.cls`` (a class number) and ``x.mask.png`` (a mask).

    A table: a line is a caption of an image; lines that name one image are one sample with all their captions. Columns
    besides image and caption are kept in the json member.

    Each sample's json member remembers where it came from: ``file`` and, of a table, ``row`` or ``rows``.
    --divide.validation 0.1 holds a tenth of the images out as validation-*.tar, chosen by --divide.seed; all images of
    one value of --columns.group go to the same part.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """a folder; a csv, tsv, jsonl or parquet table; or the json of COCO, Karpathy or Flickr30k"""
    output: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """folder for the shards"""
    prefix: str = "train"
    """shards are called PREFIX-000000.tar and so on, and keys begin with it"""
    divide: Fractions = Fractions()
    """fractions that are held out, as shards validation-*.tar and test-*.tar"""
    images: str = ""
    """folder that the paths in a table or json are relative to; the table's own folder if empty"""
    outside: bool = False
    """also read images outside that folder: absolute paths, ../ and symbolic links"""
    split: str = ""
    """of a Karpathy json, the split to take; all if empty"""
    columns: Columns = Columns()
    """names of a table's columns"""
    encoding: str = "utf-8"
    """text encoding of a table"""
    samples: int = 1000
    """samples of a shard"""
    megabytes: float = 0.0
    """largest size of a shard, in megabytes; 0 for no limit"""
    resize: int = 0
    """shrink images to this shorter side, in pixels (they are encoded again); 0 keeps the bytes"""
    encode: Literal["keep", "jpg", "webp", "png"] = "keep"
    """format that images are encoded in; keep leaves them as they are"""
    quality: int = 90
    """JPEG or WebP quality of images that are encoded again, 1 to 100"""
    processes: int = 0
    """worker processes; 0 for all cores"""
    cluster: str = ""
    """address of a Dask scheduler to run on instead"""
    resume: bool = False
    """continue an earlier packing: keep the shards that are whole, and write those again that left samples out"""

    def __post_init__(self) -> None:
        if self.samples < 1 or not 1 <= self.quality <= 100 or self.resize < 0 or self.megabytes < 0:
            raise WrongOptionError(
                f"--samples {self.samples}, --quality {self.quality}, --resize {self.resize}, --megabytes "
                f"{self.megabytes}: expected at least 1 sample, a quality of 1 to 100, and sizes of 0 (none) or more"
            )
        if self.prefix in self.divide.parts():
            raise WrongOptionError(
                f"--prefix {self.prefix} is the name of a part that is held out; choose another"
            )


@dataclass(frozen=True)
class PackReport:
    """What was packed, and everything that was not."""

    shards: tuple[str, ...]
    samples: int
    left_out: tuple[LeftOut, ...]
    notices: tuple[str, ...]
    """what was done that a user may not expect, with counts"""
    skipped_file: str
    """file that lists what was left out; empty where nothing was"""


def pack(config: PackConfig) -> PackReport:
    """Write all shards and the list of what was left out.

    Raises InvalidValueError where shards of these names are there and ``resume`` is off, where ``resume`` is given with
    other options than before, for a source that cannot be read, and where nothing of it can be packed.
    """
    records, left_out = _read(config)
    parts = divide(records, config.divide, prefix=config.prefix)
    os.makedirs(config.output, exist_ok=True)
    with lock(Path(config.output), purpose="packing"):
        _check_there(config, list(parts))
        notices = _notices(records)
        parts = _number_labels(parts, config, notices)
        encoding = Encoding(config.resize, config.encode, config.quality)
        jobs = plan_shards(
            parts,
            config.output,
            config.prefix,
            samples=config.samples,
            megabytes=config.megabytes,
            encoding=encoding,
        )
        left_out += _write(jobs, config)
        samples = len(records) - sum(len(left_out_of(job)) for job in jobs)
        if not samples:
            _forget(jobs, config)
            raise InvalidValueError(
                f"no sample of {config.source} could be packed; the first: {left_out[0].reason}"
            )
        return PackReport(
            tuple(j.path for j in jobs), samples, tuple(left_out), tuple(notices), _list(left_out, config)
        )


def _read(config: PackConfig) -> tuple[list[Record], list[LeftOut]]:
    records, left_out = list[Record](), list[LeftOut]()
    found = read_source(
        config.source,
        images=config.images,
        split=config.split,
        columns=config.columns,
        encoding=config.encoding,
        outside=config.outside,
    )
    for each in found:
        if isinstance(each, LeftOut):
            left_out.append(each)
        else:
            records.append(each)
    if not records:
        first = (
            f"; of what was left out, the first: {left_out[0].file}: {left_out[0].reason}" if left_out else ""
        )
        raise InvalidValueError(
            f"{config.source!r} holds no samples (pictures are {', '.join(IMAGES)}){first}"
        )
    return records, left_out


def _check_there(config: PackConfig, prefixes: Sequence[str]) -> None:
    """Refuse to mix two packings, and remember the options of this one."""
    there = [path for prefix in prefixes for path in _shards(config.output, prefix)]
    options = json.loads(json.dumps(asdict(replace(config, processes=0, cluster="", resume=False))))
    file = state_folder(config.output, config.prefix) / "options.json"
    if there and not config.resume:
        raise InvalidValueError(
            f"{len(there)} shards are there, such as {there[0]}; give --resume to continue that packing, or another "
            "folder or --prefix"
        )
    if there and not file.is_file():
        raise InvalidValueError(
            f"--resume: {there[0]} was not written by this command, or {file.parent.name} is gone; give another folder"
        )
    if there:
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [
            f"{name} was {before.get(name)!r}, now {value!r}"
            for name, value in options.items()
            if before.get(name) != value
        ]
        if changed:
            raise InvalidValueError(
                f"--resume with other options would mix two packings: {'; '.join(changed)}; give the same options, or "
                "another folder"
            )
    file.parent.mkdir(exist_ok=True)
    for leftover in glob.glob(os.path.join(glob.escape(config.output), "*.tar.*.part")):
        os.unlink(leftover)  # of a packing that was killed; this one holds the lock
    write_json(file, options)


def _shards(folder: str, prefix: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), f"{glob.escape(prefix)}-*.tar")))


def _notices(records: Sequence[Record]) -> list[str]:
    rows, grouped = sum(len(r.rows) for r in records), [r for r in records if len(r.rows) > 1]
    found = []
    if grouped:
        found.append(
            f"{rows:,} rows name {len(records):,} pictures: the rows of a picture are one sample with all its captions"
        )
    several = sum(len(record.captions) > 1 for record in records)
    if several:
        found.append(
            f"{several:,} samples have several captions: all are in the json member (--text.members json:captions), "
            "the first is in the txt member"
        )
    without = sum(not record.captions for record in records)
    if without:
        found.append(f"{without:,} of {len(records):,} samples have no caption")
    return found


def _number_labels(
    parts: dict[str, list[Record]], config: PackConfig, notices: list[str]
) -> dict[str, list[Record]]:
    """Records with class numbers: digits as they are, names by a list that is written beside the shards."""
    labels = {label for records in parts.values() for record in records for label in record.labels}
    named = sorted(label for label in labels if not label.isdecimal())
    if not named:
        return parts
    if len(named) < len(labels):
        digits = sorted(labels - set(named))
        raise InvalidValueError(
            f"column {config.columns.label!r} has class numbers ({digits[0]}) and names ({named[0]!r}); use one of them"
        )
    path = Path(config.output) / f"{config.prefix}-classes.txt"
    write_text(path, "".join(f"{name}\n" for name in named))
    notices.append(f"{len(named):,} class names are numbered in {path} (give it to --names)")
    numbers = {name: str(number) for number, name in enumerate(named)}
    return {
        prefix: [
            replace(record, labels=tuple(numbers[label] for label in record.labels)) for record in records
        ]
        for prefix, records in parts.items()
    }


def _write(jobs: Sequence[ShardJob], config: PackConfig) -> list[LeftOut]:
    todo = [job for job in jobs if not job.done()]
    with bar("packing", sum(len(job.records) for job in todo)) as advance:
        for number, _ in run_all(write_shard, todo, processes=config.processes, cluster=config.cluster):
            advance(len(todo[number].records), "")
    own = {job.path for job in jobs}
    for state in state_folder(config.output, config.prefix).glob("*-*.json"):
        path = os.path.join(config.output, f"{state.stem}.tar")
        if path not in own:  # the source had more samples when these were written
            Path(path).unlink(missing_ok=True)
            state.unlink()
    return [each for job in jobs for each in left_out_of(job)]


def _forget(jobs: Iterable[ShardJob], config: PackConfig) -> None:
    """Remove the empty shards, so that the next try does not meet them."""
    for job in jobs:
        Path(job.path).unlink(missing_ok=True)
        job.state.unlink(missing_ok=True)
    (state_folder(config.output, config.prefix) / "options.json").unlink(missing_ok=True)


def _list(left_out: Sequence[LeftOut], config: PackConfig) -> str:
    path = Path(config.output) / f"{config.prefix}-skipped.jsonl"
    if not left_out:
        path.unlink(missing_ok=True)
        return ""
    write_text(path, "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in left_out))
    return str(path)
