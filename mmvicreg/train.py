"""The training loop: batches to terms to weights, on one process or many, and what is written meanwhile."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from mmvicreg import checkpoint, distributed, features
from mmvicreg.config import TrainConfig
from mmvicreg.modality import Modality, modalities_of
from mmvicreg.model import Branch, Model
from mmvicreg.objective import Objective, Terms
from mmvicreg.optim import learning_rate_factor, make_optimizer, parameter_groups, set_learning_rate
from mmvicreg.plan import Plan
from mmvicreg.progress import bar
from mmvicreg.reader import Reader
from mmvicreg.runs import CHECKPOINTS, LOG, Run, cut_log, load, open_run
from mmvicreg.shards import Index, open_index
from mmvicreg.stream import Batch, stream

Config = TypeVar("Config", bound=TrainConfig)


class NonFiniteLoss(RuntimeError):
    """The total is not a number; the message has every term, the step and the samples."""


class Step(nn.Module):
    """What one step computes: inputs of every view to the terms of the objective. One module, so that DDP
    averages the gradients of branches and objective alike."""

    def __init__(self, model: Model, objective: Objective, precomputed: frozenset[str]) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.precomputed = precomputed

    def forward(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor], seed: int) -> Terms:
        embeddings = self.model(inputs, present, precomputed=self.precomputed)
        z = {view: embedding.z for view, embedding in embeddings.items()}
        return self.objective(z, present, branches=self.model.views, seed=seed)


@dataclass
class Training:
    """Everything the loop holds; what changes is in ``module``, ``optimizer`` and ``step``."""

    config: TrainConfig
    folder: Path
    accelerator: Accelerator
    index: Index
    plan: Plan
    readers: dict[str, Reader]
    module: nn.Module
    optimizer: torch.optim.Optimizer
    total_steps: int
    warmup_steps: int
    step: int = 0
    clock: Clock = field(default_factory=lambda: Clock())


@dataclass
class Clock:
    """Where the seconds between two log lines went."""

    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    samples: int = 0

    def read(self) -> dict[str, float]:
        """Samples a second and the share of time spent waiting for data since the last reading."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        numbers = {"samples_per_second": self.samples / seconds, "data_wait": self.waited / seconds}
        self.started, self.waited, self.samples = time.perf_counter(), 0.0, 0
        return numbers


def run(config: Config, objective: Callable[[Config], Objective]) -> Run:
    """Train what ``config`` describes, or continue it, and return the finished run.

    Raises ValueError or FileNotFoundError for what cannot be trained, before the first step; NonFiniteLoss.
    """
    accelerator = Accelerator(
        cpu=config.cpu,
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        ],
    )
    _check(config, accelerator.num_processes)
    with accelerator.main_process_first():
        index = open_index(config.train)
    if accelerator.is_main_process:
        open_run(config)
    accelerator.wait_for_everyone()
    training = _prepare(config, objective, accelerator, index)
    _resume(training)
    _loop(training)
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    return _load_own(training)


def _load_own(training: Training) -> Run:
    """The run as :func:`load` gives it; classes a recipe defines are at hand here."""
    config, folder = training.config, training.folder
    inner = training.accelerator.unwrap_model(training.module)
    assert isinstance(inner, Step)
    from mmvicreg.config import to_json

    return Run(folder, to_json(config), _modalities(config), inner.model.eval(), training.step)


def _check(config: TrainConfig, processes: int) -> None:
    modalities = modalities_of(config)
    if not modalities:
        raise ValueError(
            f"{type(config).__name__} has no modality; add fields such as image: ImageModality = ..."
        )
    if not config.train:
        raise ValueError("no shards to train on; give --train 'folder/train-{000..099}.tar'")
    if config.batch_size < 1 or config.batch_size % processes:
        raise ValueError(
            f"batch_size {config.batch_size} is shared by {processes} processes; "
            f"choose a multiple of {processes}, such as {max(1, config.batch_size // processes) * processes}"
        )
    if config.log_every < 1 or config.checkpoint_every < 1 or config.keep_checkpoints < 1:
        raise ValueError("log_every, checkpoint_every and keep_checkpoints are at least 1")
    unknown = sorted(set(config.views().values()) - set(modalities))
    if unknown:
        raise ValueError(f"views() names {unknown}; the modalities are {sorted(modalities)}")


