"""Progress bars on long work: how many, how fast, how long still."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """Things a second, over the last seconds."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self.unit}/s", style="cyan")


@contextmanager
def bar(
    title: str, total: int, *, unit: str = "samples", show: bool = True, lines_every: float = 30.0
) -> Iterator[Callable[[int, str], None]]:
    """A bar on standard error; yields ``advance(amount, note)``. In a notebook with ipywidgets it is a widget.

    Where standard error is no terminal (a log file, a job scheduler) it prints a line every ``lines_every``
    seconds instead. ``show`` False draws nothing: every process but one.
    """
    console = Console(stderr=True)
    if not show:
        yield lambda amount, note: None
        return
    widget = console.is_jupyter and find_spec("ipywidgets") is not None
    if not (console.is_terminal or widget):
        yield _lines(console, title, total, unit, lines_every)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, note="")
        yield lambda amount, note: progress.update(task, advance=amount, note=note)


def _lines(console: Console, title: str, total: int, unit: str, every: float) -> Callable[[int, str], None]:
    done = 0
    started = printed = time.monotonic()

    def advance(amount: int, note: str) -> None:
        nonlocal done, printed
        done += amount
        now = time.monotonic()
        if now - printed >= every or done >= total:
            printed = now
            rate = done / max(now - started, 1e-9)
            left = (total - done) / max(rate, 1e-9)
            line = f"{title}: {done:,} of {total:,}, {rate:,.0f} {unit}/s, {left:,.0f} s left  {note}"
            console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)

    return advance
