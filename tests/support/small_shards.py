"""A small shard of real samples."""

import tarfile
from pathlib import Path

import mmvicreg as mm


def small_shard(path: Path, samples: int = 64) -> str:
    """A shard of the first samples of the demonstration's: an image, its name and its json each."""
    with tarfile.open(mm.demo_data() / "train-000000.tar") as whole, tarfile.open(path, "w") as small:
        for member in whole.getmembers()[: 3 * samples]:
            small.addfile(member, whole.extractfile(member))
    return str(path)
