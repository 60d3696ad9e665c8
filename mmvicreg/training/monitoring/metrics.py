"""Per-step metrics, and the line of the log that they become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.training.data import data_counts, write_summary
from mmvicreg.training.monitoring.collapse import CollapseDiagnostics
from mmvicreg.training.monitoring.throughput import memory, peak_flops
from mmvicreg.training.optimizer import total_norm
from mmvicreg.training.state import Training
from mmvicreg.training.step import StepOutput


@dataclass(frozen=True)
class StepMetrics:
    """What one step gives the log; on the device until then."""

    output: StepOutput
    gradient_norms: dict[str, Tensor]
    present: dict[str, Tensor]


def log_line(
    training: Training,
    metrics: StepMetrics,
    *,
    diagnostics: CollapseDiagnostics | None,
    validation: Mapping[str, float],
) -> dict[str, Any]:
    """Unweighted terms, present rows, norms, learning rates, throughput and sample counts so far; every process calls
    this."""
    counts = torch.tensor([float(rows.sum()) for rows in metrics.present.values()])
    counts = distributed.all_reduce_sum(counts.to(training.accelerator.device))
    terms, norms = metrics.output.terms, metrics.gradient_norms
    line: dict[str, Any] = {
        "step": training.step,
        "epoch": training.consumed / training.plan.samples,
        "samples": training.consumed,
        "total": terms.total.item(),
        "terms": {name: value.item() for name, value in terms.parts.items()},
        "present": dict(zip(metrics.present, counts.int().tolist(), strict=True)),
        "gradient_norm": total_norm(norms).item(),
        "gradient_norms": {name: norm.item() for name, norm in norms.items()},
        "learning_rate": _learning_rates(training.optimizer),
        "data": data_counts(training.plan, training.step, training.sample_counts.sum()),
    }
    if diagnostics is not None:
        line["embeddings"] = diagnostics.to_json()
    if validation:
        line["validation"] = dict(validation)
    speed = training.clock.read()
    line |= {**speed, **memory(training.accelerator.device)}
    if training.flops:
        config, device = training.config, training.accelerator.device
        peak = peak_flops(config.peak_tflops, device, config.precision) * training.accelerator.num_processes
        line["mfu"] = speed["samples_per_second"] * training.flops / peak
    return line


def conclude(training: Training) -> None:
    """Write and print what happened to the samples; every process calls this."""
    counts = training.sample_counts.sum()
    if not training.accelerator.is_main_process:
        return
    try:
        training.logger.say(write_summary(training.folder, training.plan, training.step, counts=counts))
    except OSError as error:  # a full disk does not cost the run its last checkpoint
        training.logger.event(training.step, "disk", f"data.json cannot be written: {error}")


def _learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The largest learning rate of each branch: that of its last layers."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        rates[group["name"]] = max(rates.get(group["name"], 0.0), group["lr"])
    return rates
