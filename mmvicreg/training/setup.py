"""From a resolved configuration to everything a training run works with, the same on every process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator

from mmvicreg.branches.activation_checkpointing import recompute_blocks
from mmvicreg.branches.column_parallel import split_projectors
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
from mmvicreg.progress import bar
from mmvicreg.randomness import seed_random_state
from mmvicreg.runs.checkpoint_writer import CheckpointWriter
from mmvicreg.runs.config import TrainConfig
from mmvicreg.runs.run import CHECKPOINTS, start_from
from mmvicreg.shards.index import ShardIndex, open_index
from mmvicreg.stream.reader import Reader
from mmvicreg.stream.sample_counts import Budget, RunCounts, SampleCounts
from mmvicreg.training.data import make_plan, whole
from mmvicreg.training.dry_run import largest_batch
from mmvicreg.training.frozen_features import precompute
from mmvicreg.training.gradient_cache import check_cacheable
from mmvicreg.training.monitoring.guards import Alarms, BufferCopies
from mmvicreg.training.monitoring.logger import RunLogger
from mmvicreg.training.monitoring.online_evaluation import Validation
from mmvicreg.training.optimizer import freeze_until, make_optimizer, parameter_groups
from mmvicreg.training.preflight import Resolved, check_widths
from mmvicreg.training.state import Training, wrap
from mmvicreg.training.step import Step

Config = TypeVar("Config", bound=TrainConfig)


def build_step(resolved: Resolved, config: Config, objective: Callable[[Config], Objective]) -> Step:
    """Branches and objective with their initial weights. Raises ValueError if their shapes do not fit."""
    torch.manual_seed(config.seed)  # initial weights; steps seed their own random state
    model = Model({name: modality.branch() for name, modality in resolved.branches.items()}, resolved.views)
    if config.init:
        start_from(model, Path(config.init))
    inner = Step(model, objective(config), frozenset())
    check_widths(inner, resolved.readers)
    return inner


def assemble(resolved: Resolved, inner: Step, accelerator: Accelerator, parts: tuple[Part, ...]) -> Training:
    """Place ``inner`` on the device and make optimizer, plan and monitoring around it.

    Raises ValueError, KeyError or FileNotFoundError for what cannot be trained.
    """
    index, model, config = whole(parts), inner.model, resolved.config
    readers, inner.precomputed = _precompute(resolved, model, accelerator, index)
    freeze_until(model, config.optimizer.unfreeze_at, 0)
    if config.gradient_cache_size:
        check_cacheable(model)
    if config.activation_checkpointing:
        recompute_blocks(model)
    inner.to(accelerator.device)
    average = MovingAverage(model, config.ema_decay) if config.ema_decay else None
    momentum = _momentum(inner, config)
    if config.batch_size == "auto":
        resolved = resolved.with_batch_size(_search_batch_size(inner, readers, config, accelerator, index))
        config = resolved.config
    rows = resolved.batch_size // accelerator.num_processes
    _transform(inner, config, accelerator, (average, momentum), rows=rows)
    later = frozenset(config.optimizer.unfreeze_at)
    groups = parameter_groups(model, inner.objective, config.optimizer, later=later)
    optimizer = accelerator.prepare_optimizer(make_optimizer(groups, config.optimizer))
    plan = make_plan(parts, config, resolved.batch_size)
    return Training(
        config=config,
        batch_size=resolved.batch_size,
        accelerator=accelerator,
        parts=parts,
        index=index,
        plan=plan,
        readers=readers,
        inner=inner,
        module=wrap(inner, config, accelerator),
        optimizer=optimizer,
        average=average,
        momentum=momentum,
        validation=_validation(resolved, inner),
        logger=RunLogger(Path(config.out), accelerator, trackers=bool(config.trackers)),
        checkpoint_writer=_checkpoint_writer(config) if accelerator.is_main_process else None,
        sample_counts=RunCounts(
            SampleCounts(),
            Budget(max_fraction=config.stream.max_rejected_fraction),
            device=accelerator.device,
        ),
        alarms=Alarms(config.guard),
        buffers=BufferCopies(inner),
        total_samples=max(1, round(config.epochs * plan.steps)) * resolved.batch_size,
        warmup_samples=round(config.optimizer.warmup_epochs * plan.steps) * resolved.batch_size,
    )


def _search_batch_size(
    inner: Step, readers: dict[str, Reader], config: TrainConfig, accelerator: Accelerator, index: ShardIndex
) -> int:
    seed_random_state(config.seed, -1, rank=accelerator.process_index)
    inner.train()
    return largest_batch(inner, readers, device=accelerator.device, samples=len(index))


def _transform(
    inner: Step,
    config: TrainConfig,
    accelerator: Accelerator,
    averages: tuple[MovingAverage | None, ...],
    *,
    rows: int,
) -> None:
    """Compile and divide the model in place. ``rows``: of a batch on one process."""
    if config.compile:
        compile_encoders(inner.model, rows=config.gradient_cache_size or rows)
    if config.parallel == "fsdp":
        shard(inner.model, accelerator.device)
    elif config.parallel == "column_parallel":
        for each in (inner.model, *(average.model for average in averages if average is not None)):
            split_projectors(each, accelerator.device)


def _momentum(inner: Step, config: TrainConfig) -> MovingAverage | None:
    """The momentum branches, if an alignment asks for them."""
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


def _validation(resolved: Resolved, inner: Step) -> Validation | None:
    config = resolved.config
    if not config.validation.data:
        return None
    validation = Validation(
        config.validation,
        open_index(config.validation.data),
        {name: modality.reader() for name, modality in resolved.branches.items()},
        predictors=predictors_of(inner.objective, inner.model.views),
    )
    known = validation.maximized()
    if config.best_metric and config.best_metric not in known:
        hint = "" if config.validation.label else " (knn and linear need --validation.label)"
        raise InvalidValueError(
            f"best_metric is {config.best_metric!r}; expected one of {', '.join(known)}{hint}"
        )
    return validation


def _checkpoint_writer(config: TrainConfig) -> CheckpointWriter:
    return CheckpointWriter(
        Path(config.out) / CHECKPOINTS,
        keep=config.keep_checkpoints,
        every=config.checkpoint_every,
        minutes=config.checkpoint_minutes,
    )


def _precompute(
    resolved: Resolved, model: Model, accelerator: Accelerator, index: ShardIndex
) -> tuple[dict[str, Reader], frozenset[str]]:
    """The reader of every view, and the views whose representations were computed beforehand."""
    config, stored = resolved.config, {}
    for name, modality in resolved.branches.items():
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
        own = -(-len(index) * draws // accelerator.num_processes)
        with bar(f"encode {name} once", own, show=accelerator.is_main_process) as advance:
            stored[name] = precompute(
                modality,
                branch,
                index,
                name=name,
                draws=draws,
                seed=0 if config.feature_cache else config.seed,
                folder=Path(config.feature_cache or Path(config.out) / "features").expanduser(),
                device=accelerator.device,
                threads=config.threads,
                progress=lambda amount, advance=advance: advance(amount, ""),  # type: ignore[misc]
            )
    # A view that another modality reads (a small crop) is not among the stored views of its branch.
    cached = {
        view: name
        for view, name in resolved.views.items()
        if name in stored and resolved.reader_names[view] == name
    }
    readers = {**resolved.readers, **{view: stored[name] for view, name in cached.items()}}
    return readers, frozenset(cached)


def _draws(modality: Modality) -> int:
    values = vars(modality)
    return int(values.get("precomputed_views", 0))
