"""Claim: with R processes each does 1/R of the regularizer's work, where gathered forms repeat all of it.

    python benchmarks/scaling.py               # about 1 minute on two CPU cores
    python benchmarks/scaling.py --docs        # also writes docs/objectives/scaling.md and .png
    python benchmarks/scaling.py --tiny --docs --folder F        # seconds, and writes there

Counts, on real gloo processes, the floating-point operations of matrix products and the bytes handed to
collectives per process, checks the cost model below against them, and lets the model predict the time of
one VICReg branch on 8 to 512 GPUs. The last line is JSON: ``work_ratio_R`` is the work of one of R
processes as a fraction of the work of one alone (1/R is perfect).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from measure import table
from torch.profiler import ProfilerActivity, profile

from mmvicreg import VICReg, distributed
from mmvicreg.objectives.regularizers.covariance import COVARIANCE_STRIP, GRAM_STRIP, gram_is_cheaper
from mmvicreg.testing.processes import pool

ROOT = Path(__file__).parent.parent

SHAPES = [(512, 2048), (2048, 512)]  # one of each form
TINY = [(24, 96), (96, 24)]
FLOPS_FP32, FLOPS_TF32 = 50e12, 350e12  # H100, assumed
BUS_NODE, BUS_FABRIC = 300e9, 40e9  # bytes/s a process, within 8 and beyond, assumed


@dataclass(frozen=True)
class Cost:
    """Of one process: floating-point operations of matrix products, bytes it hands to collectives."""

    flops: float
    bytes: float


def strips(width: int, strip: int) -> float:
    """Elements of the strips of the upper triangle of a width x width matrix."""
    return sum(min(strip, width - start) * (width - start) for start in range(0, width, strip))


def ours(rows: int, features: int, size: int) -> Cost:
    """The forms of ``mmvicreg.objectives.regularizers.covariance``: forward and gradient; bytes in fp32."""
    side, other, strip = (features, rows, COVARIANCE_STRIP)
    if gram_is_cheaper(rows, features):
        side, other, strip = (rows, features, GRAM_STRIP)
    triangle = strips(side, strip)
    square = sum(min(strip, side - start) ** 2 for start in range(0, side, strip))
    # forward: the strips; gradient: the strips and, off their squares, their transposes
    flops = 2 * other * (triangle + 2 * triangle - square) / size
    if size == 1:
        return Cost(flops, 0)
    moved = 2 * rows * features / size if side == rows else 0
    return Cost(flops, 4 * (triangle + moved + 2 * features))


def gathered(rows: int, features: int, size: int) -> Cost:
    """The peers': gather z, D x D with autograd on every process, all-reduce of the gradient."""
    return Cost(6 * rows * features**2, 4 * (rows * features / size + rows * features) * (size > 1))


def count(rows: int, features: int) -> tuple[float, float]:
    """FLOPs and bytes of this process, counted while it runs."""
    own = rows // distributed.world_size()
    generator = torch.Generator().manual_seed(distributed.rank())
    z = torch.randn(own, features, generator=generator).requires_grad_()
    counter = _Bytes()
    with counter, profile(activities=[ProfilerActivity.CPU], record_shapes=True) as trace:
        VICReg().terms(z, seed=0)["covariance"].backward()
    return sum(_flops(event.name, event.input_shapes) for event in trace.events()), counter.bytes


def _flops(operator: str, shapes: list[list[int]]) -> float:
    """Floating-point operations of a matrix product by the shapes of its operands; 0 for any other operator.

    On a CPU ``mmvicreg.numerics`` multiplies by oneDNN, x (n, k) times weight (m, k) transposed, or else by aten.
    """
    if operator == "mkldnn::_linear_pointwise":
        (n, k), (m, _) = shapes[:2]
    elif operator in ("aten::mm", "aten::addmm_"):
        (n, k), (_, m) = shapes[:2] if operator == "aten::mm" else shapes[1:3]
    else:
        return 0.0
    return 2.0 * n * k * m


class _Bytes:
    """Counts the bytes given to the collectives while it is entered."""

    def __enter__(self) -> None:
        self.bytes = 0
        self.real = dist.all_reduce, dist.all_to_all_single
        dist.all_reduce = self._all_reduce  # type: ignore[assignment]
        dist.all_to_all_single = self._all_to_all  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        dist.all_reduce, dist.all_to_all_single = self.real

    def _all_reduce(self, x: torch.Tensor, **settings: Any) -> object:
        self.bytes += x.numel() * x.element_size()
        return self.real[0](x, **settings)

    def _all_to_all(self, out: torch.Tensor, x: torch.Tensor, *splits: Any) -> object:
        self.bytes += x.numel() * x.element_size()
        return self.real[1](out, x, *splits)