def _modalities(config: TrainConfig) -> dict[str, Modality]:
    used = set(config.views().values())
    return {name: modality for name, modality in modalities_of(config).items() if name in used}


def _prepare(
    config: Config, objective: Callable[[Config], Objective], accelerator: Accelerator, index: Index
) -> Training:
    """Build model, objective, optimizer and plan; the same on every process."""
    if len(index) < config.batch_size:
        raise ValueError(
            f"{config.train!r} has {len(index)} samples, less than one batch of {config.batch_size}; "
            "lower --batch-size or name more shards"
        )
    torch.manual_seed(config.seed)
    modalities = _modalities(config)
    model = Model({name: modality.branch() for name, modality in modalities.items()}, config.views())
    goal = objective(config)
    readers, precomputed = _readers(config, modalities, model, accelerator, index)
    module = Step(model, goal, precomputed)
    optimizer = make_optimizer(parameter_groups(model, goal, config.optimizer), config.optimizer)
    module, optimizer = accelerator.prepare(module, optimizer)
    torch.manual_seed(config.seed + accelerator.process_index)  # dropout differs between processes
    plan = Plan(index.counts, seed=config.seed, global_batch=config.batch_size, order=config.order)
    return Training(
        config=config,
        folder=Path(config.out),
        accelerator=accelerator,
        index=index,
        plan=plan,
        readers=readers,
        module=module,
        optimizer=optimizer,
        total_steps=max(1, round(config.epochs * plan.steps)),
        warmup_steps=round(config.optimizer.warmup_epochs * plan.steps),
    )


