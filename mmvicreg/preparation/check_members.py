"""The check of one shard: its tar structure, captions, and the headers or all pixels of its images."""

from __future__ import annotations

import io
import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, Literal, cast

from PIL import Image, UnidentifiedImageError

from mmvicreg.modalities.decoding import formats
from mmvicreg.shards.download import RemoteError
from mmvicreg.shards.index_file import pack_table
from mmvicreg.shards.locations import is_remote
from mmvicreg.shards.shard_cache import ShardCache
from mmvicreg.shards.tar import BadShardError, Problem, Scan, scan_file

Depth = Literal["headers", "content", "decode"]
IMAGES = {suffix: {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()) for suffix in formats.IMAGES}
"""Pillow's name of the format that each picture suffix says."""
KNOWN = (*IMAGES, "txt", "json")
KEPT = 1000

CONTENT_KINDS = {
    "missing member": "a sample has none of the members that --require asks for",
    "caption not UTF-8": "a .txt or .json member is not UTF-8",
    "caption empty": "a .txt member without a character that is not space",
    "caption huge": "a .txt member above --max-caption bytes",
    "json not readable": "a .json member that is not JSON",
    "not a picture": "a picture member that none of the formats fits",
    "too many pixels": "a picture above --max-pixels",
    "tiny picture": "a picture with a side below --min-side",
    "damaged picture": "a picture whose bytes cannot be decoded, or only in part (--depth decode)",
}
"""Kinds of finding that make one sample unusable, and no other sample of its shard."""

NOTES = {
    "dots in keys": "suffixes such as v2.jpg: webdataset cuts names at the first dot, so the key was cut too",
    "no samples": "shards that hold none",
    "link": "members that only refer to another one, which webdataset skips: their samples lack them",
    "no suffix": "members without a dot in their name, which webdataset skips",
    "another format": "a picture whose bytes are of another format than its suffix says",
    "key in two shards": "a key that appears in more than one shard",
}
"""Kinds of finding that make nothing unusable; they do not change the exit status."""


@dataclass(frozen=True)
class Limits:
    """What a sample must have and may be."""

    depth: Depth = "content"
    require: tuple[str, ...] = ()
    max_pixels: int = 64_000_000
    min_side: int = 8
    max_caption: int = 100_000


@dataclass
class ShardReport:
    """Findings and statistics of one shard; ``bad`` are the keys of unusable samples."""

    path: str
    bytes: int
    stamp: str
    count: int
    problems: list[Problem] = field(default_factory=list)
    findings: list[Problem] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    statistics: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardTask:
    """A shard to check, and the limits."""

    path: str
    limits: Limits


class _Findings:
    """Collects the findings and statistics of one shard."""

    def __init__(self, report: ShardReport) -> None:
        self.report, self.totals, self.statistics = report, Counter[str](), Counter[str]()

    def find(self, kind: str, where: str, message: str) -> None:
        self.totals[kind] += 1
        if self.totals[kind] <= KEPT:
            self.report.findings.append(Problem(kind, self.report.path, where, message))
        if kind in CONTENT_KINDS and (not self.report.bad or self.report.bad[-1] != where):
            self.report.bad.append(where)


def check_shard(task: ShardTask) -> tuple[ShardReport, bytes]:
    """The report of one shard, and its member table for the index file (empty where the shard is unusable)."""
    local = task.path
    if is_remote(task.path):
        try:
            local = ShardCache().get(task.path)
        except (RemoteError, BadShardError) as error:
            kind = "missing file" if isinstance(error, RemoteError) else "not a tar"
            problem = Problem(kind, task.path, "download", str(error))
            return ShardReport(task.path, 0, "", 0, problems=[problem], totals={kind: 1}), b""
    found, size, mtime = scan_file(local)
    report = ShardReport(task.path, size, str(mtime), len(found.keys), problems=list(found.problems))
    if found.problems:
        report.totals = dict(Counter(p.kind for p in found.problems))
        return report, b""
    collect = _Findings(report)
    for name in found.skipped:
        collect.find("no suffix", name, "skipped")
    for name in found.links:
        collect.find("link", name, "skipped; pack with tar --hard-dereference")
    if not found.keys:
        collect.find("no samples", "0 members", f"{size} bytes")
    _dots(found, collect)
    fd = os.open(local, os.O_RDONLY)
    try:
        for i, key in enumerate(found.keys):
            members = dict(
                zip(found.suffixes[i], zip(found.offsets[i], found.sizes[i], strict=True), strict=True)
            )
            _required(key, members, task.limits, collect)
            if task.limits.depth != "headers":
                for suffix, (offset, length) in members.items():
                    _member((key, suffix), (fd, offset, length), task.limits, collect=collect)
    finally:
        os.close(fd)
    report.totals, report.statistics = dict(collect.totals), dict(collect.statistics)
    return report, pack_table(found)


