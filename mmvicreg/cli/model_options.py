"""Options of every command that loads a model, and the loading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro

if TYPE_CHECKING:
    from mmvicreg.runs.run import Run

Model: TypeAlias = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
"""run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
Shards: TypeAlias = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")]
"""shards, with {000..009} and * expanded"""
Out: TypeAlias = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
"""file or folder to write"""


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

    from mmvicreg.errors import InvalidValueError

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValueError(
            f"--device {device}: not usable on this machine ({reason}); leave it out for the best device there is, or "
            "give cpu"
        ) from None
