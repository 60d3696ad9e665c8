"""Claim: canonical correlation analysis of two towers' features takes a twentieth of scikit-learn's time and a tenth of
its memory, with the same correlations.

    python benchmarks/closed_form.py --size small     # (8,475; 1280, 384): minutes, nearly all of them scikit-learn's
    python benchmarks/closed_form.py --size large     # (100,000; 2048, 1024)
    python benchmarks/closed_form.py --tiny           # seconds

Ours reads fp32 rows from memory-mapped files as a solve does, block after block, in one pass; scikit-learn's CCA,
cca-zoo's CCA and a plain singular value decomposition of both whitened matrices get fp64 rows, which they need. Each
runs in a process of its own on one core. Memory is what the process grows by (its anonymous resident pages, read every
2 ms from outside) after imports and a first small call; pages of the mapped files, which the kernel drops when it needs
them, do not count, and glibc is told to give freed arrays back at once, so that holes in its heap do not count either.
scikit-learn deflates axis after axis and takes as long for each: ``--components`` of them are asked
for (what all would take is ``time_sklearn_all_axes``, an extrapolation that enters no ratio). A peer that runs longer
than ``--limit`` minutes of its core is ended; its time and memory until then are lower bounds, and it is listed in
``unfinished``.
The error is the largest difference between our correlations and those of the plain decomposition.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

SIZES = {"tiny": (600, 24, 16), "small": (8_475, 1_280, 384), "large": (100_000, 2_048, 1_024)}
PEERS = ("ours", "svd", "cca_zoo", "sklearn")


@dataclass(frozen=True)
class Config:
    """What is measured."""

    size: Literal["small", "large"] = "small"
    """rows and widths of both branches"""
    tiny: bool = False
    """very small matrices, to see that everything runs"""
    components: int = 16
    """axes that scikit-learn is asked for"""
    limit: float = 40.0
    """minutes of one core after which a peer is ended"""
    peers: tuple[str, ...] = PEERS
    """which are run; ours and svd are needed for the error"""
    worker: str = ""
    """run one peer on the files of a folder, as peer:folder; used by the benchmark itself"""


def make(folder: Path, size: tuple[int, int, int]) -> None:
    """Two branches that share 64 hidden variables with correlations of 0.95 to 0.2, written block by block."""
    rows, *widths = size
    random = np.random.default_rng(0)
    shared = min(64, *widths)
    correlation = np.linspace(0.95, 0.2, shared)
    mixing = [random.standard_normal((width, width)) / width**0.5 for width in widths]
    files = [
        np.memmap(folder / f"{name}.f32", np.float32, "w+", shape=(rows, width))
        for name, width in zip("xy", widths, strict=True)
    ]
    for start in range(0, rows, 4096):
        count = min(4096, rows - start)
        hidden = random.standard_normal((count, shared))
        for file, width, matrix in zip(files, widths, mixing, strict=True):
            noise = random.standard_normal((count, width))
            noise[:, :shared] = hidden * correlation**0.5 + noise[:, :shared] * (1 - correlation) ** 0.5
            file[start : start + count] = noise @ matrix + 1
    for file in files:
        file.flush()
    (folder / "size.json").write_text(json.dumps(size))


def ours(x: np.ndarray, y: np.ndarray, components: int) -> np.ndarray:
    """Moments in one pass, then one decomposition."""
    from torch import nn

    from mmvicreg.solvers.canonical import CCA
    from mmvicreg.solvers.statistics.pairing import PairedRows, count_moments
    from mmvicreg.solvers.statistics.space_features import Space
    from mmvicreg.solvers.whitening import Whitening

    numbers = [[row] for row in range(len(x))]
    data = PairedRows({"x": x, "y": y}, {"x": numbers, "y": numbers})
    moments = count_moments(data, {name: Space(name, nn.Sequential()) for name in "xy"})
    return CCA(Whitening(ridge=0.0)).decompose(moments, leading=512).strengths.numpy()


def svd(x: np.ndarray, y: np.ndarray, components: int) -> np.ndarray:
    """Orthonormal bases of both branches, then their product (Björck and Golub 1973)."""
    bases = [np.linalg.svd(each - each.mean(0), full_matrices=False)[0] for each in double(x, y)]
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)


def cca_zoo(x: np.ndarray, y: np.ndarray, components: int) -> np.ndarray:
    """cca-zoo's CCA."""
    from cca_zoo.linear import CCA

    views: list[Any] = [*double(x, y)]
    return _correlations(*CCA(n_components=components).fit(views).transform(views))


