"""Claim: the covariance penalty costs 1/7 to 1/60 of Meta's, exactly the same value and gradient.

    python benchmarks/covariance.py            # a CPU: about 6 minutes; a GPU if there is one

Forward and backward of (1/D) sum of squared off-diagonal covariances, and of whole VICReg, in fp32, against
the three ways it is written in public code, eager and compiled. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from measure import apart, best_times, compiled, device, forward_backward, peak_bytes, table
from torch import Tensor
from torch.nn.functional import mse_loss, relu

from mmvicreg import Invariance, Objective, VICReg, VICRegCoefficients

SHAPES = [(256, 2048), (1024, 1024), (2048, 512), (256, 8192), (2048, 8192)]
TINY = [(16, 48)]
Function = Callable[[Tensor], Tensor]


def meta(z: Tensor) -> Tensor:
    """facebookresearch/vicreg: D x D, its off-diagonal copied, squared in place."""
    rows, features = z.shape
    z = z - z.mean(0)
    covariance = (z.T @ z) / (rows - 1)
    off = covariance.flatten()[:-1].view(features - 1, features + 1)[:, 1:].flatten()
    return off.pow_(2).sum() / features


def masked(z: Tensor) -> Tensor:
    """As lightly writes it: einsum and a boolean mask."""
    rows, features = z.shape
    z = z - z.mean(0)
    covariance = torch.einsum("nd,ne->de", z, z) / (rows - 1)
    return covariance[~torch.eye(features, dtype=torch.bool, device=z.device)].pow(2).sum() / features


def difference(z: Tensor) -> Tensor:
    """The whole minus the diagonal, as in visreg."""
    z = z - z.mean(0)
    covariance = (z.T @ z) / (z.shape[0] - 1)
    return (covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()) / z.shape[1]


def ours(z: Tensor) -> Tensor:
    return VICReg().terms(z, seed=0)["covariance"]


METHODS: dict[str, Function] = {"meta": meta, "masked": masked, "difference": difference, "ours": ours}


def method(name: str, *, tiny: bool = False) -> Function:
    """By name; "NAME compiled" is torch.compile's."""
    function = METHODS[name.removesuffix(" compiled")]
    return compiled(function, tiny=tiny) if name.endswith(" compiled") else function


def meta_vicreg(a: Tensor, b: Tensor) -> Tensor:
    """The published loss, 25 / 25 / 1."""
    hinges = [relu(1 - torch.sqrt((x - x.mean(0)).var(0) + 1e-4)).mean() / 2 for x in (a, b)]
    return 25 * mse_loss(a, b) + 25 * (hinges[0] + hinges[1]) + meta(a) + meta(b)


def our_vicreg(a: Tensor, b: Tensor) -> Tensor:
    weights = VICRegCoefficients.from_meta()
    objective = Objective(
        Invariance(weights.invariance), {"a": weights.regularizer, "b": weights.regularizer}
    )
    here = torch.ones(a.shape[0], dtype=torch.bool)
    branches = {"a": "a", "b": "b"}
    return objective({"a": a, "b": b}, {"a": here, "b": here}, branches=branches, seed=0).total


WHOLE = {"meta VICReg": meta_vicreg, "our VICReg": our_vicreg}


def embeddings(rows: int, features: int, *, number: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(rows, features, generator=generator).to(device()).requires_grad_()


def names(rows: int, features: int) -> list[str]:
    """All peers where they are quick; at the largest shape the one that the claim names."""
    if rows * features**2 > 1e11:
        return ["meta", "meta compiled", "ours"]
    return ["meta", "masked", "difference", "meta compiled", "difference compiled", "ours"]


def errors(rows: int, features: int) -> dict[str, str]:
    """Relative error of value and gradient against fp64."""
    z = embeddings(rows, features)
    exact = z.detach().double().requires_grad_()
    value = difference(exact)
    (gradient,) = torch.autograd.grad(value, exact)
    found = {}
    for name in ("meta", "ours"):
        v = method(name)(z)
        (g,) = torch.autograd.grad(v, z)
        value_error = abs(v.item() / value.item() - 1)
        found[name] = f"{value_error:.0e} / {((g - gradient).norm() / gradient.norm()).item():.0e}"
    return found


def measure(
    rows: int, features: int, repetitions: int, *, tiny: bool
) -> tuple[dict[str, float], dict[str, int]]:
    z = embeddings(rows, features)
    steps = {name: forward_backward(method(name, tiny=tiny), z) for name in names(rows, features)}
    times = best_times(steps, repetitions=repetitions, budget=15)
    peaks = {name: apart(peak, name, rows, features, tiny) for name in steps}
    return times, peaks


def measure_whole(rows: int, features: int) -> dict[str, float]:
    views = embeddings(rows, features), embeddings(rows, features, number=1)
    return best_times({name: forward_backward(f, *views) for name, f in WHOLE.items()}, repetitions=2)


def peak(name: str, rows: int, features: int, tiny: bool) -> int:
    """Peak bytes of one method; for a process of its own."""
    function = method(name, tiny=tiny)
    step = forward_backward(function, embeddings(rows, features))
    # A compiled peer warms up on its own shape, which is what it compiles for.
    small = step if name.endswith("compiled") else forward_backward(function, embeddings(64, 64))
    return peak_bytes(step, warm_up=small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that it runs")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines, summary = [], {}
    for rows, features in TINY if options.tiny else SHAPES:
        times, peaks = measure(rows, features, options.repetitions, tiny=options.tiny)
        exact = errors(rows, features)
        for name in times:
            ratio = [f"{times[name] / times['ours']:.1f}", f"{peaks[name] / max(peaks['ours'], 1):.1f}"]
            cells = [f"{times[name]:.4f}", f"{peaks[name] / 2**20:.0f}", *ratio, exact.get(name, "")]
            lines.append([f"{rows}x{features}", name, *cells])
        shape = f"{rows}x{features}"
        summary[f"time_ratio_{shape}"] = times["meta"] / times["ours"]
        summary[f"memory_ratio_{shape}"] = peaks["meta"] / max(peaks["ours"], 1)
        best = min(seconds for name, seconds in times.items() if name.endswith("compiled"))
        summary[f"time_ratio_{shape}_compiled"] = best / times["ours"]
    large = TINY[0] if options.tiny else (2048, 8192)
    whole, shape = measure_whole(*large), f"{large[0]}x{large[1]}"
    summary[f"time_ratio_vicreg_{shape}"] = whole["meta VICReg"] / whole["our VICReg"]
    for name, seconds in whole.items():
        lines.append([shape, name, f"{seconds:.4f}", "", f"{seconds / whole['our VICReg']:.1f}", "", ""])
    print(table(["N x D", "method", "s", "peak MiB", "time x", "memory x", "error: value / gradient"], lines))
    print(json.dumps({name: round(value, 2) for name, value in summary.items()}))


if __name__ == "__main__":
    main()
