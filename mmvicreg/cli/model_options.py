"""Options of every command that loads a model, and the loading; the ranges of all commands' numbers."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tyro

from mmvicreg.errors import InvalidValueError, WrongOptionError, first_line

if TYPE_CHECKING:
    from mmvicreg.runs.run import Run

Model: TypeAlias = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
"""run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
Shards: TypeAlias = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")]
"""shards, with {000..009} and * expanded"""
Out: TypeAlias = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
"""file or folder to write"""

AT_LEAST = {
    **dict.fromkeys(("threads", "k", "epochs", "batch_size", "max_pixels", "quality", "permutations"), 1),
    **dict.fromkeys(("landmarks", "width"), 1),
    **dict.fromkeys(("processes", "folds", "samples", "shown", "size", "min_side", "max_caption", "seed"), 0),
    **dict.fromkeys(("encoder_rate", "head_rate", "weight_decay", "flip", "resize", "megabytes", "port"), 0),
}
"""The least value of an option, which means the same in every command that has it."""
AT_MOST = {"fraction": 1, "flip": 1, "quality": 100, "port": 65535}
ABOVE = {"fraction": 0, "ridge": 0}
FIGURES = (".png", ".svg", ".pdf")
"""Formats of figures, by the suffix of the file."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which weights of a run, where they are used, and the recipe that defines its modalities."""

    step: int | Literal["best"] | None = None
    """checkpoint of a run: its step, or best (see --best-metric of training); the newest if not given"""
    average: bool = False
    """use the moving average of the weights, where the run kept one (--ema-decay)"""
    device: str = ""
    """cpu, cuda, ...; empty for a GPU where there is one"""
    threads: int = 2
    """threads that read and decode"""
    recipe: str | None = None
    """recipe file that defines the run's own modalities; it is executed"""

    def load(self, source: str) -> Run:
        """The model named ``source`` with the chosen weights."""
        from mmvicreg.interop.loading import load

        check_device(self.device)
        return load(source, recipe=self.recipe, step=self.step, average=self.average)


def check_device(device: str) -> None:
    """Raise InvalidValueError where ``device`` is no device of this machine."""
    if not device:
        return
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise InvalidValueError(
            f"--device {device}: not usable on this machine ({reason}); leave it out for the best device there is, or "
            "give cpu"
        ) from None


def named_splits(data: tuple[str, ...]) -> dict[str, str]:
    """``NAME=SHARDS`` as it says; ``SHARDS`` by the file name's stem. Raises WrongOptionError for a name twice."""
    splits: dict[str, str] = {}
    for entry in data:
        name, equals, shards = entry.partition("=")
        if not equals or "/" in name or "~" in name or os.path.exists(entry):  # a path may hold a = too
            name, shards = Path(entry).name.split(".")[0].rstrip("-*{}0123456789") or "data", entry
        if name in splits:
            raise WrongOptionError(
                f"two splits are called {name!r}; name them: --data first=... second=... (or put the "
                "pattern in quotes, if the shell has expanded one)"
            )
        splits[name] = shards
    return splits


def check_figure(path: str) -> None:
    """Raise WrongOptionError where ``--out`` is given and is no name of a figure."""
    if path and Path(path).suffix not in FIGURES:
        raise WrongOptionError(
            f"--out {path}: expected a picture, .png, .svg or .pdf; a page of runs is report"
        )


def check_ranges(config: Any) -> None:
    """Raise WrongOptionError for a number of a command's options outside its range."""
    for name, value in vars(config).items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        least, most, above = (
            AT_LEAST.get(name, -math.inf),
            AT_MOST.get(name, math.inf),
            ABOVE.get(name, -math.inf),
        )
        if not least <= value <= most or not (value > above or above == -math.inf):
            bounds = [f"above {above}"] if name in ABOVE else [f"at least {least}"]
            bounds += [f"at most {most}"] if name in AT_MOST else []
            option = name.replace("_", "-")
            raise WrongOptionError(f"--{option} is {value}; expected a number {' and '.join(bounds)}")