def sklearn(x: np.ndarray, y: np.ndarray, components: int) -> np.ndarray:
    """scikit-learn's CCA."""
    from sklearn.cross_decomposition import CCA

    return _correlations(*CCA(n_components=components, max_iter=2000).fit_transform(*double(x, y)))


def double(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Both in fp64, in memory."""
    return [np.array(each, dtype=np.float64) for each in (x, y)]


def _correlations(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(u[:, axis], v[:, axis])[0, 1] for axis in range(u.shape[1])])


def work(peer: str, folder: Path, components: int) -> None:
    """In a process of its own: one line of JSON."""
    rows, *widths = json.loads((folder / "size.json").read_text(encoding="utf-8"))
    x, y = (
        np.memmap(folder / f"{name}.f32", np.float32, "r", shape=(rows, width))
        for name, width in zip("xy", widths, strict=True)
    )
    function = {"ours": ours, "svd": svd, "cca_zoo": cca_zoo, "sklearn": sklearn}[peer]
    small = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    function(small, small[:, :3] + small[:, 1:], 2)  # imports and first calls
    print("ready", flush=True)
    cpu = time.process_time()
    found = function(x, y, components)
    cpu = time.process_time() - cpu
    print(json.dumps({"cpu": cpu, "correlations": found[:64].tolist()}), flush=True)


def measure(peer: str, folder: Path, config: Config) -> dict[str, Any]:
    """One peer in a fresh process; empty where it is not installed or has not enough memory."""
    command = [
        sys.executable,
        __file__,
        "--worker",
        f"{peer}:{folder}",
        "--components",
        str(config.components),
    ]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    found: dict[str, Any] = {}
    if child.stdout.readline() == "ready\n":
        found = watch(child.pid, limit=60 * config.limit)
    finished = found.get("finished", True)
    if not finished:
        child.kill()
    out, err = child.communicate()
    if finished and child.returncode:
        reason = (err.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        print(f"{peer}: did not finish ({reason})", flush=True)
        return {}
    if finished:
        found |= json.loads(out.splitlines()[-1])
    note = "" if finished else f", not finished after {config.limit:g} minutes of one core"
    print(f"{peer}: {found['cpu']:.2f} s of one core, {found['mb']:.1f} MB{note}", flush=True)
    return found


def watch(pid: int, *, limit: float) -> dict[str, Any]:
    """Largest growth of a process's anonymous memory in MB, its processor time in seconds, and whether it ended within
    ``limit`` seconds of processor time."""
    before, cpu_before = anonymous(pid), processor(pid)
    largest, cpu = before, cpu_before
    while (now := anonymous(pid)) >= 0:
        largest, cpu = max(largest, now), processor(pid)
        if cpu - cpu_before > limit:
            return {"mb": (largest - before) / 1024, "cpu": cpu - cpu_before, "finished": False}
        time.sleep(0.002)
    return {"mb": (largest - before) / 1024, "cpu": cpu - cpu_before, "finished": True}


def anonymous(pid: int) -> int:
    """Anonymous resident kB of a process; -1 where it has ended."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), -1)


def processor(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(config: Config) -> None:
    """Measure every peer; the last line is JSON."""
    if config.worker:
        peer, _, folder = config.worker.partition(":")
        work(peer, Path(folder), config.components)
        return
    size = SIZES["tiny" if config.tiny else config.size]
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), size)
        found = {peer: measure(peer, Path(name), config) for peer in config.peers}
    found = {peer: each for peer, each in found.items() if each}
    mine = found["ours"]
    unfinished = [peer for peer, each in found.items() if not each["finished"]]
    summary: dict[str, Any] = {
        "size": size, "components_sklearn": config.components, "unfinished": unfinished
    }  # fmt: skip
    for peer, each in found.items():
        summary |= {f"time_{peer}": each["cpu"], f"memory_mb_{peer}": each["mb"]}
        if peer != "ours":
            summary[f"time_ratio_{peer}"] = each["cpu"] / mine["cpu"]
            summary[f"memory_ratio_{peer}"] = each["mb"] / max(mine["mb"], 1)
    if "sklearn" in found and "sklearn" not in unfinished:
        summary["time_sklearn_all_axes"] = found["sklearn"]["cpu"] / config.components * min(size[1:])
    if "svd" in found and "svd" not in unfinished:
        count = min(len(mine["correlations"]), len(found["svd"]["correlations"]))
        difference = np.subtract(mine["correlations"][:count], found["svd"]["correlations"][:count])
        summary["canonical_correlation_error"] = float(np.abs(difference).max())
    print(json.dumps(summary))


if __name__ == "__main__":
    main(tyro.cli(Config))