def _dots(found: Scan, collect: _Findings) -> None:
    for key, suffixes in zip(found.keys, found.suffixes, strict=True):
        for suffix in suffixes:
            collect.statistics[f"member {suffix}"] += 1
            first, dot, last = suffix.rpartition(".")
            if dot and last in KNOWN and not first.isalpha():
                collect.find("dots in keys", key, f"suffix {suffix!r}")


def _required(key: str, members: dict[str, tuple[int, int]], limits: Limits, collect: _Findings) -> None:
    for group in limits.require:
        if not any(suffix in members for suffix in group.split(",")):
            collect.find("missing member", key, f"none of {group}; it has {', '.join(members)}")


def _member(
    name: tuple[str, str], place: tuple[int, int, int], limits: Limits, *, collect: _Findings
) -> None:
    (key, suffix), (fd, offset, length) = name, place
    kind = suffix.rpartition(".")[2]
    if kind in IMAGES:
        if limits.depth == "decode":
            _decode(key, os.pread(fd, length, offset), limits, collect=collect)
        _picture(key, kind, _Window(fd, offset, length), limits=limits, collect=collect)
    elif kind == "txt":
        if length > limits.max_caption:
            collect.find("caption huge", key, f"{length} bytes, the limit is {limits.max_caption}")
            return
        _caption(key, os.pread(fd, length, offset), collect)
    elif kind == "json":
        try:
            json.loads(os.pread(fd, min(length, 1 << 26), offset).decode("utf-8"))
        except UnicodeDecodeError as error:
            collect.find("caption not UTF-8", key, str(error))
        except (ValueError, RecursionError) as error:
            collect.find("json not readable", key, str(error))


def _caption(key: str, data: bytes, collect: _Findings) -> None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        collect.find("caption not UTF-8", key, str(error))
        return
    if not text.strip("\0 \t\r\n\f\v"):
        collect.find("caption empty", key, f"{len(data)} bytes")


class _Window(io.RawIOBase):
    """Part of a file as a file of its own: Pillow reads only the header through it."""

    def __init__(self, fd: int, offset: int, length: int) -> None:
        super().__init__()
        self._fd, self._offset, self._length, self._at = fd, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._length)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._length - self._at)
        data = os.pread(self._fd, left if size < 0 else min(size, left), self._offset + self._at)
        self._at += len(data)
        return data


def _picture(key: str, suffix: str, window: _Window, *, limits: Limits, collect: _Findings) -> None:
    from mmvicreg.modalities.decoding.pixels import webp_canvas

    canvas = webp_canvas(window.read(30))
    if canvas and math.prod(canvas) > limits.max_pixels:  # libwebp fills a canvas while the file is opened
        collect.find("too many pixels", key, f"{canvas[0]} x {canvas[1]}, the limit is {limits.max_pixels}")
        return
    window.seek(0)
    limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None  # only the header is read here, and the limit is ours
        with Image.open(cast("IO[bytes]", window), formats=tuple(set(IMAGES.values()))) as image:
            width, height = image.size
            collect.statistics[f"format {image.format}"] += 1
            collect.statistics[f"mode {image.mode}"] += 1
            collect.statistics["animated"] += bool(vars(image).get("is_animated", False))
            collect.statistics["EXIF orientation"] += image.getexif().get(0x0112, 1) != 1
            collect.statistics[f"side about {1 << (min(width, height).bit_length() - 1)}"] += 1
            if image.format not in (IMAGES[suffix], "MPO"):
                collect.find("another format", key, f"{image.format} in .{suffix}")
    except UnidentifiedImageError:
        collect.find("not a picture", key, f".{suffix}: none of {', '.join(sorted(set(IMAGES.values())))}")
        return
    except Exception as error:  # Pillow's plugins raise anything on damaged bytes
        collect.find("not a picture", key, f".{suffix}: {type(error).__name__}: {error}")
        return
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if width * height > limits.max_pixels:
        collect.find("too many pixels", key, f"{width} x {height}, the limit is {limits.max_pixels}")
    elif min(width, height) < limits.min_side:
        collect.find("tiny picture", key, f"{width} x {height}, the shorter side must have {limits.min_side}")


def _decode(key: str, data: bytes, limits: Limits, *, collect: _Findings) -> None:
    from mmvicreg.modalities.decoding.pixels import decode
    from mmvicreg.stream.reader import BadSampleError

    try:
        recovered = decode(data, max_pixels=limits.max_pixels).recovered
    except BadSampleError as error:
        collect.find("damaged picture", key, str(error))
        return
    if recovered:
        collect.find("damaged picture", key, f"can be used in part: {recovered}")
