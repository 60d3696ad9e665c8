"""``mmvicreg pack``: make shards from a folder, a table or a caption file."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path

from mmvicreg.cli.output import Output
from mmvicreg.files import write_text
from mmvicreg.preparation import pack as packing
from mmvicreg.preparation.pack import PackConfig
from mmvicreg.shards.index import open_index

__all__ = ["PackConfig", "pack"]


def pack(config: PackConfig) -> Output:
    """Pack, and list what was left out and why; status 1 where samples were left out."""
    skipped = packing.pack(config)
    pattern = f"{glob.escape(config.prefix)}-*.tar"
    paths = sorted(glob.glob(os.path.join(glob.escape(config.output), pattern)))
    index = open_index(paths)
    shown = [f"{len(paths)} shards, {len(index):,} samples in {config.output}, members {index.suffixes}"]
    if skipped:
        path = Path(config.output) / f"{config.prefix}-skipped.jsonl"
        write_text(
            path, "".join(json.dumps({"key": key, "reason": reason}) + "\n" for key, reason in skipped)
        )
        shown.append(f"{len(skipped):,} samples were left out, see {path}; the first: {skipped[0]}")
    data = {"shards": len(paths), "samples": len(index), "left_out": len(skipped), "folder": config.output}
    return Output(data, tuple(shown), 1 if skipped else 0)
