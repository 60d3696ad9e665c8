"""Claim: SIGReg at least 3 times faster than the compiled statistic, in 1/50 of the eager one's memory.

    python benchmarks/sigreg.py                # a CPU: about 2 minutes; a GPU if there is one

Forward and backward in fp32 against the statistic as it is written in public code (all N x K x T phases),
eager and compiled; ours too. The last line is one JSON object, for N=2048, D=512, K=1024.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from measure import apart, best_times, compiled, device, forward_backward, peak_bytes, table
from torch import Tensor

from mmvicreg.objectives.regularizers import SIGReg
from mmvicreg.objectives.regularizers.directions import directions

SHAPES = [(512, 128, 1024), (2048, 512, 1024)]
TINY = [(32, 8, 16)]
NAMES = ["phases", "phases compiled", "ours", "ours compiled"]
TINY_NAMES = ["phases", "phases compiled", "ours"]  # generating code for ours takes half a minute
Function = Callable[[Tensor], Tensor]


def method(name: str, slices: int, *, tiny: bool = False) -> Function:
    """By name. Each draws its directions at every call, as the authors' code does."""
    if name.startswith("ours"):
        regularizer = SIGReg(slices=slices, compiled=name.endswith("compiled"))
        return lambda z: regularizer.terms(z, seed=0)["sigreg"]
    t = torch.linspace(0, 3, 17, device=device())
    normal = torch.exp(-t.square() / 2)
    weights = torch.full_like(t, 2 * 3 / 16)
    weights[0] = weights[-1] = 3 / 16
    weights = weights * normal

    def phases(z: Tensor, directions_KD: Tensor) -> Tensor:
        phase_NKT = (z @ directions_KD.T).unsqueeze(-1) * t
        gap = (phase_NKT.cos().mean(0) - normal).square() + phase_NKT.sin().mean(0).square()
        return (gap @ weights).mean() * z.shape[0]

    statistic = compiled(phases, tiny=tiny) if name.endswith("compiled") else phases
    return lambda z: statistic(z, directions(z, slices=slices, seed=0).float())


def embeddings(rows: int, features: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, features, generator=generator).to(device()).requires_grad_()


def error(name: str, rows: int, features: int, slices: int) -> str:
    """Relative error of value and gradient against fp64."""
    z = embeddings(rows, features)
    exact = z.detach().double().requires_grad_()
    value = SIGReg(slices=slices).terms(exact, seed=0)["sigreg"]
    (gradient,) = torch.autograd.grad(value, exact)
    found = method(name, slices)(z)
    (g,) = torch.autograd.grad(found, z)
    return (
        f"{abs(found.item() / value.item() - 1):.0e} / {((g - gradient).norm() / gradient.norm()).item():.0e}"
    )


def peak(name: str, rows: int, features: int, slices: int, tiny: bool) -> int:
    """Peak bytes of one method; for a process of its own."""
    function = method(name, slices, tiny=tiny)
    step = forward_backward(function, embeddings(rows, features))
    small = step if name.endswith("compiled") else forward_backward(function, embeddings(8, features))
    return peak_bytes(step, warm_up=small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that it runs")
    parser.add_argument("--repetitions", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines, summary = [], {}
    names = TINY_NAMES if options.tiny else NAMES
    for rows, features, slices in TINY if options.tiny else SHAPES:
        z = embeddings(rows, features)
        steps = {name: forward_backward(method(name, slices, tiny=options.tiny), z) for name in names}
        times = best_times(steps, repetitions=options.repetitions)
        peaks = {name: apart(peak, name, rows, features, slices, options.tiny) for name in names}
        for name in names:
            exact = "" if name == "phases compiled" else error(name, rows, features, slices)
            ratios = [f"{times[name] / times['ours']:.1f}", f"{peaks[name] / max(peaks['ours'], 1):.1f}"]
            cells = [f"{times[name]:.4f}", f"{peaks[name] / 2**20:.1f}", *ratios, exact]
            lines.append([f"{rows}, {features}, {slices}", name, *cells])
        summary = {
            "time_ratio_compiled": times["phases compiled"] / times[names[-1]],
            "time_ratio_eager": times["phases"] / times["ours"],
            "time_ratio_compiled_to_eager": times["phases compiled"] / times["ours"],
            "memory_ratio_eager": peaks["phases"] / max(peaks["ours"], 1),
        }
    print(
        table(["N, D, K", "method", "s", "peak MiB", "time x", "memory x", "error: value / gradient"], lines)
    )
    print(json.dumps({name: round(value, 2) for name, value in summary.items()}))


if __name__ == "__main__":
    main()
