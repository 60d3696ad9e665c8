"""The shard index: which shards there are, how many samples each holds, and where their members lie.

Shards are plain webdataset tars, as webdataset, open_clip and img2dataset write them; nothing is converted. The first
opening reads the headers of every shard and a sample of its content, and writes an index file beside the shards, or in
the user's cache folder if theirs is not writable. Later openings compare sizes and modification times only.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from braceexpand import braceexpand

from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.progress import bar
from mmvicreg.shards import index_file
from mmvicreg.shards.content import WHOLE
from mmvicreg.shards.index_file import Entry, FreshTable
from mmvicreg.shards.locations import file_name, identity, index_paths, is_remote, redact
from mmvicreg.shards.shard_cache import ShardCache
from mmvicreg.shards.tar import BadShardError, Problem, Scan, scan_file

SHOWN = 10


@dataclass(frozen=True)
class Shard:
    """One tar file. ``index_file`` holds its member table; the samples numbered in ``excluded`` are left out."""

    path: str
    entry: Entry
    index_file: str
    excluded: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of the tar."""
        return self.entry.bytes

    @property
    def count(self) -> int:
        """Samples that are not left out."""
        return self.entry.count - len(self.excluded)

    @property
    def name(self) -> str:
        """File name, without what is secret in a URL."""
        return file_name(self.path)


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
        """Hash of every shard's name, size, member table and content, the same for copies in other places.

        Content is hashed as :mod:`mmvicreg.shards.content` says: whole up to 16 MB a shard, by samples above.
        """
        lines = "\n".join(f"{s.name} {s.bytes} {s.entry.digest} {s.excluded}" for s in self.shards)
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @cached_property
    def cache_key(self) -> str:
        """The fingerprint, and the modification time of every local shard whose content was not hashed whole.

        For what is computed from the data and kept: recomputing after a shard was merely touched costs time, using
        what belongs to other content gives wrong numbers.
        """
        large = (s for s in self.shards if s.bytes > WHOLE and not is_remote(s.path))
        lines = "\n".join([self.fingerprint, *(f"{s.name} {s.entry.stamp}" for s in large)])
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    @cached_property
    def suffixes(self) -> dict[str, int]:
        """Members of the data set by suffix."""
        total: dict[str, int] = {}
        for shard in self.shards:
            for suffix, count in shard.entry.suffixes.items():
                total[suffix] = total.get(suffix, 0) + count
        return dict(sorted(total.items()))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def place(self, number: int) -> tuple[int, int]:
        """(shard, place in that shard) of a sample's number."""
        if not 0 <= number < len(self):
            raise InvalidValueError(f"sample number {number}; the index has samples 0 to {len(self) - 1}")
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        return shard, number - int(self.starts[shard])


