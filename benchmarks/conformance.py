"""Writes docs/conformance.md: every objective on 1, 2 and 4 processes against a slow fp64 reference.

    python benchmarks/conformance.py           # about 2 minutes on two CPU cores
    python benchmarks/conformance.py --tiny --page FILE    # seconds: three objectives, at most 2 processes

Value and gradient error of every regularizer and alignment x {1, 2, 4 processes} x {fp32, bf16 autocast} x
{all rows present, some missing, none on one process}; beside them peers that are installed, run as their
users run them: their loss on each process, gradients averaged as DDP does. The last line is JSON: the largest error
of all objectives by precision.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from measure import table
from torch import Tensor

from mmvicreg import distributed

ROOT = Path(__file__).parent.parent

from mmvicreg.objectives.alignments import PairContext
from mmvicreg.testing.cases import ALIGNMENTS, REGULARIZERS
from mmvicreg.testing.comparison import process_rows, relative_error, weighted_sum
from mmvicreg.testing.processes import pool

ROWS: dict[int, list[tuple[int, ...]]] = {
    1: [(64,)],
    2: [(32, 32), (40, 0)],
    4: [(16, 16, 16, 16), (20, 0, 13, 7)],
}
WIDTH = 12
Result = tuple[float, list[Tensor]]


def case_kind(name: str) -> str:
    return "regularizer" if name in REGULARIZERS else "alignment"


def views_of(name: str, counts: tuple[int, ...]) -> list[list[Tensor]]:
    if name in REGULARIZERS:
        return process_rows(counts, WIDTH)
    return process_rows(counts, ALIGNMENTS[name].width, views=2)


def goals(views: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stand-ins for the momentum branches' embeddings, the same in every precision."""
    a, b = (x.detach().to(torch.promote_types(x.dtype, torch.float32)) for x in views)
    return a * 0.9 + 0.1, b * 0.9 - 0.1


def evaluate(name: str, views: list[Tensor], *, exact: bool) -> Result:
    """Weighted sum of the terms and the gradients to the views; ``exact`` by the reference."""
    leaves = [x.clone().requires_grad_() for x in views]
    with torch.autocast("cpu", torch.bfloat16, enabled=leaves[0].dtype == torch.bfloat16):
        if name in REGULARIZERS:
            made = REGULARIZERS[name].make()
            terms = REGULARIZERS[name].reference(leaves[0], 3) if exact else made.terms(leaves[0], seed=3)
            total = weighted_sum(terms, made.weights())
        else:
            torch.manual_seed(5)
            case = ALIGNMENTS[name]
            wide = torch.promote_types(leaves[0].dtype, torch.float32)
            alignment = case.make().to(wide)
            targets = None if alignment.momentum is None else goals(leaves)
            if exact:
                terms = case.reference(alignment, leaves[0], leaves[1], 3, targets)
            else:
                terms = alignment.terms(leaves[0], leaves[1], PairContext(3, targets))
            total = weighted_sum(terms, alignment.weights())
    total.backward()
    return total.item(), [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]


def own(name: str, counts: tuple[int, ...], dtype: torch.dtype) -> Result:
    return evaluate(
        name, [view[distributed.rank()].to(dtype) for view in views_of(name, counts)], exact=False
    )


def errors(results: list[Result], exact: Result) -> tuple[float, float]:
    """Relative error of the value on the worst process, and of the gradient after averaging."""
    value = max(abs(found - exact[0]) / (abs(exact[0]) or 1.0) for found, _ in results)
    found = torch.cat([torch.cat([g[v] for _, g in results]).flatten() for v in range(len(exact[1]))])
    gradient = relative_error(found / len(results), torch.cat([g.flatten() for g in exact[1]]))
    return value, gradient


def cell(found: tuple[float, float]) -> str:
    return f"{found[0]:.0e} / {found[1]:.0e}"


def columns(most: int) -> list[tuple[int, tuple[int, ...], torch.dtype]]:
    dtypes = (torch.float32, torch.bfloat16)
    return [
        (size, counts, dtype)
        for size, each in ROWS.items()
        if size <= most
        for counts in each
        for dtype in dtypes
    ]


def measure(names: list[str], most: int) -> dict[str, list[tuple[float, float]]]:
    """Errors of each objective, one pair for each column; on at most ``most`` processes."""
    measured = {}
    for name in names:
        found = []
        for size, counts, dtype in columns(most):
            # bf16 inputs are what they are: the reference sees the same rounded rows.
            views = [torch.cat(view).to(dtype).double() for view in views_of(name, counts)]
            exact = evaluate(name, views, exact=True)
            results = pool(size).run(own, name, counts, dtype)
            found.append(errors(results, exact))
        measured[name] = found
    return measured


