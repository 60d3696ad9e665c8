"""Claim: `mmvicreg check` takes time in proportion to the number of shards, the first time and again.

    python benchmarks/check.py                # 1,000 and 4,000 shards of one tiny sample: about a minute on one core
    python benchmarks/check.py --tiny         # seconds

One process, one index file for all shards, the cache folder fresh; processor time, so that other users of the machine
do not count. The last line is JSON: seconds a shard for each, and their ratios (1 is linear, 4 would be quadratic).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path

from measure import table

from mmvicreg.preparation.check import CheckConfig, check


def write_shards(folder: Path, count: int) -> str:
    """Shards of one sample with a caption; their pattern."""
    for number in range(count):
        content = f"caption {number}".encode()
        with tarfile.open(folder / f"s-{number:06d}.tar", "w") as tar:
            member = tarfile.TarInfo(f"{number:06d}.txt")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(folder / "s-*.tar")


def seconds(shards: str) -> float:
    """Processor time of one check in this process."""
    before = time.process_time()
    assert check(CheckConfig(shards, processes=1)).unusable == 0
    return time.process_time() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000, help="also checked: four times as many")
    parser.add_argument("--tiny", action="store_true", help="few shards, to see that it runs")
    options = parser.parse_args()
    few = 20 if options.tiny else options.shards
    lines, each = [], {}
    for count in (few, 4 * few):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MMVICREG_CACHE"] = f"{folder}/cache"
            shards = write_shards(Path(folder), count)
            for when in ("first", "again"):
                spent = seconds(shards)
                each[when, count] = spent / count
                lines.append([f"{count:,}", when, f"{spent:.2f}", f"{1e3 * spent / count:.2f}"])
    print(table(["shards", "check", "s", "ms a shard"], lines))
    result = {f"{when}_seconds_a_shard_{count}": round(value, 6) for (when, count), value in each.items()}
    result |= {
        f"{when}_ratio": round(each[when, 4 * few] / each[when, few], 2) for when in ("first", "again")
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
