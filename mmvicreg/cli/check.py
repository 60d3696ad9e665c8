"""``mmvicreg check``: index shards and report everything wrong with them."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from mmvicreg.cli.output import Output
from mmvicreg.errors import MissingFileError
from mmvicreg.files import write_json
from mmvicreg.preparation import check as checking
from mmvicreg.preparation.check import CheckConfig

__all__ = ["CheckConfig", "check"]


def check(config: CheckConfig) -> Output:
    """Check, write the files asked for, and list what was found; status 1 where something cannot be used."""
    for file in filter(None, (config.report, config.quarantine)):
        if not os.path.isdir(os.path.dirname(os.path.abspath(file))):
            raise MissingFileError(f"{file!r} cannot be written: its folder does not exist; make it first")
    report = checking.check(config)
    if config.report:
        write_json(Path(config.report), {"totals": report.totals(), **asdict(report)})
    if config.quarantine:
        write_json(Path(config.quarantine), checking.exclusions(report))
    data = {
        "shards": len(report.shards),
        "samples": sum(shard.count for shard in report.shards),
        "unusable": report.unusable,
        "totals": report.totals(),
    }
    return Output(data, tuple(checking.lines(report)), 1 if report.unusable else 0)
