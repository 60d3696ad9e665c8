"""The demo shards read with nothing of ours, and the scripts of data/ imported as they run."""

from __future__ import annotations

import importlib
import tarfile
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

DATA = Path(__file__).parents[2] / "data"
SPLITS = ("train", "concepts", "style")


def samples(*shards: Path) -> dict[str, dict[str, bytes]]:
    """Key -> suffix -> bytes."""
    found: dict[str, dict[str, bytes]] = {}
    for shard in shards:
        with tarfile.open(shard) as archive:
            for member in archive:
                key, suffix = member.name.split(".", 1)
                content = archive.extractfile(member)
                assert content is not None and suffix not in found.setdefault(key, {})
                found[key][suffix] = content.read()
    return found


@cache
def demo_samples() -> dict[str, dict[str, dict[str, bytes]]]:
    """Split -> key -> suffix -> bytes of the committed shards."""
    return {split: samples(*sorted((DATA / "demo").glob(f"{split}-*.tar"))) for split in SPLITS}


def load_script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Imports a script of data/, its neighbours on the path as in `python data/NAME.py`."""
    monkeypatch.syspath_prepend(str(DATA))
    return importlib.import_module(name)
