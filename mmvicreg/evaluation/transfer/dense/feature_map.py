"""The last feature map of an image encoder, before it is pooled: (n, E, rows, columns)."""

from __future__ import annotations

from math import isqrt
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError


@runtime_checkable
class _TakesFeatures(Protocol):
    """What timm's models offer."""

    def forward_features(self, x: Tensor) -> Tensor: ...


@torch.inference_mode()
def feature_map(encoder: nn.Module, x: Tensor) -> Tensor:
    """Float features (n, E, rows, columns) of square inputs x (n, C, S, S), as the encoder takes them.

    timm's is what its ``forward_features`` gives; of any other library it is the last output, of any module inside,
    that has more than one place. A map may have its channels first or last; of tokens (n, L, E) the last square number
    is the grid, and what stands before it are class and register tokens. Raises ValueError where there is none.
    """
    if isinstance(encoder, nn.Sequential) and len(encoder) == 2 and isinstance(encoder[1], _TakesFeatures):
        return _as_map(encoder[1].forward_features(encoder[0](x)))
    return _as_map(_last_with_places(encoder, x))


def _last_with_places(encoder: nn.Module, x: Tensor) -> Tensor:
    kept: list[Tensor] = []

    def look(layer: nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Tensor) and (
            (output.ndim == 4 and output.shape[1:].numel() > max(output.shape[1], output.shape[3]))
            or (output.ndim == 3 and output.shape[1] > 3)
        ):
            kept[:] = [output]

    hooks = [layer.register_forward_hook(look) for layer in encoder.modules()]
    try:
        encoder(x)
    finally:
        for hook in hooks:
            hook.remove()
    if not kept:
        raise InvalidValueError(
            f"{type(encoder).__name__} has no feature map: none of its modules gives more than one place"
        )
    return kept[0]


def _as_map(found: Tensor) -> Tensor:
    found = found.float()
    if found.ndim == 4:
        last = found.shape[1] == found.shape[2] != found.shape[3]
        return found.permute(0, 3, 1, 2) if last else found
    side = isqrt(found.shape[1])
    return found[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
