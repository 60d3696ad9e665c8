"""``mmvicreg check``: report everything that is wrong with shards, and write their index files.

Exit status: 0 where nothing is wrong, 1 where a shard or a sample cannot be used, 2 where the command cannot be run.
The report and the member table of each shard are kept in the user's cache folder as soon as they are made. A shard
that did not change since a check with the same limits is not read again, so an interrupted check continues where it
was. The index files, which hold all shards of a folder, are written once, at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mmvicreg.files import write_with
from mmvicreg.preparation.check_members import (
    CONTENT_KINDS,
    KEPT,
    NOTES,
    Depth,
    Limits,
    ShardReport,
    ShardTask,
    check_shard,
)
from mmvicreg.preparation.jobs import run_all
from mmvicreg.progress import bar
from mmvicreg.shards import index_file
from mmvicreg.shards.index import expand, save_tables, stat_of
from mmvicreg.shards.index_file import Entry, FreshTable
from mmvicreg.shards.locations import cache_folder, file_name, index_paths
from mmvicreg.shards.tar import KINDS, Problem


@dataclass(frozen=True)
class CheckConfig:
    """Index shards and report everything that is wrong with them."""

    shards: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")]
    """pattern of tar files: braces, globs, and :: between patterns"""
    depth: Depth = "content"
    """headers: the tar structure; content: also captions and the headers of images; decode: every pixel"""
    require: tuple[str, ...] = ()
    """what every sample must have, alternatives with commas: --require jpg,png,webp txt,json"""
    report: str = ""
    """write the whole report here, as JSON"""
    quarantine: str = ""
    """write what to leave out here: the exclusion list that a run takes"""
    max_pixels: int = 64_000_000
    """images with more pixels are reported"""
    min_side: int = 8
    """images with a shorter side, in pixels, are reported"""
    max_caption: int = 100_000
    """captions of more bytes are reported"""
    processes: int = 0
    """worker processes; 0 for all cores"""
    cluster: str = ""
    """address of a Dask scheduler to run on instead"""
    again: bool = False
    """check every shard, also those that did not change since the last check"""


@dataclass(frozen=True)
class Report:
    """All shards' reports in order, and the notes that concern several shards."""

    shards: tuple[ShardReport, ...]
    notes: tuple[Problem, ...]

    @property
    def unusable(self) -> int:
        """Shards and samples that cannot be used; where there is not one sample, the shards."""
        found = sum(bool(s.problems) + len(s.bad) for s in self.shards)
        return found if found or any(s.count for s in self.shards) else len(self.shards)

    def totals(self) -> dict[str, int]:
        total = Counter[str]()
        for shard in self.shards:
            total.update(shard.totals)
        total.update(p.kind for p in self.notes)
        return dict(total)


def check(config: CheckConfig) -> Report:
    """Check all shards of ``config``, in parallel, and write the index files of the usable ones.

    Shards that a pattern with braces names and that are not there are part of the report; no exception is raised.
    """
    paths = expand(config.shards)
    limits = Limits(config.depth, config.require, config.max_pixels, config.min_side, config.max_caption)
    reports = {} if config.again else _known(paths, limits)
    todo = [path for path in paths if path not in reports]
    with bar("checking", len(paths), unit="shards") as advance:
        advance(len(reports), "")
        tasks = [ShardTask(path, limits) for path in todo]
        for number, (report, block) in run_all(
            check_shard, tasks, processes=config.processes, cluster=config.cluster
        ):
            _keep(report, block, limits)
            reports[todo[number]] = report
            advance(1, "")
    _index(list(reports.values()), limits)
    shards = tuple(reports[path] for path in paths)
    return Report(shards, tuple(_across(shards)))


def exclusions(report: Report) -> dict[str, object]:
    """What ``open_index(..., exclude=)`` reads: unusable shards, and unusable samples of the others."""
    whole = [file_name(s.path) for s in report.shards if s.problems]
    samples = {file_name(s.path): s.bad for s in report.shards if s.bad and not s.problems}
    return {"shards": whole, "samples": samples}


def _state(path: str, limits: Limits) -> str:
    own = repr((os.path.abspath(path), limits)).encode("utf-8", "surrogateescape")
    name = hashlib.sha256(own).hexdigest()
    return os.path.join(cache_folder(), "check", name[:2], f"{name[2:32]}.json")


