"""Writes webdataset shards all or nothing, and the same bytes every time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def refuse_existing(directory: Path, pattern: str, *, overwrite: bool) -> None:
    """Raises FileExistsError where shards named by ``pattern`` are there and may not be replaced.

    Called before the long work, so that nobody waits for an hour to be told.
    """
    old = existing(directory, pattern)
    if old and not overwrite:
        raise FileExistsError(
            f"{directory} already holds {len(old)} shards like {old[0].name}; "
            "pass --overwrite to replace them, or another --out"
        )


def write_shards(
    directory: Path, pattern: str, samples: Iterable[Mapping[str, str | bytes]], *, per_shard: int = 1000
) -> list[Path]:
    """Writes ``samples`` to ``directory/pattern`` (``"train-%06d.tar"``) and returns the shards' paths.

    A sample is webdataset's dictionary: ``__key__`` and suffix to content. Owner, mode and time of every
    member are fixed, so equal samples give equal bytes. The shards appear under their names only when
    the last one is whole; shards of an earlier run under the same pattern are then gone.
    """
    import webdataset

    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".writing-") as part:
        with webdataset.ShardWriter(
            os.path.join(part, pattern), per_shard, verbose=0, encoder=False, mtime=0, user="", group=""
        ) as writer:
            for sample in samples:
                writer.write(dict(sample))
        for old in existing(directory, pattern):
            old.unlink()
        return [file.rename(directory / file.name) for file in sorted(Path(part).iterdir())]


def existing(directory: Path, pattern: str) -> list[Path]:
    """The shards that ``pattern`` names in ``directory``."""
    return sorted(directory.glob(pattern.replace("%06d", "[0-9]" * 6)))