def _readers(
    config: TrainConfig, modalities: dict[str, Modality], model: Model, accelerator: Accelerator, index: Index
) -> tuple[dict[str, Reader], frozenset[str]]:
    """A reader for every view, and the views whose representations are computed beforehand."""
    readers, cached = {}, set()
    for name, modality in modalities.items():
        branch, draws = model.branches[name], _draws(modality)
        assert isinstance(branch, Branch)
        readers[name] = modality.reader()
        if not draws:
            continue
        if not branch.frozen:
            raise ValueError(
                f"{name}.cache is {draws}, but its encoder is trained; set frozen, or cache to 0"
            )
        branch.encoder.to(accelerator.device)
        share = -(-len(index) * draws // accelerator.num_processes)
        with bar(f"encode {name} once", share, show=accelerator.is_main_process) as advance:
            readers[name] = features.precompute(
                modality,
                branch,
                index,
                name=name,
                draws=draws,
                seed=config.seed,
                folder=Path(config.out) / "features",
                device=accelerator.device,
                threads=config.threads,
                progress=lambda amount, advance=advance: advance(amount, ""),
            )
        cached.add(name)
    views = config.views()
    return {view: readers[name] for view, name in views.items()}, frozenset(
        view for view, name in views.items() if name in cached
    )


def _draws(modality: Modality) -> int:
    values = vars(modality)
    return int(values["cache"]) if "cache" in values else 0


def _resume(training: Training) -> None:
    """Continue from the newest complete checkpoint, if there is one."""
    found = checkpoint.complete_checkpoints(training.folder / CHECKPOINTS)
    if not found:
        return
    position = checkpoint.read_position(found[-1])
    if position.plan != training.plan.fingerprint():
        raise ValueError(
            f"{training.folder} was trained on other data: its order is {position.plan}, that of "
            f"{training.config.train!r} is {training.plan.fingerprint()}; choose another --out, or restore the shards"
        )
    module = training.accelerator.unwrap_model(training.module)
    checkpoint.read_state(found[-1], module, training.optimizer)
    checkpoint.read_random_state(found[-1], training.accelerator.process_index)
    training.step = position.step
    if training.accelerator.is_main_process:
        cut_log(training.folder, position.step)


def _loop(training: Training) -> None:
    config, accelerator = training.config, training.accelerator
    training.module.train()
    batches = stream(
        training.index,
        training.plan,
        readers=training.readers,
        start=training.step,
        stop=training.total_steps,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        threads=config.threads,
        ledger=str(training.folder),
        pin=accelerator.device.type == "cuda",
    )
    remaining = training.total_steps - training.step
    training.clock = Clock()
    with bar("train", remaining * config.batch_size, show=accelerator.is_main_process) as advance:
        for batch in _timed(batches, training.clock):
            numbers = _step(training, batch)
            training.step += 1
            training.clock.samples += config.batch_size
            if training.step % config.log_every == 0 or training.step == training.total_steps:
                _log(training, numbers)
            if training.step % config.checkpoint_every == 0 or training.step == training.total_steps:
                save(training)
            advance(config.batch_size, f"step {training.step} of {training.total_steps}")


def _timed(batches: Iterator[Batch], clock: Clock) -> Iterator[Batch]:
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        clock.waited += time.perf_counter() - asked
        if batch is None:
            return
        yield batch


@dataclass(frozen=True)
class StepNumbers:
    """What one step gave, on the device until it is logged."""

    terms: Terms
    gradient_norm: Tensor
    present: dict[str, Tensor]


def step_seed(seed: int, step: int) -> int:
    """The seed of a step's random directions: equal on every process, another at every step."""
    return int.from_bytes(hashlib.blake2b(f"step {seed} {step}".encode(), digest_size=7).digest(), "little")


def _step(training: Training, batch: Batch) -> StepNumbers:
    """Forward, backward, weights."""
    config, accelerator, optimizer = training.config, training.accelerator, training.optimizer
    factor = learning_rate_factor(
        training.step, warmup=training.warmup_steps, total=training.total_steps, final=config.optimizer.final
    )
    set_learning_rate(optimizer, factor)
    inputs = {view: x.to(accelerator.device, non_blocking=True) for view, x in batch.inputs.items()}
    terms: Terms = training.module(inputs, batch.present, step_seed(config.seed, training.step))
    if not math.isfinite(terms.total.item()):
        raise NonFiniteLoss(_explain(training.step, terms, batch))
    accelerator.backward(terms.total)
    norm = accelerator.clip_grad_norm_(training.module.parameters(), config.optimizer.clip or math.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    assert isinstance(norm, Tensor)
    return StepNumbers(terms, norm, batch.present)


def _explain(step: int, terms: Terms, batch: Batch) -> str:
    values = "\n".join(f"  {name}: {value.item():.6g}" for name, value in terms.parts.items())
    keys = ", ".join(batch.keys[:8]) + (f" and {len(batch.keys) - 8} more" if len(batch.keys) > 8 else "")
    return (
        f"the loss of step {step} is {terms.total.item()}:\n{values}\n  samples: {keys}\n"
        "lower the learning rate, clip the gradient (--optimizer.clip 1) or train in fp32; the last checkpoint is whole"
    )


def _log(training: Training, numbers: StepNumbers) -> None:
    """One JSON line; the only place where the loop waits for numbers, beside the check of the total."""
    counts = torch.tensor([float(rows.sum()) for rows in numbers.present.values()])
    counts = distributed.all_reduce_sum(counts.to(training.accelerator.device))
    if not training.accelerator.is_main_process:
        return
    line: dict[str, Any] = {
        "step": training.step,
        "epoch": training.step / training.plan.steps,
        "samples": training.step * training.config.batch_size,
        "total": numbers.terms.total.item(),
        "terms": {name: value.item() for name, value in numbers.terms.parts.items()},
        "present": dict(zip(numbers.present, counts.int().tolist(), strict=True)),
        "gradient_norm": numbers.gradient_norm.item(),
        "learning_rate": {group["name"]: group["lr"] for group in training.optimizer.param_groups},
        **training.clock.read(),
    }
    with open(training.folder / LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def save(training: Training) -> None:
    """Write a checkpoint of the current step; every process calls this."""
    accelerator, folder = training.accelerator, training.folder / CHECKPOINTS
    if accelerator.is_main_process:
        partial = checkpoint.begin(folder, training.step)
        checkpoint.write_state(partial, accelerator.unwrap_model(training.module), training.optimizer)
    accelerator.wait_for_everyone()
    partial = folder / f".step-{training.step:08d}.partial"
    checkpoint.write_random_state(partial, accelerator.process_index)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        position = checkpoint.Position(training.step, accelerator.num_processes, training.plan.fingerprint())
        checkpoint.finish(partial, position, keep=training.config.keep_checkpoints)


__all__ = ["NonFiniteLoss", "Run", "load", "run", "save", "step_seed"]
