"""The numbers of one step, and the line of the log they become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.training.data import account, write_summary
from mmvicreg.training.monitoring.collapse import Looks
from mmvicreg.training.monitoring.throughput import memory, peak_flops
from mmvicreg.training.optimizer import total_norm
from mmvicreg.training.setup import Training
from mmvicreg.training.step import StepOutput


@dataclass(frozen=True)
class StepMetrics:
    """What one step gave, on the device until it is logged."""

    output: StepOutput
    gradient_norms: dict[str, Tensor]
    present: dict[str, Tensor]


def log_line(
    training: Training, numbers: StepMetrics, *, looks: Looks | None, probe: Mapping[str, float]
) -> dict[str, Any]:
    """Every term unweighted, rows present, norms, rates, speed, and what became of the samples so far; every
    process calls this."""
    counts = torch.tensor([float(rows.sum()) for rows in numbers.present.values()])
    counts = distributed.all_reduce_sum(counts.to(training.accelerator.device))
    terms, norms = numbers.output.terms, numbers.gradient_norms
    line: dict[str, Any] = {
        "step": training.step,
        "epoch": training.consumed / training.plan.samples,
        "samples": training.consumed,
        "total": terms.total.item(),
        "terms": {name: value.item() for name, value in terms.parts.items()},
        "present": dict(zip(numbers.present, counts.int().tolist(), strict=True)),
        "gradient_norm": total_norm(norms).item(),
        "gradient_norms": {name: norm.item() for name, norm in norms.items()},
        "learning_rate": _learning_rates(training.optimizer),
        "data": account(training.plan, training.step, training.tally.sum()),
    }
    if looks is not None:
        line["embeddings"] = looks.to_json()
    if probe:
        line["validation"] = dict(probe)
    speed = training.clock.read()
    line |= {**speed, **memory(training.accelerator.device)}
    if training.flops:
        config, device = training.config, training.accelerator.device
        peak = peak_flops(config.peak_tflops, device, config.precision) * training.accelerator.num_processes
        line["mfu"] = speed["samples_per_second"] * training.flops / peak
    return line


def conclude(training: Training) -> None:
    """Write and say what became of the samples; every process calls this."""
    counts = training.tally.sum()
    if training.accelerator.is_main_process:
        training.journal.say(write_summary(training.folder, training.plan, training.step, counts=counts))


def _learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The largest of each branch: that of its last layers."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        rates[group["name"]] = max(rates.get(group["name"], 0.0), group["lr"])
    return rates