def peer_loss(name: str) -> tuple[str, Callable[..., Tensor]]:
    """A peer's loss with its switch for several processes on, and the reference it is meant to equal."""
    from lightly.loss import BarlowTwinsLoss, VICRegLoss

    return {
        "lightly VICRegLoss, gather": ("vicreg", VICRegLoss(gather_distributed=True)),
        "lightly VICRegLoss, default": ("vicreg", VICRegLoss()),
        "lightly BarlowTwinsLoss, gather": ("barlow", BarlowTwinsLoss(5e-3, gather_distributed=True)),
    }[name]


def own_peer(name: str, counts: tuple[int, ...]) -> Result:
    leaves = [
        view[distributed.rank()].clone().requires_grad_() for view in process_rows(counts, WIDTH, views=2)
    ]
    value = peer_loss(name)[1](*leaves)
    value.backward()
    return value.item(), [x.grad for x in leaves if x.grad is not None]


def peers(most: int) -> list[list[str]]:
    """Peers on equal shards of all present rows in fp64, on at most ``most`` processes: they have no other case."""
    if find_spec("lightly") is None:
        return []
    lines = []
    for name in (
        "lightly VICRegLoss, gather",
        "lightly VICRegLoss, default",
        "lightly BarlowTwinsLoss, gather",
    ):
        cells = []
        for counts in [(64,), (32, 32), (16, 16, 16, 16)][: most.bit_length()]:
            whole = [torch.cat(view).requires_grad_() for view in process_rows(counts, WIDTH, views=2)]
            value = peer_loss(name)[1](*whole)
            value.backward()
            exact = (value.item(), [x.grad for x in whole if x.grad is not None])
            results = pool(len(counts)).run(own_peer, name, counts)
            mean = sum(found for found, _ in results) / len(results)  # theirs differ between processes
            cells.append(cell(errors([(mean, gradients) for _, gradients in results], exact)))
        lines.append([name, *cells])
    return lines


def largest(measured: dict[str, list[tuple[float, float]]], most: int) -> dict[str, float]:
    """The largest error of all objectives by precision."""
    worst: dict[str, float] = {}
    for found in measured.values():
        for (_, _, dtype), pair in zip(columns(most), found, strict=True):
            name = f"largest_error_{str(dtype).removeprefix('torch.')}"
            worst[name] = max(worst.get(name, 0.0), *pair)
    return worst


def page(measured: dict[str, list[tuple[float, float]]], most: int) -> str:
    """The text of docs/conformance.md."""
    headings = ["objective"]
    headings += [
        f"{s} x {'+'.join(map(str, c))} {str(d).removeprefix('torch.')}" for s, c, d in columns(most)
    ]
    lines = [[f"{case_kind(name)} `{name}`", *map(cell, found)] for name, found in measured.items()]
    body = table(headings, lines)
    sizes = ["1 process", "2 processes", "4 processes"][: most.bit_length()]
    beside = table(["peer, fp64", *sizes], peers(most))
    return f"""# Conformance

Written by `python benchmarks/conformance.py`. Each cell is the relative error of the value (worst process)
and of the gradient (averaged over processes, as DDP does) against a slow fp64 reference on the whole batch,
which sees the same inputs, rounded to bf16 where they are. Columns: processes x rows on each, precision.
Shards have different distributions. bf16: embeddings in bf16 under autocast; the value is computed in fp32,
and the gradient is returned in bf16, whose rounding is about 2e-3. Predictors are networks and run in bf16.

{body}

## Peers

The same shards, all rows present, against the peer's own code on one process with the whole batch; the value
is the mean over processes, because theirs differ.

{beside}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="three objectives on at most two processes")
    parser.add_argument(
        "--page", type=Path, help="the file to write; docs/conformance.md, and none with --tiny"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    most = 2 if options.tiny else max(ROWS)
    measured = measure(
        ["vicreg", "sigreg", "info_nce"] if options.tiny else [*REGULARIZERS, *ALIGNMENTS], most
    )
    text = page(measured, most)
    page_file = options.page or (None if options.tiny else ROOT / "docs" / "conformance.md")
    if page_file:
        page_file.write_text(text)
    print(text)
    print(json.dumps(largest(measured, most)))


if __name__ == "__main__":
    main()
