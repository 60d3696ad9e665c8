"""Which layers of two towers see the same neighbours: mutual nearest neighbours over layers (Huh et al. 2024, arXiv
2405.07987).

n rows of a batch, T tokens, E width of a layer, N samples, L and M layers of two towers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmvicreg.branches.model import Model
from mmvicreg.shards.index import ShardIndex
from mmvicreg.solvers.diagnosis import FEWEST, NEIGHBOURS
from mmvicreg.stream.evaluation_items import EvaluationItem, evaluation_items
from mmvicreg.stream.reader import Reader

SAMPLES = 1000
"""Samples whose layers are compared, in blocks spread over the data."""
BLOCK = 50


@dataclass(frozen=True)
class LayerAlignment:
    """Of two towers: names of their layers in the order of the forward pass, the last entry the representation itself,
    and ``shared`` (L, M), the fraction of the 10 nearest neighbours that both have in common."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    shared: np.ndarray
    samples: int

    @property
    def best(self) -> tuple[str, str, float]:
        """The two layers that share most, and how much."""
        row, column = np.unravel_index(int(self.shared.argmax()), self.shared.shape)
        return self.first[row], self.second[column], float(self.shared[row, column])

    @property
    def chance(self) -> float:
        """What unrelated layers share."""
        return min(NEIGHBOURS, self.samples - 1) / max(self.samples - 1, 1)


def layers_of(encoder: nn.Module) -> dict[str, nn.Module]:
    """The layers of an encoder by name: the members of its longest list or sequence of modules; empty where none has
    two."""
    found: dict[str, nn.Module] = {}
    for name, module in encoder.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > max(len(found), 1):
            found = {f"{name}.{number}".lstrip("."): each for number, each in enumerate(module)}
    return found


def pooled(output: object, inputs_n: Tensor) -> Tensor | None:
    """What a layer gives as (n, E): the mean over pixels (n, E, H, W) or over tokens (n, T, E), without padding where
    the inputs are token ids; None for other outputs."""
    first = output[0] if isinstance(output, tuple) else output
    if not isinstance(first, Tensor) or len(first) != len(inputs_n) or not first.is_floating_point():
        return None
    if first.dim() == 4:
        return first.mean((2, 3))
    if first.dim() == 3:
        if inputs_n.dtype == torch.int64 and inputs_n.shape == first.shape[:2]:
            real = (inputs_n >= 0).to(first).unsqueeze(-1)
            return (first * real).sum(1) / real.sum(1).clamp(min=1)
        return first.mean(1)
    return first if first.dim() == 2 else None


@torch.inference_mode()
def layer_representations(encoder: nn.Module, inputs_N: Tensor, *, batch_size: int = 64) -> dict[str, Tensor]:
    """Representations (N, E) of every layer, fp32 on the CPU, and ``representation``, what the encoder gives."""
    outputs: dict[str, list[Tensor]] = {}
    batch = inputs_N[:0]

    def keep(name: str, module: nn.Module, arguments: object, output: object) -> None:
        value = pooled(output, batch)
        if value is not None:
            outputs.setdefault(name, []).append(value.float().cpu())

    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in layers_of(encoder).items()]
    try:
        for start in range(0, len(inputs_N), batch_size):
            batch = inputs_N[start : start + batch_size]
            outputs.setdefault("representation", []).append(encoder(batch).float().cpu())
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: torch.cat(parts) for name, parts in outputs.items()}
    last = found.pop("representation")
    return {name: each for name, each in found.items() if len(each) == len(inputs_N)} | {
        "representation": last
    }


def compare_layers(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> LayerAlignment:
    """Neighbours that every layer of one tower shares with every layer of the other; row i of all is sample i."""
    one, other = ([_neighbours(rows) for rows in layers.values()] for layers in (first, second))
    shared = [[float((a[:, :, None] == b[:, None, :]).any(2).float().mean()) for b in other] for a in one]
    samples = len(next(iter(first.values())))
    return LayerAlignment(tuple(first), tuple(second), np.array(shared), samples)


def _neighbours(rows_NE: Tensor) -> Tensor:
    x = normalize(rows_NE, dim=1)
    return (x @ x.T).fill_diagonal_(-2.0).topk(min(NEIGHBOURS, len(x) - 1), dim=1).indices


def align_layers(
    model: Model, readers: Mapping[str, Reader], index: ShardIndex, *, device: str = "cpu"
) -> LayerAlignment | None:
    """Compare the layers of the two branches that ``readers`` names, on at most 1,000 samples that have both; None
    where fewer than 8 have."""
    blocks = -(-len(index) // BLOCK)
    chosen = np.unique(np.linspace(0, blocks - 1, min(blocks, SAMPLES // BLOCK)).astype(int)).tolist()
    values: dict[str, dict[int, Tensor]] = {name: {} for name in readers}
    for number in chosen:
        stop = min(len(index), BLOCK * (number + 1))
        for item in evaluation_items(index, readers, start=BLOCK * number, stop=stop):
            if isinstance(item, EvaluationItem):
                values[item.view].setdefault(item.number, item.value)
    both = sorted(set.intersection(*(set(each) for each in values.values())))
    if len(both) < FEWEST:
        return None
    found = []
    for name, each in values.items():
        inputs = torch.stack([each[number] for number in both]).to(device)
        encoder = model.branch_named(name).encoder.to(device).eval()
        found.append(layer_representations(encoder, inputs))
    return compare_layers(*found)
