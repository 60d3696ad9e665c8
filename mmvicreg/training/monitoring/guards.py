"""Guards of training: losses that are not finite, collapse, and processes whose weights differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmvicreg import distributed
from mmvicreg.errors import UserError
from mmvicreg.runs.options import GuardConfig
from mmvicreg.stream.stream import Batch
from mmvicreg.training.monitoring.collapse import CollapseDiagnostics, find_faults
from mmvicreg.training.step import StepOutput


class NonFiniteLossError(UserError, RuntimeError):
    """The loss or the gradient is not finite; the message has every term, the step and the samples."""


class CollapseError(UserError, RuntimeError):
    """A collapse alarm with action "stop", or one more than the run may roll back for."""


class ProcessesDifferError(UserError, RuntimeError):
    """The weights of the processes are no longer equal."""


@dataclass(frozen=True)
class Verdict:
    """What all processes agreed on for this step."""

    finite_loss: bool
    finite_gradient: bool
    signal: int
    """largest signal number that any process received; 0 for none"""
    save: bool


def agree(loss: Tensor, gradient: Tensor, *, signal: int, save: bool) -> Verdict:
    """What any process found, on every process: one small collective and one wait for the device a step."""
    device = loss.device
    flags = torch.stack(
        [~torch.isfinite(loss.detach()), ~torch.isfinite(gradient.detach()).to(device)]
    ).float()
    flags = torch.cat([flags, torch.tensor([float(signal), float(save)], device=device)])
    loss_bad, gradient_bad, number, due = distributed.all_reduce_max(flags).tolist()
    return Verdict(not loss_bad, not gradient_bad, int(number), bool(due))


def explain_non_finite(
    step: int, output: StepOutput, norms: Mapping[str, Tensor], batch: Batch, *, skips: int
) -> str:
    """Every term, the gradient norms of the branches, and the samples to inspect: those whose inputs are not finite,
    else those whose embeddings are not (batch normalization spreads one to all), else the batch.

    Every process calls this.
    """
    mine = (_not_finite(batch.keys, batch.inputs), _not_finite(batch.keys, output.z), list(batch.keys))
    everywhere = distributed.gather_objects(mine)
    inputs, embeddings, keys = ([key for each in everywhere for key in each[part]] for part in range(3))
    which = "samples with inputs" if inputs else "samples with embeddings" if embeddings else "samples"
    which += " that are not finite" if inputs or embeddings else ""
    keys = inputs or embeddings or keys
    listed = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
    values = "\n".join(f"  {name}: {value.item():.6g}" for name, value in output.terms.parts.items())
    slopes = ", ".join(f"{name} {value.item():.4g}" for name, value in norms.items())
    return (
        f"the loss of step {step} is {output.terms.total.item()}:\n{values}\n  gradient norms: {slopes}\n"
        f"  {which}: {listed}\n"
        "lower the learning rate, clip the gradient (--optimizer.max-gradient-norm 1), train in fp32, or let a few "
        f"such steps be skipped (--guard.max-skipped-steps, now {skips}); the last checkpoint is whole"
    )


def _not_finite(keys: Sequence[str], values: Mapping[str, Tensor]) -> list[str]:
    """Keys of the rows in which some view has a value that is not finite."""
    bad = torch.zeros(len(keys), dtype=torch.bool)
    for x in values.values():
        if x.is_floating_point():
            bad |= ~torch.isfinite(x.flatten(1)).all(1).cpu()
    return [key for key, wrong in zip(keys, bad.tolist(), strict=True) if wrong]


@dataclass
class BufferCopies:
    """Copies of the buffers of a module before a step that may be skipped: its batch statistics and queues would not be
    finite either."""

    module: nn.Module
    copies: list[Tensor] = field(default_factory=list)

    @torch.no_grad()
    def capture(self) -> None:
        """Copy the buffers as they are."""
        buffers = list(self.module.buffers())
        if not self.copies:
            self.copies = [buffer.clone() for buffer in buffers]
        else:
            for copy, buffer in zip(self.copies, buffers, strict=True):
                copy.copy_(buffer)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the copies back."""
        for copy, buffer in zip(self.copies, self.module.buffers(), strict=True):
            buffer.copy_(copy)


