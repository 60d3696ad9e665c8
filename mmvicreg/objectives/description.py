"""An objective as JSON values: classes, fields, pairs and weights, so that two objectives can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from mmvicreg.objectives.objective import Objective


def describe_objective(objective: Objective, views: Sequence[str]) -> dict[str, Any]:
    """Alignments by pair of ``views`` and regularizers by branch, each with its class and every field.

    An alignment that several pairs share is described at the first pair; the others refer to it. Learned or
    remembered tensors appear with their shapes, single numbers with their initial value.
    """
    seen: dict[int, str] = {}
    alignments = {
        "-".join(pair): _describe(alignment, seen, f"alignments.{'-'.join(pair)}")
        for pair, alignment in objective.alignments(tuple(views)).items()
    }
    return {
        "class": _name(type(objective)),
        "alignments": alignments,
        "regularizers": {name: _describe(each, {}, name) for name, each in objective.regularizers.items()},
    }


def classes_of(objective: Objective, views: Sequence[str]) -> set[type]:
    """The classes that the objective is made of."""
    parts: Iterator[Any] = iter((*objective.alignments(tuple(views)).values(), *objective.modules()))
    return {type(part) for part in (*parts, *objective.regularizers.values())}


def _name(cls: type) -> str:
    """``module:Class`` of this package's; of others the class alone: a script's module is called __main__."""
    return f"{cls.__module__}:{cls.__qualname__}" if cls.__module__.startswith("mmvicreg.") else cls.__name__


def _describe(value: Any, seen: dict[int, str], path: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Tensor):
        return float(value.detach()) if value.numel() == 1 else list(value.shape)
    if isinstance(value, Mapping):
        return {str(key): _describe(item, seen, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(item, seen, f"{path}.{number}") for number, item in enumerate(value)]
    if isinstance(value, type) or (
        callable(value) and not isinstance(value, nn.Module) and not is_dataclass(value)
    ):
        return getattr(value, "__qualname__", type(value).__name__)
    if id(value) in seen:
        return f"the same as {seen[id(value)]}"
    seen[id(value)] = path
    return {"class": _name(type(value)), **_fields(value, seen, path)}


def _fields(value: Any, seen: dict[int, str], path: str) -> dict[str, Any]:
    if isinstance(value, nn.Module):
        plain = {name: item for name, item in vars(value).items() if name[0] != "_" and name != "training"}
        tensors = {**dict(value.named_parameters(recurse=False)), **dict(value.named_buffers(recurse=False))}
        members = {**plain, **tensors, **dict(value.named_children())}
    elif is_dataclass(value):
        members = {item.name: getattr(value, item.name) for item in fields(value)}
    else:
        return {}
    return {name: _describe(item, seen, f"{path}.{name}") for name, item in members.items()}
