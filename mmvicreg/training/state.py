"""What a training run holds while it trains, and which of it a checkpoint keeps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmvicreg.branches.column_parallel import wrap_whole_parameters
from mmvicreg.branches.moving_average import MovingAverage
from mmvicreg.plan.mixture import Part
from mmvicreg.plan.plan import Cursor, Plan
from mmvicreg.runs import checkpoint
from mmvicreg.runs.checkpoint_writer import CheckpointWriter
from mmvicreg.runs.config import TrainConfig
from mmvicreg.runs.tensors import ModuleState, OptimizerState, ScalerState, TensorState
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.reader import Reader
from mmvicreg.stream.sample_counts import RunCounts
from mmvicreg.training.data import make_plan
from mmvicreg.training.dry_run import dry_run
from mmvicreg.training.monitoring.guards import Alarms, BufferCopies, Rollbacks, SkippedSteps
from mmvicreg.training.monitoring.logger import RunLogger
from mmvicreg.training.monitoring.online_evaluation import Validation
from mmvicreg.training.monitoring.throughput import Clock
from mmvicreg.training.step import Step


class JsonState(Protocol):
    """A part of a run whose state is a few numbers, the same on every process."""

    def state_dict(self) -> dict[str, Any]:
        """As JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put it back."""
        ...


@dataclass
class Training:
    """Everything the training loop works with."""

    config: TrainConfig
    batch_size: int
    """the global batch"""
    accelerator: Accelerator
    parts: tuple[Part, ...]
    """the data sets of the mixture; one if there is no mixture"""
    index: ShardIndex
    """all of them as one index"""
    plan: Plan
    readers: dict[str, Reader]
    """the reader of each view"""
    inner: Step
    """branches and objective"""
    module: nn.Module
    """``inner``, wrapped for several processes"""
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    """the moving average of the weights"""
    momentum: MovingAverage | None
    """the momentum branches"""
    validation: Validation | None
    logger: RunLogger
    checkpoint_writer: CheckpointWriter | None
    """of the main process"""
    sample_counts: RunCounts
    alarms: Alarms
    buffers: BufferCopies
    total_samples: int
    warmup_samples: int
    step: int = 0
    skipped: SkippedSteps = field(default_factory=SkippedSteps)
    rollbacks: Rollbacks = field(default_factory=Rollbacks)
    seconds: float = 0.0
    """trained before this start"""
    flops: float = 0.0
    """operations of one sample's step; 0 if no peak is known to compare with"""
    clock: Clock = field(default_factory=Clock)

    @property
    def folder(self) -> Path:
        """The run directory."""
        return Path(self.config.out)

    @property
    def consumed(self) -> int:
        """Samples seen so far."""
        return self.plan.cursor(self.step).consumed

    @property
    def total_steps(self) -> int:
        """The step this run ends at."""
        left = max(0, self.total_samples - self.plan.start.consumed)
        return self.plan.start.step + left // self.batch_size

    def tensor_parts(self) -> dict[str, TensorState]:
        """The parts whose state is tensors, by their file in a checkpoint."""
        parts: dict[str, TensorState] = {
            checkpoint.WEIGHTS: ModuleState(self.inner),
            checkpoint.OPTIMIZER: OptimizerState(self.optimizer),
        }
        if self.average is not None:
            parts[checkpoint.AVERAGE] = ModuleState(self.average.model, "model.")
        if self.momentum is not None:
            parts[checkpoint.MOMENTUM] = ModuleState(self.momentum.model, "model.")
        if self.accelerator.scaler is not None:
            parts[checkpoint.SCALER] = ScalerState(self.accelerator.scaler)
        return parts

    def json_parts(self) -> dict[str, JsonState]:
        """The parts whose state is a few numbers, by their name in state.json."""
        return {
            "sample_counts": self.sample_counts,
            "alarms": self.alarms,
            "skipped_steps": self.skipped,
            "rollbacks": self.rollbacks,
        }

    def continue_at(self, cursor: Cursor) -> None:
        """Place the plan at the position of a checkpoint."""
        self.plan = make_plan(self.parts, self.config, self.batch_size, cursor)
        self.step = cursor.step

    def rewrap(self) -> None:
        """Wrap the module again after parameters were frozen or unfrozen: DDP looks at them only once."""
        self.module = self.inner
        if self.accelerator.num_processes > 1:
            self.accelerator.free_memory()  # the old wrapper's hooks go with the last reference to it
        self.module = wrap(self.inner, self.config, self.accelerator)
        self.settle_buckets()

    def settle_buckets(self) -> None:
        """Let DDP arrange its gradient buckets with a dry run, before the first step.

        After its first backward pass DDP arranges them anew, in the order in which gradients arrived. With three
        processes or more the order in which a gradient is summed depends on its place in a bucket: the first step of
        a run that continues would be rounded differently from that of the run that was not interrupted.
        """
        if not isinstance(self.module, DistributedDataParallel):
            return
        with self.accelerator.autocast():
            dry_run(
                self.module,
                self.inner,
                self.readers,
                rows=self.batch_size // self.accelerator.num_processes,
                device=self.accelerator.device,
                targets=self.momentum is not None,
            )


def wrap(inner: Step, config: TrainConfig, accelerator: Accelerator) -> nn.Module:
    """``inner`` in DDP for several processes; as it is if the loop or FSDP averages the gradients."""
    if config.gradient_cache_size or config.parallel == "fsdp":
        return inner
    with warnings.catch_warnings():
        # torch renames the argument that accelerate passes on.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        if config.parallel == "column_parallel" and accelerator.num_processes > 1:
            return wrap_whole_parameters(inner, accelerator.device)
        wrapped: nn.Module = accelerator.prepare_model(inner)
    return wrapped
