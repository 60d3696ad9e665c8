"""From a configuration to everything a run holds, the same on every process; what cannot be trained is said
here, before the first step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmvicreg.branches.activation_checkpointing import recompute_blocks
from mmvicreg.branches.column_parallel import split_projectors, wrap_whole_parameters
from mmvicreg.branches.compile import compile_encoders
from mmvicreg.branches.fsdp import shard
from mmvicreg.branches.model import Branch, Model
from mmvicreg.branches.moving_average import MovingAverage
from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.modality import Modality
from mmvicreg.objectives.alignments import Alignment
from mmvicreg.objectives.objective import Objective
from mmvicreg.objectives.predictors import predictors_of
from mmvicreg.plan.mixture import Part
from mmvicreg.plan.plan import Cursor, Plan
from mmvicreg.progress import bar
from mmvicreg.randomness import seed_random_state
from mmvicreg.runs.checkpoint_writer import CheckpointWriter
from mmvicreg.runs.config import TrainConfig
from mmvicreg.runs.run import CHECKPOINTS, start_from
from mmvicreg.shards.index import ShardIndex, open_index
from mmvicreg.stream.ledger import Counts
from mmvicreg.stream.reader import Reader
from mmvicreg.stream.sample_counts import Budget, SampleCounts
from mmvicreg.training import frozen_features as features
from mmvicreg.training.batch_size import search
from mmvicreg.training.data import make_plan, whole
from mmvicreg.training.dry_run import rehearse
from mmvicreg.training.gradient_cache import check_chunkable
from mmvicreg.training.monitoring.guards import Alarms, BufferCopies
from mmvicreg.training.monitoring.logger import RunLogger
from mmvicreg.training.monitoring.online_evaluation import Probe
from mmvicreg.training.monitoring.throughput import Clock
from mmvicreg.training.optimizer import make_optimizer, parameter_groups
from mmvicreg.training.preflight import check_batch, check_widths, modalities_in_use, view_readers
from mmvicreg.training.schedule import freeze_until
from mmvicreg.training.step import Step

Config = TypeVar("Config", bound=TrainConfig)


@dataclass
class Training:
    """Everything the loop holds."""

    config: TrainConfig
    batch_size: int
    accelerator: Accelerator
    parts: tuple[Part, ...]
    index: ShardIndex
    plan: Plan
    readers: dict[str, Reader]
    inner: Step
    """branches and objective"""
    module: nn.Module
    """``inner``, wrapped for several processes"""
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    momentum: MovingAverage | None
    probe: Probe | None
    journal: RunLogger
    keeper: CheckpointWriter | None
    """of the main process"""
    tally: SampleCounts
    alarms: Alarms
    buffers: BufferCopies
    total_samples: int
    warmup_samples: int
    step: int = 0
    skipped: int = 0
    """steps in a row that were left out"""
    learning_rate_scale: float = 1.0
    rollbacks: int = 0
    seconds: float = 0.0
    """trained before this start"""
    flops: float = 0.0
    """operations of a sample's step; 0 where no peak is known to compare with"""
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

    def continue_at(self, cursor: Cursor) -> None:
        """Place the plan where a checkpoint left off."""
        self.plan = make_plan(self.parts, self.config, self.batch_size, cursor)
        self.step = cursor.step

    def rewrap(self) -> None:
        """Wrap the module again, after parameters were frozen or freed: DDP looks at them once only."""
        self.module = self.inner
        if self.accelerator.num_processes > 1:
            self.accelerator.free_memory()  # the old wrapper's hooks go with the last reference to it
        self.module = _wrap(self.inner, self.config, self.accelerator)
        self.rehearse()

    def rehearse(self) -> None:
        """Let DDP settle, before the first step.

        After its first backward pass DDP lays its buckets out anew, in the order in which gradients came. With three
        processes or more the order in which a gradient is summed depends on its place in a bucket: a run that
        continues would make its first step with another rounding than the run that was not interrupted.
        """
        if not isinstance(self.module, DistributedDataParallel):
            return
        with self.accelerator.autocast():
            rehearse(
                self.module,
                self.inner,
                self.readers,
                rows=self.batch_size // self.accelerator.num_processes,
                device=self.accelerator.device,
                targets=self.momentum is not None,
            )


