"""Batches without needless padding, for encoders that ignore it: attention takes time by the length of its rows.

Used where inputs are encoded without a gradient (embedding, validation, precomputed features). Training keeps the
full length: a row's dropout mask, and with ``torch.compile`` its kernels, would depend on the other texts of its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmvicreg.branches.model import Branch

MULTIPLE = 8
"""Lengths are rounded up to a multiple of it (chosen), so that there are few of them."""
BATCH, CPU_BATCH = 64, 16
"""Rows that are encoded together without a gradient (chosen). Fewer on CPUs: the activations of 64 pictures are too
large for the allocator to keep, and mapping their pages anew in every layer costs as much time as the layers."""
TOLERANCE = 1e-4
"""Largest change of a representation, relative to its largest value, that is rounding."""


def rows_at_once(device: torch.device, size: int = BATCH) -> int:
    """How many rows to encode together on ``device``, where up to ``size`` are allowed."""
    return min(size, CPU_BATCH) if device.type == "cpu" else size


def without_padding(branch: Branch, x: Tensor) -> Tensor:
    """Token ids (n, L) up to the last column that any row uses, in full multiples of 8; other inputs as they are."""
    if not branch.ignores_padding or not len(x):
        return x
    return x[:, : -(-_length(x) // MULTIPLE) * MULTIPLE]


def batches_by_length(
    branch: Branch, values: Sequence[Tensor], size: int
) -> Iterator[tuple[list[int], Tensor]]:
    """``values`` in batches of up to ``size``: the place of each row in ``values``, and the rows (n, ...).

    Where the encoder ignores padding, texts of about one length come together, the longest first; else the places are
    in order.
    """
    order = list(range(len(values)))
    if branch.ignores_padding:
        order.sort(key=lambda place: -_length(values[place][None]))
    for start in range(0, len(order), size):
        places = order[start : start + size]
        yield places, without_padding(branch, torch.stack([values[place] for place in places]))


def _length(x: Tensor) -> int:
    """Columns of ids (n, L) up to the last that is not padding; at least 1."""
    used = (x >= 0).any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1


@torch.no_grad()
def padding_is_ignored(encoder: torch.nn.Module) -> bool:
    """Whether an encoder of token ids gives the same for a row with and without ids below 0 at its end.

    Measured on one row of four ids: some architectures (FNet) mix every column into every other, masked or not.
    """
    short = torch.tensor([[1, 2, 0, 1]])
    padded = torch.nn.functional.pad(short, (0, MULTIPLE), value=-1)
    was_training = encoder.training
    encoder.eval()
    one, other = encoder(short), encoder(padded)
    encoder.train(was_training)
    return bool((one - other).abs().max() <= TOLERANCE * one.abs().max())