def seconds(cost: Cost, size: int, *, flops: float) -> float:
    """Of one branch: products, then collectives (an all-reduce moves its bytes about twice)."""
    return cost.flops / flops + 2 * cost.bytes / (BUS_NODE if size <= 8 else BUS_FABRIC)


def counted(shapes: list[tuple[int, int]], sizes: tuple[int, ...]) -> tuple[str, dict[str, float]]:
    lines, ratios = [], {}
    for rows, features in shapes:
        for size in sizes:
            flops, moved = max(pool(size).run(count, rows, features))
            model = ours(rows, features, size)
            if abs(model.flops / flops - 1) > 0.02:
                raise AssertionError(f"{rows}x{features} on {size}: counted {flops}, model {model.flops}")
            alone = ours(rows, features, 1).flops
            if (rows, features) == shapes[0]:
                ratios[f"work_ratio_{size}"] = flops / alone
            peer = gathered(rows, features, size)
            cells = [f"{flops / 1e9:.3f}", f"{model.flops / 1e9:.3f}", f"{flops / alone:.3f}"]
            cells += [f"{moved / 2**20:.2f}", f"{model.bytes / 2**20:.2f}", f"{peer.flops / 1e9:.1f}"]
            lines.append([f"{rows}x{features}", str(size), *cells])
    headings = ["N x D", "R", "GFLOP counted", "GFLOP model", "fraction of one's"]
    headings += ["MiB counted", "MiB model", "GFLOP gathered form"]
    del ratios["work_ratio_1"]
    return table(headings, lines), ratios


def predicted() -> tuple[str, dict[str, list[float]]]:
    """Milliseconds of one branch, D=8192, global batch 4096, products in bf16 and in fp32."""
    sizes, lines, curves = [8, 16, 32, 64, 128, 256, 512], [], {}
    for label, form in (("gathered", gathered), ("ours", ours)):
        for name, rate in (("fp32", FLOPS_FP32), ("tf32", FLOPS_TF32)):
            times = [1e3 * seconds(form(4096, 8192, size), size, flops=rate) for size in sizes]
            lines.append([f"{label}, {name} products", *(f"{t:.2f}" for t in times)])
            curves[f"{label} ({name})"] = times
    return table(["ms", *(str(size) for size in sizes)], lines), {"R": [float(s) for s in sizes], **curves}


def write_docs(folder: Path, measured: str, prediction: str, curves: dict[str, list[float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, times in curves.items():
        if name != "R":
            axes.loglog(curves["R"], times, "-o" if name.startswith("ours") else "--s", label=name)
    axes.set(
        xlabel="GPUs", ylabel="ms a step, one branch", title="VICReg branch, N = 4096, D = 8192 (predicted)"
    )
    axes.legend(fontsize=8)
    figure.savefig(folder / "scaling.png", dpi=110, bbox_inches="tight")
    text = f"""# Scaling of the regularizer's work

Written by `python benchmarks/scaling.py --docs`.

## Counted on real processes

Per process, forward and gradient; bytes are those handed to collectives.

{measured}

## Predicted

One VICReg branch, global batch 4096, D = 8192. Assumed: 50 (fp32) and 350 (tf32) TFLOP/s, 300 GB/s a GPU
within 8 and 40 GB/s beyond; fp32 on the wire. Not measured on GPUs. Beyond 8 GPUs the collectives are what
is left: their bytes hardly depend on R.

{prediction}

![Predicted time by number of GPUs](scaling.png)
"""
    (folder / "scaling.md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="also write scaling.md and scaling.png")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "docs" / "objectives", help="where --docs writes"
    )
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that it runs")
    options = parser.parse_args()
    measured, ratios = counted(TINY if options.tiny else SHAPES, (1, 2) if options.tiny else (1, 2, 4))
    prediction, curves = predicted()
    print(measured, prediction, sep="\n\n")
    if options.docs:
        write_docs(options.folder, measured, prediction, curves)
    print(json.dumps({name: round(value, 4) for name, value in ratios.items()}))


if __name__ == "__main__":
    main()