def expand(shards: str | Sequence[str]) -> list[str]:
    """Paths of a pattern or of several: ``{000..008}``, ``{a,b}``, ``*``, and ``::`` between patterns."""
    texts = [shards] if isinstance(shards, str) else shards
    patterns = [part for text in texts for part in text.split("::")]
    paths: list[str] = []
    for pattern in patterns:
        if pattern.lstrip().startswith(("pipe:", "|")) or pattern.rstrip().endswith("|"):
            raise InvalidValueError(
                f"shards {redact(pattern)!r} would run a shell command, which is refused: give a path or a URL "
                "(https://, s3://, ...), or download the shards first"
            )
        for path in braceexpand(os.path.expanduser(pattern)):
            found = _matching(path)
            if os.path.isdir(path):
                raise InvalidValueError(
                    f"{path!r} is a folder; name the shards in it: {os.path.join(path, '*.tar')}"
                )
            if not found:
                raise MissingFileError(f"no shard matches {redact(path)!r}{_nearby(path)}")
            paths += found
    if not paths:
        raise MissingFileError(f"no shard matches {redact(str(shards))!r}")
    # The samples of a link such as latest.tar would count twice.
    files = Counter(identity(path) if is_remote(path) else os.path.realpath(path) for path in paths)
    repeated = [name for name, count in files.items() if count > 1]
    if repeated:
        raise InvalidValueError(
            f"{len(repeated)} shards are listed twice, the first is {redact(repeated[0])}; list each once"
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


def _writable(folder: str) -> bool:
    """Whether files may be made there; for root, who may everywhere, a read-only folder is not writable."""
    return os.path.isdir(folder) and bool(os.stat(folder).st_mode & 0o222) and os.access(folder, os.W_OK)


def stat_of(path: str) -> tuple[int, str]:
    """(bytes, modification time in ns) of a local file; (-1, "") if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, ""
    return status.st_size, str(status.st_mtime_ns)


def _known(paths: Sequence[str]) -> dict[str, Shard]:
    """The shards among ``paths`` whose entry in an index file still matches the file."""
    footers: dict[str, dict[str, Entry]] = {}
    known = {}
    for path in paths:
        for file in index_paths(path):
            if file not in footers:
                footers[file] = index_file.read_footer(file)
            entry = footers[file].get(file_name(path))
            if entry is not None and (is_remote(path) or (entry.bytes, entry.stamp) == stat_of(path)):
                known[path] = Shard(path, entry, file)
                break
    return known


def open_index(
    shards: str | Sequence[str], *, exclude: str | None = None, shard_cache: ShardCache | None = None
) -> ShardIndex:
    """The index of the shards of a pattern (braces, globs, ``::`` between patterns) or of a sequence of them.

    ``exclude``: a list that ``mmvicreg check --quarantine`` wrote; what it names is left out, and the fingerprint
    depends on it. Remote shards (https://, s3://, ...) are downloaded whole into ``shard_cache`` to be indexed; a run
    checks that they are still the indexed ones when it downloads them.
    Raises FileNotFoundError if a pattern matches nothing or a shard is missing, BadShardError (a ValueError) with
    what is wrong if a shard is damaged, and ValueError for folders, shell commands and repeated shards.
    """
    left_out, samples = read_exclusions(exclude)
    paths = [path for path in expand(shards) if file_name(path) not in left_out]
    known = _known(paths)
    missing = [p for p in paths if p not in known]
    if missing:
        scanned = list(_scan_all(missing, shard_cache or ShardCache()))
        refuse([problem for _, found, _, _ in scanned for problem in found.problems])
        save_tables(
            {
                path: FreshTable(file_name(path), size, str(mtime), partial(index_file.pack_table, found))
                for path, found, size, mtime in scanned
            }
        )
        known |= _known(missing)
        lost = [p for p in missing if p not in known]
        if lost:
            raise BadShardError(
                f"{redact(lost[0])} changed while it was indexed; wait until it is written, then open it again"
            )
    index = ShardIndex(tuple(_without(known[p], samples) for p in paths))
    if not len(index):
        raise BadShardError(f"the {len(paths)} shards of {redact(str(shards))!r} hold no samples")
    return index


def read_exclusions(path: str | None) -> tuple[frozenset[str], dict[str, list[str]]]:
    """(names of shards, keys of samples by name of shard) to leave out; nothing if ``path`` is None."""
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
    table = index_file.read_table(shard.index_file, shard.entry)
    return replace(shard, excluded=tuple(i for i, key in enumerate(table.keys) if key in keys))


def _scan_all(paths: Sequence[str], shard_cache: ShardCache) -> Iterator[tuple[str, Scan, int, int]]:
    """Scan shards on a few threads (a positioned read waits for storage); a bar appears after 2 seconds."""

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


def save_tables(fresh: Mapping[str, FreshTable]) -> None:
    """Add freshly scanned shards, by path, to their index files; each file is written once."""
    by_file: dict[tuple[str, str], list[FreshTable]] = {}
    for path, table in fresh.items():
        by_file.setdefault(index_paths(path), []).append(table)
    for (beside, cached), tables in by_file.items():
        if _writable(os.path.dirname(beside)):
            try:
                index_file.add(beside, tables)
                continue
            except OSError:
                if beside == cached:
                    raise
        index_file.add(cached, tables)