def assemble(
    config: Config,
    objective: Callable[[Config], Objective],
    accelerator: Accelerator,
    parts: tuple[Part, ...],
) -> Training:
    """Build model, objective, optimizer and plan. Raises ValueError, KeyError or FileNotFoundError."""
    index = whole(parts)
    if config.batch_size != "auto":
        check_batch(config, index, config.batch_size)
    torch.manual_seed(config.seed)  # initial weights; steps seed their own random state
    modalities = modalities_in_use(config)
    model = Model({name: modality.branch() for name, modality in modalities.items()}, config.views())
    if config.init:
        start_from(model, Path(config.init))
    inner = Step(model, objective(config), frozenset())
    check_widths(inner, view_readers(config))
    readers, inner.precomputed = _readers(config, modalities, model, accelerator, index)
    freeze_until(model, config.optimizer.unfreeze_at, 0)
    if config.gradient_cache_size:
        check_chunkable(model)
    if config.activation_checkpointing:
        recompute_blocks(model)
    inner.to(accelerator.device)
    average = MovingAverage(model, config.ema_decay) if config.ema_decay else None
    momentum = _momentum(inner, config)
    batch_size = _batch_size(config, inner, readers, accelerator, index)
    if config.compile:
        compile_encoders(model, rows=config.gradient_cache_size or batch_size // accelerator.num_processes)
    if config.parallel == "fsdp":
        shard(model, accelerator.device)
    elif config.parallel == "column_parallel":
        for each in (model, *(kept.model for kept in (average, momentum) if kept is not None)):
            split_projectors(each, accelerator.device)
    groups = parameter_groups(
        model, inner.objective, config.optimizer, later=frozenset(config.optimizer.unfreeze_at)
    )
    optimizer = accelerator.prepare_optimizer(make_optimizer(groups, config.optimizer))
    plan = make_plan(parts, config, batch_size)
    return Training(
        config=config,
        batch_size=batch_size,
        accelerator=accelerator,
        parts=parts,
        index=index,
        plan=plan,
        readers=readers,
        inner=inner,
        module=_wrap(inner, config, accelerator),
        optimizer=optimizer,
        average=average,
        momentum=momentum,
        probe=_probe(config, modalities, inner),
        journal=RunLogger(Path(config.out), accelerator, trackers=bool(config.trackers)),
        keeper=_keeper(config) if accelerator.is_main_process else None,
        tally=SampleCounts(
            Counts(), Budget(share=config.stream.max_rejected_fraction), device=accelerator.device
        ),
        alarms=Alarms(config.guard),
        buffers=BufferCopies(inner),
        total_samples=max(1, round(config.epochs * plan.steps)) * batch_size,
        warmup_samples=round(config.optimizer.warmup_epochs * plan.steps) * batch_size,
    )


def _batch_size(
    config: TrainConfig, inner: Step, readers: dict[str, Reader], accelerator: Accelerator, index: ShardIndex
) -> int:
    if config.batch_size != "auto":
        return config.batch_size
    seed_random_state(config.seed, -1, rank=accelerator.process_index)
    inner.train()
    return search(inner, readers, device=accelerator.device, samples=len(index))


def _momentum(inner: Step, config: TrainConfig) -> MovingAverage | None:
    """The momentum branches, where an alignment asks for them."""
    asked = {
        module.momentum
        for module in inner.objective.modules()
        if isinstance(module, Alignment) and module.momentum is not None
    }
    if not asked:
        return None
    if len(asked) > 1:
        raise InvalidValueError(
            f"alignments ask for momentum branches of {sorted(asked)}; give them one momentum"
        )
    if config.parallel == "fsdp":
        raise InvalidValueError(
            "an alignment asks for momentum branches, which fsdp does not shard; choose ddp"
        )
    return MovingAverage(inner.model, asked.pop())


def _wrap(inner: Step, config: TrainConfig, accelerator: Accelerator) -> nn.Module:
    if config.gradient_cache_size or config.parallel == "fsdp":
        return inner  # gradients are averaged by the loop, or by the shards
    with warnings.catch_warnings():
        # torch renames the argument that accelerate passes on.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        if config.parallel == "column_parallel" and accelerator.num_processes > 1:
            return wrap_whole_parameters(inner, accelerator.device)
        wrapped: nn.Module = accelerator.prepare_model(inner)
    return wrapped


def _probe(config: TrainConfig, modalities: dict[str, Modality], inner: Step) -> Probe | None:
    if not config.validation.data:
        return None
    readers = {name: modality.reader() for name, modality in modalities.items()}
    probe = Probe(
        config.validation,
        open_index(config.validation.data),
        readers,
        predictors=predictors_of(inner.objective, inner.model.views),
    )
    if config.best_metric and config.best_metric not in probe.rising():
        hint = "" if config.validation.label else " (knn and linear need --validation.label)"
        raise InvalidValueError(
            f"best_metric is {config.best_metric!r}; expected one of {', '.join(probe.rising())}{hint}"
        )
    return probe


def _keeper(config: TrainConfig) -> CheckpointWriter:
    return CheckpointWriter(
        Path(config.out) / CHECKPOINTS,
        keep=config.keep_checkpoints,
        every=config.checkpoint_every,
        minutes=config.checkpoint_minutes,
    )


def _readers(
    config: TrainConfig,
    modalities: dict[str, Modality],
    model: Model,
    accelerator: Accelerator,
    index: ShardIndex,
) -> tuple[dict[str, Reader], frozenset[str]]:
    """A reader for every view, and the views whose representations are computed beforehand."""
    stored = {}
    for name, modality in modalities.items():
        branch, draws = model.branches[name], _draws(modality)
        assert isinstance(branch, Branch)
        if not draws:
            continue
        if not branch.frozen:
            raise InvalidValueError(
                f"{name}.precomputed_views is {draws}, but its encoder is trained; set frozen, or leave "
                "precomputed_views at 0"
            )
        branch.encoder.to(accelerator.device)
        share = -(-len(index) * draws // accelerator.num_processes)
        with bar(f"encode {name} once", share, show=accelerator.is_main_process) as advance:
            stored[name] = features.precompute(
                modality,
                branch,
                index,
                name=name,
                draws=draws,
                seed=0 if config.feature_cache else config.seed,
                folder=Path(config.feature_cache or Path(config.out) / "features"),
                device=accelerator.device,
                threads=config.threads,
                progress=lambda amount, advance=advance: advance(amount, ""),
            )
    # A view that another modality reads (a small crop) is not among the stored readings of its branch.
    reads = config.readers()
    cached = {view: name for view, name in config.views().items() if name in stored and reads[view] == name}
    readers = {**view_readers(config), **{view: stored[name] for view, name in cached.items()}}
    return readers, frozenset(cached)


def _draws(modality: Modality) -> int:
    values = vars(modality)
    return int(values.get("precomputed_views", 0))


def resolved(config: Config, batch_size: int) -> Config:
    """The configuration with "auto" replaced by what was found."""
    return replace(config, batch_size=batch_size)
