"""Claim: a column-parallel last layer moves fewer bytes than DDP's gradient where batch < width, roughly.

    python benchmarks/column_parallel.py       # seconds on two CPU cores; --tiny for smaller ones

Counts, on real gloo processes, the bytes each hands to collectives in a step of one last layer, forward and
backward, as DDP (the all-reduce of its gradient) and divided. The last line is JSON: ``bytes_ratio_R``,
DDP's over ours at --rows and --features on R processes, both as a ring moves them.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
import torch.distributed as dist
from measure import table
from torch import nn

from mmvicreg import Branch, Model, distributed
from mmvicreg.branches.column_parallel import split_projectors
from mmvicreg.testing.processes import pool


def count(rows: int, features: int) -> int:
    """Bytes that leave this process: of ``rows`` over all processes, through (features, features)."""
    model = Model(
        {"a": Branch(nn.Identity(), nn.Sequential(nn.Linear(features, features, bias=False)))}, {"a": "a"}
    )
    split_projectors(model, torch.device("cpu"))
    h = torch.randn(rows // distributed.world_size(), features, requires_grad=True)
    sent = 0
    real = dist.all_gather, dist.all_to_all_single, dist.all_reduce

    def gather(out: list[torch.Tensor], x: torch.Tensor) -> object:
        nonlocal sent
        sent += x.nbytes * (len(out) - 1)
        return real[0](out, x)

    def exchange(out: torch.Tensor, x: torch.Tensor, *splits: Any) -> object:
        nonlocal sent
        sent += x.nbytes - x.nbytes // len(x) * splits[1][dist.get_rank()]
        return real[1](out, x, *splits)

    def reduce(x: torch.Tensor) -> object:
        nonlocal sent
        sent += 2 * x.nbytes * (dist.get_world_size() - 1) // dist.get_world_size()
        return real[2](x)

    dist.all_gather, dist.all_to_all_single, dist.all_reduce = gather, exchange, reduce  # type: ignore[assignment]
    try:
        model.branch("a")(h).z.square().sum().backward()
    finally:
        dist.all_gather, dist.all_to_all_single, dist.all_reduce = real
    return sent


def predicted(rows: int, features: int, size: int) -> tuple[float, float]:
    """(DDP's, ours) fp32: 2 D² against, each way, rows gathered or scattered and rows exchanged."""
    fraction = 4 * (size - 1) / size
    return 2 * fraction * features**2, 2 * fraction * rows * features * (1 + 1 / size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.rows, options.features = 16, 32
    lines, ratios = [], {}
    for size in (2,) if options.tiny else (2, 4):
        ddp, ours = predicted(options.rows, options.features, size)
        counted = max(pool(size).run(count, options.rows, options.features))
        cells = [ddp / 1e6, ours / 1e6, counted / 1e6, ddp / counted]
        lines.append([str(size), *(f"{cell:.3f}" for cell in cells)])
        ratios[f"bytes_ratio_{size}"] = round(ddp / counted, 3)
    print(
        f"{options.rows} rows in all, weight {options.features} x {options.features}, fp32; MB that leave a process"
    )
    print(table(["processes", "DDP", "divided, predicted", "divided, counted", "ratio"], lines))
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