def _keep(report: ShardReport, table: bytes, limits: Limits) -> None:
    """Keep the report of a shard, and the member table of a usable one until it is in the index file.

    Not synced to disk, which takes longer than a small shard: after a power cut a damaged file is no report.
    """
    path = _state(report.path, limits)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    content = {**asdict(report), "table": index_file.digest(table) if table else ""}
    if table:
        write_with(Path(_table(path)), lambda file: file.write_bytes(table))
    write_with(Path(path), lambda file: file.write_text(json.dumps(content), encoding="utf-8"))


def _table(state: str) -> str:
    return state.removesuffix("json") + "table"


def _index(reports: Sequence[ShardReport], limits: Limits) -> None:
    """Put the tables that are kept into the index files beside the shards, and drop them."""
    tables = {r.path: Path(_table(_state(r.path, limits))) for r in reports if not r.problems}
    found = {r.path: r for r in reports if r.path in tables and tables[r.path].is_file()}
    save_tables(
        {
            path: FreshTable(file_name(path), report.bytes, report.stamp, tables[path].read_bytes)
            for path, report in found.items()
        }
    )
    for path in found:
        tables[path].unlink()


def _known(paths: Sequence[str], limits: Limits) -> dict[str, ShardReport]:
    known = {}
    footers: dict[str, dict[str, Entry]] = {}
    for path in paths:
        try:
            with open(_state(path, limits), encoding="utf-8") as file:
                content = json.load(file)
            for name in ("problems", "findings"):
                content[name] = [Problem(**p) for p in content[name]]
            digest = content.pop("table")
            report = ShardReport(**content)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if (report.bytes, report.stamp) != stat_of(path):
            continue
        if report.problems or _is_indexed(footers, path, digest) or _is_kept(path, limits, digest):
            known[path] = report
    return known


def _is_indexed(footers: dict[str, dict[str, Entry]], path: str, digest: str) -> bool:
    return any(entry.digest == digest for _, entry in _entries(footers, path))


def _entries(footers: dict[str, dict[str, Entry]], path: str) -> Iterator[tuple[str, Entry]]:
    """A shard's entries and the index files that hold them; each file is read once, into ``footers``."""
    for file in index_paths(path):
        if file not in footers:
            footers[file] = index_file.read_footer(file)
        if (entry := footers[file].get(file_name(path))) is not None:
            yield file, entry


def _is_kept(path: str, limits: Limits, digest: str) -> bool:
    """Whether the table of an interrupted check is there, whole."""
    table = Path(_table(_state(path, limits)))
    return table.is_file() and index_file.digest(table.read_bytes()) == digest


def _across(shards: Sequence[ShardReport]) -> Iterator[Problem]:
    """Keys that appear in more than one shard; keys are compared by a 16-byte hash."""
    seen: dict[bytes, str] = {}
    footers: dict[str, dict[str, Entry]] = {}
    for shard in shards:
        place = None if shard.problems else next(_entries(footers, shard.path), None)
        for key in index_file.read_table(*place).keys if place else ():
            digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).digest()
            if digest in seen:
                yield Problem("key in two shards", shard.path, key, f"also in {seen[digest]}")
            seen[digest] = shard.path


def lines(report: Report) -> list[str]:
    """The report for a person: totals, then the first five of each finding."""
    found: list[str] = []
    samples, size = sum(s.count for s in report.shards), sum(s.bytes for s in report.shards)
    statistics = Counter[str]()
    for shard in report.shards:
        statistics.update(shard.statistics)
    found.append(f"{len(report.shards)} shards, {samples:,} samples, {size:,} bytes")
    for name, count in sorted(statistics.items()):
        if count:
            found.append(f"  {name:<24} {count:>12,}")
    meanings = {**KINDS, **CONTENT_KINDS, **NOTES}
    for kind, count in sorted(report.totals().items()):
        word = "note" if kind in NOTES else "UNUSABLE"
        found.append(f"{word}: {kind}, {count:,} times ({meanings[kind]})")
        examples = [p for s in report.shards for p in (*s.problems, *s.findings) if p.kind == kind]
        for problem in (examples + [p for p in report.notes if p.kind == kind])[:5]:
            found.append(f"    {problem}")
    if report.unusable:
        found.append(f"not clean: {report.unusable:,} shards and samples cannot be used")
    else:
        found.append("clean")
    if any(count > KEPT for count in report.totals().values()):
        found.append(f"(the report keeps the first {KEPT} of a kind and shard)")
    return found
