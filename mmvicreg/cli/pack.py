"""``mmvicreg pack``: make shards from a folder, a table or a caption file."""

from __future__ import annotations

from mmvicreg.cli.output import Output
from mmvicreg.preparation import pack as packing
from mmvicreg.preparation.pack import PackConfig
from mmvicreg.shards.index import open_index

__all__ = ["PackConfig", "pack"]


def pack(config: PackConfig) -> Output:
    """Pack, and list what was left out and why; status 1 where something was left out."""
    report = packing.pack(config)
    index = open_index(list(report.shards))
    shown = [
        f"{len(report.shards)} shards, {report.samples:,} samples in {config.output}, members {index.suffixes}",
        *report.notices,
    ]
    if report.left_out:
        first = report.left_out[0]
        where = f"row {first.row}, {first.file}" if first.row else first.file
        shown.append(
            f"{len(report.left_out):,} rows or files were left out, see {report.skipped_file}; the first: {where}: "
            f"{first.reason}. Put them right and run the command again with --resume"
        )
    data = {
        "shards": len(report.shards),
        "samples": report.samples,
        "left_out": len(report.left_out),
        "notices": list(report.notices),
        "skipped_file": report.skipped_file,
        "folder": config.output,
    }
    return Output(data, tuple(shown), 1 if report.left_out else 0)