@dataclass
class Alarms:
    """Counts consecutive checks with a fault, by view or pair."""

    config: GuardConfig
    seen: Counter[str] = field(default_factory=Counter)

    def update(self, diagnostics: CollapseDiagnostics, step: int) -> list[str]:
        """The faults that are alarms now: found by ``patience`` consecutive checks after ``diagnose_after`` steps."""
        if step < self.config.diagnose_after:
            return []
        found = find_faults(diagnostics, self.config)
        self.seen = Counter({name: self.seen[name] + 1 for name in found})
        ripe = [found[name] for name, times in self.seen.items() if times >= self.config.patience]
        if ripe:
            self.clear()
        return ripe

    def clear(self) -> None:
        """Forget earlier checks."""
        self.seen.clear()

    def state_dict(self) -> dict[str, int]:
        """Consecutive checks with a fault, by view or pair."""
        return dict(self.seen)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Put the counts back."""
        self.seen = Counter(state)


@dataclass
class SkippedSteps:
    """How many consecutive steps were skipped because their loss or gradient was not finite."""

    consecutive: int = 0

    def state_dict(self) -> dict[str, int]:
        """The count."""
        return {"consecutive": self.consecutive}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Put the count back."""
        self.consecutive = state["consecutive"]


@dataclass
class Rollbacks:
    """How often the run returned to a checkpoint, and what that made of the learning rate."""

    count: int = 0
    learning_rate_scale: float = 1.0

    def next(self, factor: float) -> Rollbacks:
        """After one more return to a checkpoint."""
        return Rollbacks(self.count + 1, self.learning_rate_scale * factor)

    def state_dict(self) -> dict[str, float]:
        """Count and scale."""
        return {"count": self.count, "learning_rate_scale": self.learning_rate_scale}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Put count and scale back."""
        self.count, self.learning_rate_scale = int(state["count"]), state["learning_rate_scale"]


@torch.no_grad()
def fingerprint(module: nn.Module) -> Tensor:
    """Int64 (parameters,): the sum of the bits of each parameter, every bit pattern weighted by its place.

    0 for parameters that are divided among the processes: they differ by design."""
    return torch.stack(
        [
            torch.zeros((), dtype=torch.int64, device=p.device) if isinstance(p, DTensor) else _hash(p)
            for p in module.parameters()
        ]
    )


def _hash(x: Tensor) -> Tensor:
    flat = x.detach().contiguous().view(-1)
    if flat.element_size() not in (2, 4, 8):
        flat = flat.float()
    words = flat.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]).long()
    place = torch.arange(1, len(words) + 1, device=words.device)
    return (words * (place * 2654435761 % 4294967291)).sum()


def compare_processes(module: nn.Module, step: int) -> None:
    """Raise ProcessesDifferError, naming processes and parameters, if weights are not equal bit for bit."""
    if distributed.world_size() == 1:
        return
    mine = fingerprint(module)
    every = distributed.gather_objects(mine.tolist())
    common = Counter(map(tuple, every)).most_common(1)[0][0]
    if all(tuple(each) == common for each in every):
        return
    ranks = [rank for rank, each in enumerate(every) if tuple(each) != common]
    names = [name for name, _ in module.named_parameters()]
    wrong = {names[i] for rank in ranks for i in range(len(names)) if every[rank][i] != common[i]}
    shown = ", ".join(sorted(wrong)[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
    raise ProcessesDifferError(
        f"after step {step} the weights of process {', '.join(map(str, ranks))} are not those of the others: {shown}. "
        "Something ran on some processes only (a parameter changed by hand, a failing device); start the same "
        "command again: the run continues from its last checkpoint"
    )
