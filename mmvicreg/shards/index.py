"""Tar files -> ShardIndex: which shards there are, how many samples each holds, and where their members lie.

Plain webdataset tars, as webdataset, open_clip and img2dataset write them; nothing is converted. The first
opening reads the headers of every shard (about 30 us a sample) and writes a sidecar beside them, or under
the user's cache folder where theirs is not writable; later openings only compare sizes and times.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from braceexpand import braceexpand

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.progress import bar
from mmvicreg.shards import index_file
from mmvicreg.shards.index_file import Entry
from mmvicreg.shards.shard_cache import ShardCache, cache_folder, is_remote
from mmvicreg.shards.tar import BadShardError, Problem, Scan, scan_file

SHOWN = 10


@dataclass(frozen=True)
class Shard:
    """One tar file. ``sidecar`` is the file that holds its block; rows in ``excluded`` do not count."""

    path: str
    entry: Entry
    sidecar: str
    excluded: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        return self.entry.bytes

    @property
    def count(self) -> int:
        return self.entry.count - len(self.excluded)

    @property
    def name(self) -> str:
        return os.path.basename(self.path)


@dataclass(frozen=True)
class ShardIndex:
    """The shards of a data set, in order. A sample's number is its place in that order, from 0."""

    shards: tuple[Shard, ...]

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 (S,): samples in each shard."""
        return np.array([s.count for s in self.shards], np.int64)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 (S + 1,): number of each shard's first sample, and the total."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every shard's name, size and member table (not of where it lies, nor of its times)."""
        rows = "\n".join(f"{s.name} {s.bytes} {s.entry.digest} {s.excluded}" for s in self.shards)
        return hashlib.sha256(rows.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @cached_property
    def suffixes(self) -> dict[str, int]:
        """Every suffix in the data set and how many members have it."""
        total: dict[str, int] = {}
        for shard in self.shards:
            for suffix, count in shard.entry.suffixes.items():
                total[suffix] = total.get(suffix, 0) + count
        return dict(sorted(total.items()))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def place(self, number: int) -> tuple[int, int]:
        """(shard, row) of a sample's number."""
        if not 0 <= number < len(self):
            raise InvalidValueError(f"sample number {number}; the index has samples 0 to {len(self) - 1}")
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        return shard, number - int(self.starts[shard])


def expand(shards: str | Sequence[str]) -> list[str]:
    """Paths of a pattern or of several: ``{000..008}``, ``{a,b}``, ``*``, and ``::`` between patterns."""
    patterns = [
        part for text in ([shards] if isinstance(shards, str) else shards) for part in text.split("::")
    ]
    paths: list[str] = []
    for pattern in patterns:
        if pattern.lstrip().startswith(("pipe:", "|")) or pattern.rstrip().endswith("|"):
            raise InvalidValueError(
                f"shards {pattern!r} would run a shell command, which is refused: give a path or a URL "
                "(https://, s3://, ...), or download the shards first"
            )
        for path in braceexpand(os.path.expanduser(pattern)):
            found = _matching(path)
            if os.path.isdir(path):
                raise InvalidValueError(
                    f"{path!r} is a folder; name the shards in it: {os.path.join(path, '*.tar')}"
                )
            if not found:
                raise MissingFileError(f"no shard matches {path!r}{_nearby(path)}")
            paths += found
    if not paths:
        raise MissingFileError(f"no shard matches {shards!r}")
    repeated = sorted({p for p in paths if paths.count(p) > 1}) if len(set(paths)) < len(paths) else []
    if repeated:
        raise InvalidValueError(
            f"{len(repeated)} shards are listed twice, the first is {repeated[0]}; list each once"
        )
    return paths


def _matching(path: str) -> list[str]:
    """The files that a glob matches; a file or folder that is there under that very name, such as dir[1], is meant."""
    if "://" in path or not glob.has_magic(path) or os.path.exists(path):
        return [path]
    folder, name = os.path.split(path)
    if os.path.isdir(folder):
        path = os.path.join(glob.escape(folder), name)
    return sorted(glob.glob(path))


def _nearby(path: str) -> str:
    folder = os.path.dirname(path) or "."
    if glob.has_magic(folder):
        return ""
    if not os.path.isdir(folder):
        return f"; the folder {folder!r} does not exist"
    tars = sorted(f for f in os.listdir(folder) if f.endswith(".tar"))
    return f"; the folder {folder!r} has {len(tars)} .tar files" + (
        f", the first is {tars[0]!r}" if tars else ""
    )


def index_paths(path: str) -> tuple[str, str]:
    """(beside the shard, in the cache folder): one sidecar for all shards of a folder that share a prefix."""
    folder, file = path.rsplit("/", 1) if is_remote(path) else os.path.split(os.path.abspath(path))
    prefix = re.sub(r"[-_.]*\d+$", "", file.removesuffix(".tar")) or "shards"
    own = hashlib.sha256(folder.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    cached = os.path.join(cache_folder(), "index", own, f"{prefix}.index")
    return (cached if is_remote(path) else os.path.join(folder, f"{prefix}.index")), cached


def _writable(folder: str) -> bool:
    """Whether someone may write there: root is let in anywhere, but a read-only folder should stay so."""
    return os.path.isdir(folder) and bool(os.stat(folder).st_mode & 0o222) and os.access(folder, os.W_OK)


def stat_of(path: str) -> tuple[int, str]:
    """(bytes, stamp) of a local file; (-1, "") where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, ""
    return status.st_size, str(status.st_mtime_ns)


def _known(paths: Sequence[str]) -> dict[str, Shard]:
    """The shards among ``paths`` whose sidecar entry still matches the file."""
    footers: dict[str, dict[str, Entry]] = {}
    known = {}
    for path in paths:
        for side in index_paths(path):
            if side not in footers:
                footers[side] = index_file.read_footer(side)
            entry = footers[side].get(os.path.basename(path))
            if entry is not None and (is_remote(path) or (entry.bytes, entry.stamp) == stat_of(path)):
                known[path] = Shard(path, entry, side)
                break
    return known


def open_index(
    shards: str | Sequence[str], *, exclude: str | None = None, shard_cache: ShardCache | None = None
) -> ShardIndex:
    """The index of the shards of a pattern (braces, globs) or of a sequence of them.

    ``exclude``: a list that ``mmvicreg check --quarantine`` wrote; what it names is left out, and the
    fingerprint says so. Remote shards (https://, s3://, ...) are downloaded whole into ``shard_cache`` to be indexed;
    that a shard is still the indexed one is checked when a run downloads it.
    Raises FileNotFoundError where a pattern matches nothing or a shard is missing, BadShardError (a ValueError)
    listing what is wrong where a shard is damaged, and ValueError for folders, shell commands and repeated shards.
    """
    left_out, samples = read_exclusions(exclude)
    paths = [path for path in expand(shards) if os.path.basename(path) not in left_out]
    known = _known(paths)
    missing = [p for p in paths if p not in known]
    if missing:
        scanned = list(_scan_all(missing, shard_cache or ShardCache()))
        refuse([problem for _, found, _, _ in scanned for problem in found.problems])
        save_tables(
            [(path, index_file.pack_table(found), size, str(mtime)) for path, found, size, mtime in scanned]
        )
        known |= _known(missing)
        lost = [p for p in missing if p not in known]
        if lost:
            raise BadShardError(
                f"{lost[0]} changed while it was indexed; wait until it is written, then open it again"
            )
    index = ShardIndex(tuple(_without(known[p], samples) for p in paths))
    if not len(index):
        raise BadShardError(f"the {len(paths)} shards of {shards!r} hold no samples")
    return index


def read_exclusions(path: str | None) -> tuple[frozenset[str], dict[str, list[str]]]:
    """(names of shards, keys of samples by name of shard) to leave out; nothing where ``path`` is None."""
    if path is None:
        return frozenset(), {}
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    if set(content) != {"shards", "samples"}:
        raise InvalidValueError(
            f"{path}: expected an object with shards and samples, found {sorted(content)}"
        )
    return frozenset(content["shards"]), content["samples"]


def _without(shard: Shard, samples: dict[str, list[str]]) -> Shard:
    keys = frozenset(samples.get(shard.name, ()))
    if not keys:
        return shard
    rows = tuple(
        i for i, key in enumerate(index_file.read_table(shard.index_file, shard.entry).keys) if key in keys
    )
    return replace(shard, excluded=rows)


def _scan_all(paths: Sequence[str], shard_cache: ShardCache) -> Iterator[tuple[str, Scan, int, int]]:
    """Scan shards on a few threads (a positioned read waits for storage), with a bar when it takes long."""

    def scan_one(path: str) -> tuple[Scan, int, int]:
        return scan_file(shard_cache.get(path) if is_remote(path) else path)

    begun = time.monotonic()
    with ThreadPoolExecutor(4) as pool, ExitStack() as stack:
        advance = None
        for done, (path, result) in enumerate(zip(paths, pool.map(scan_one, paths), strict=True)):
            if advance is None and time.monotonic() - begun > 2:
                advance = stack.enter_context(bar("indexing", len(paths) - done, unit="shards"))
            if advance is not None:
                advance(1, "")
            yield path, *result


def refuse(problems: Sequence[Problem]) -> None:
    """Raise for the problems that make shards unusable: the first few in full, and how many there are."""
    if not problems:
        return
    lines = "\n  ".join(map(str, problems[:SHOWN]))
    more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    text = f"{len(problems)} problems:\n  {lines}{more}\nRun `mmvicreg check` for the whole report"
    if all(p.kind == "missing file" for p in problems):
        raise MissingFileError(text)
    raise BadShardError(text + "; its --quarantine writes the list of what to leave out")


def save_tables(fresh: Sequence[tuple[str, bytes, int, str]]) -> None:
    """Put freshly scanned shards (path, packed block, bytes, stamp) into their sidecars, each written once."""
    by_sidecar: dict[tuple[str, str], list[tuple[str, Entry, bytes]]] = {}
    for path, block, size, stamp in fresh:
        entry = index_file.entry_of(block, size=size, stamp=stamp)
        by_sidecar.setdefault(index_paths(path), []).append((os.path.basename(path), entry, block))
    for sides, blocks in by_sidecar.items():
        _save(sides, blocks)


def _save(sides: tuple[str, str], blocks: list[tuple[str, Entry, bytes]]) -> None:
    beside, cached = sides
    fresh = {name for name, _, _ in blocks}
    for side in (beside, cached) if _writable(os.path.dirname(beside)) else (cached,):
        old = {name: e for name, e in index_file.read_footer(side).items() if name not in fresh}
        try:
            return index_file.write(side, blocks, keep=old)
        except OSError:
            if side == cached:
                raise
