"""Makes the figures of README again: runs the benchmarks, keeps their JSON with commit and date, writes the table.

    python benchmarks/figures.py                    # all: about half an hour on a quiet core
    python benchmarks/figures.py sigreg covariance  # these; the others keep their figures, commits and dates
    python benchmarks/figures.py --tiny --readme COPY --results FILE     # one benchmark at tiny size

The table stands between ``<!-- figures -->`` and ``<!-- /figures -->``; what it is made of is benchmarks/figures.json.
The last line is that file's content.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measure import table

ROOT = Path(__file__).parent.parent
OPEN, CLOSE = "<!-- figures -->", "<!-- /figures -->"
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """A line of the table. ``ours`` is a format of the benchmark's JSON, whose numbers are ratios to the peer."""

    benchmark: str
    work: str
    peer: str
    ours: str


ROWS = (
    Row("covariance", "covariance term, 256 x 8192, forward and backward", "Meta's formula; the best compiled form",
        "{time_ratio_256x8192:.0f}x and {time_ratio_256x8192_compiled:.0f}x faster, "
        "{memory_ratio_256x8192:.0f}x less memory"),
    Row("covariance", "the same, 2048 x 8192", "Meta's formula; compiled",
        "{time_ratio_2048x8192:.1f}x and {time_ratio_2048x8192_compiled:.1f}x faster, "
        "{memory_ratio_2048x8192:.1f}x less memory"),
    Row("sigreg", "SIGReg, N 2048, D 512, K 1024", "the authors' statistic, compiled; eager",
        "{time_ratio_compiled:.1f}x (both compiled), {time_ratio_eager:.0f}x faster; {memory_ratio_eager:.0f}x less "
        "memory"),
    Row("stream", "images a second, 341 x 256 JPEG to 224", "open_clip's loader",
        "{images_per_second_ratio_vs_open_clip:.1f}x, {fraction_of_floor:.0%} of decode and resize alone"),
    Row("stream", "processor time of reading tars", "webdataset", "{read_cpu_ratio_vs_webdataset:.0f}x less"),
    Row("retrieval", "recall of 5,000 images and 25,000 captions", "CLIP_benchmark",
        "{time_ratio_vs_clip_benchmark:.0f}x faster, {memory_ratio_vs_clip_benchmark:.0f}x less memory, the same "
        "numbers"),
    Row("step", "a training step of the same towers (VICReg, VISReg, SIGReg)", "open_clip's loop (InfoNCE)",
        "{samples_per_second_ratio_vicreg:.2f}x, {samples_per_second_ratio_visreg:.2f}x, "
        "{samples_per_second_ratio_sigreg:.2f}x samples a second; {memory_ratio_vicreg:.2f}x less memory"),
)  # fmt: skip
BENCHMARKS = tuple(dict.fromkeys(row.benchmark for row in ROWS))


def measure(name: str, options: tuple[str, ...]) -> dict[str, Any]:
    """The last line of a benchmark, with the commit and the day it was made."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return {"commit": commit(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "result": result}


def commit() -> str:
    """Short id of the commit of this tree, with a mark where files that git knows were changed since."""
    command = ["git", "describe", "--always", "--dirty=+changes", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def cell(row: Row, found: Figures) -> str:
    """What the benchmark measured, in words; a figure that its run left out is named."""
    try:
        return row.ours.format(**found)
    except KeyError as missing:
        return f"not measured ({missing.args[0]})"


def block(results: Mapping[str, dict[str, Any]]) -> str:
    """The table between the markers."""
    lines = []
    for row in ROWS:
        if row.benchmark in results:
            made = results[row.benchmark]
            source = f"`benchmarks/{row.benchmark}.py`, {made['commit']}, {made['date']}"
            lines.append([row.work, row.peer, cell(row, made["result"]), source])
    return table(["same work", "peer", "ours", "made by, at commit, on"], lines)


def put(readme: Path, text: str) -> None:
    """Replace what stands between the markers of ``readme``."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(OPEN)
    _, found, after = rest.partition(CLOSE)
    if not found:
        raise ValueError(f"{readme} has no {OPEN} ... {CLOSE}; put the two lines where the table belongs")
    readme.write_text(f"{before}{OPEN}\n{text}\n{CLOSE}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "benchmarks", nargs="*", metavar="BENCHMARK", help=f"of {', '.join(BENCHMARKS)}; default all"
    )
    parser.add_argument(
        "--peer-python", help="passed to stream.py: the interpreter of open_clip's environment"
    )
    parser.add_argument("--tiny", action="store_true", help="only sigreg, at tiny size, to see that it runs")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "figures.json")
    options = parser.parse_args()
    if unknown := set(options.benchmarks) - set(BENCHMARKS):
        parser.error(
            f"no figure of README comes from {', '.join(sorted(unknown))}; choose of {', '.join(BENCHMARKS)}"
        )
    results = json.loads(options.results.read_text(encoding="utf-8")) if options.results.exists() else {}
    for name in ["sigreg"] if options.tiny else options.benchmarks or BENCHMARKS:
        extra = ("--peer-python", options.peer_python) if name == "stream" and options.peer_python else ()
        results[name] = measure(name, ("--tiny",) if options.tiny else extra)
        options.results.write_text(json.dumps(results, indent=1) + "\n")
        put(options.readme, block(results))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
