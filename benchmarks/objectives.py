"""Time, peak memory and fp32 error of every regularizer and alignment at one shape.

    python benchmarks/objectives.py            # a CPU: about 2 minutes; --rows, --features to change; --tiny

Forward and backward. The error is of value and gradient, the larger of both, relative to the same code in
fp64; the tests show that code equal to slow fp64 references. Those with a plain form in public code stand
beside it (the references of the tests, which are that code's formulas). The last line is one JSON object:
seconds and errors by method.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from measure import apart, best_times, device, forward_backward, peak_bytes, table
from torch import Tensor
from torch.nn.functional import normalize

from mmvicreg.objectives import alignments as al
from mmvicreg.objectives import regularizers as reg

Function = Callable[[Tensor, Tensor], Tensor]


def regularizer(made: reg.Regularizer) -> Function:
    return lambda a, b: torch.stack(
        [value for n, x in enumerate((a, b)) for value in made.terms(x, seed=n).values()]
    ).sum()


def alignment(made: al.Alignment) -> Function:
    made = made.to(device())

    def total(a: Tensor, b: Tensor) -> Tensor:
        made.to(a.dtype)
        targets = None if made.momentum is None else (a.detach(), b.detach())
        return torch.stack(list(made.terms(a, b, al.PairContext(targets=targets)).values())).sum()

    return total


def plain_barlow_twins(a: Tensor, b: Tensor) -> Tensor:
    a, b = ((x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + 1e-5) for x in (a, b))
    correlation = a.T @ b / len(a)
    on = correlation.diagonal()
    return (1 - on).square().sum() + (correlation.square().sum() - on.square().sum())


def plain_info_nce(a: Tensor, b: Tensor) -> Tensor:
    logits = normalize(a) @ normalize(b).T / 0.07
    labels = torch.arange(len(a), device=a.device)
    entropy = torch.nn.functional.cross_entropy
    return (entropy(logits, labels) + entropy(logits.T, labels)) / 2


def methods(features: int) -> dict[str, Callable[[], Function]]:
    d = features
    return {
        "VICReg": lambda: regularizer(reg.VICReg()),
        "SIGReg": lambda: regularizer(reg.SIGReg()),
        "SlicedWasserstein": lambda: regularizer(reg.SlicedWasserstein()),
        "VISReg": lambda: regularizer(reg.VISReg()),
        "HSIC": lambda: regularizer(reg.HSIC()),
        "Invariance": lambda: alignment(al.Invariance()),
        "Cosine": lambda: alignment(al.Cosine()),
        "BarlowTwins": lambda: alignment(al.BarlowTwins()),
        "BarlowTwins, plain": lambda: plain_barlow_twins,
        "WhitenedMSE": lambda: alignment(al.WhitenedMSE()),
        "InfoNCE": lambda: alignment(al.InfoNCE()),
        "InfoNCE, plain": lambda: plain_info_nce,
        "Sigmoid": lambda: alignment(al.Sigmoid()),
        "MaxHinge": lambda: alignment(al.MaxHinge()),
        "MomentumQueue": lambda: alignment(al.MomentumQueue(width=d, size=4096)),
        "Prediction": lambda: alignment(al.Prediction(widths=(d, d), hidden=(d,))),
        "Prototypes": lambda: alignment(al.Prototypes(width=d)),
    }


def embeddings(rows: int, features: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, rows, features, generator=generator).to(device())
    return drawn[0].clone().requires_grad_(), drawn[1].clone().requires_grad_()


def error(make: Callable[[], Function], views: tuple[Tensor, Tensor]) -> float:
    """Largest relative error of value and gradient, against the same code on fp64 copies of ``views``."""
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)  # predictors, queues and prototypes start alike
        a, b = (x.detach().to(dtype).requires_grad_() for x in views)
        value = make()(a, b)
        slopes = torch.autograd.grad(value, (a, b))
        found.append((value.detach().double().reshape(1), torch.cat(slopes).double()))
    pairs = zip(*found, strict=True)
    return max(float((low - high).norm() / high.norm()) for low, high in pairs)


def peak(name: str, rows: int, features: int) -> int:
    """Peak bytes of one method; for a process of its own."""
    function = methods(features)[name]()
    small = forward_backward(function, *embeddings(16, features))
    return peak_bytes(forward_backward(function, *embeddings(rows, features)), warm_up=small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that it runs")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = (32, 16) if options.tiny else (options.rows, options.features)
    made = methods(shape[1])
    views = embeddings(*shape)
    errors = {name: error(make, views) for name, make in made.items()}
    steps = {name: forward_backward(make(), *views) for name, make in made.items()}
    times = best_times(steps, repetitions=3, budget=20)
    lines = []
    for name, seconds in times.items():
        most = apart(peak, name, *shape) / 2**20
        lines.append([name, f"{seconds:.4f}", f"{most:.1f}", f"{errors[name]:.1e}"])
    print(table([f"{shape[0]} x {shape[1]}, two views", "s", "peak MiB", "fp32 error"], lines))
    rounded = {name: {"seconds": round(times[name], 5), "error": errors[name]} for name in times}
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
