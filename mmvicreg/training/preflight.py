"""Preflight validation: a configuration becomes what a run works with, or an error before the first step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.modality import Modality, modalities_of
from mmvicreg.runs.config import TrainConfig
from mmvicreg.runs.directory import saved_batch_size
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.reader import Reader
from mmvicreg.training.step import Step

AT_LEAST_1 = (
    "threads log_every checkpoint_every keep_checkpoints validation.every validation.samples validation.neighbours "
    "guard.patience"
).split()
AT_LEAST_0 = (
    "gradient_cache_size checkpoint_minutes peak_tflops optimizer.learning_rate optimizer.weight_decay "
    "optimizer.warmup_epochs optimizer.max_gradient_norm stream.workers stream.substitutes stream.wait_warning "
    "guard.max_skipped_steps guard.diagnose_every guard.diagnose_after guard.max_rollbacks guard.stall_warning "
    "guard.stall_stop guard.process_group_timeout guard.compare_every guard.absent_after"
).split()
ABOVE_0 = "epochs stream.shard_cache_gigabytes guard.rollback_factor optimizer.layer_decay".split()
FRACTIONS = (
    "ema_decay optimizer.beta1 optimizer.beta2 optimizer.final_fraction stream.max_rejected_fraction".split()
)


@dataclass(frozen=True)
class Resolved:
    """A configuration with all that follows from it, computed once."""

    config: TrainConfig
    modalities: dict[str, Modality]
    """all modalities, by name"""
    views: dict[str, str]
    """the branch of each view: the name of its modality"""
    reader_names: dict[str, str]
    """the modality that reads each view"""
    readers: dict[str, Reader]
    """the reader of each view"""

    @property
    def branches(self) -> dict[str, Modality]:
        """The modalities whose branch some view passes through."""
        used = set(self.views.values())
        return {name: modality for name, modality in self.modalities.items() if name in used}

    @property
    def batch_size(self) -> int:
        """The global batch, once it is known."""
        assert self.config.batch_size != "auto", "the batch size has not been searched yet"
        return self.config.batch_size

    def with_batch_size(self, batch_size: int) -> Resolved:
        """The same with the batch size that "auto" was resolved to."""
        return replace(self, config=replace(self.config, batch_size=batch_size))


def resolve(config: TrainConfig) -> Resolved:
    """Check ``config`` and find its modalities, views and readers; "auto" takes the batch size of the run that is
    continued, if there is one. Raises ValueError for fields that no data could make right."""
    init = str(Path(config.init).expanduser()) if config.init else ""
    config = replace(config, out=str(Path(config.out).expanduser()), init=init)
    if config.batch_size == "auto" and config.resume == "auto":
        config = replace(config, batch_size=saved_batch_size(Path(config.out)) or "auto")
    _check_ranges(config)
    _check_combinations(config)
    modalities, views, reader_names = modalities_of(config), config.views(), config.readers()
    if not modalities:
        raise InvalidValueError(
            f"{type(config).__name__} has no modality; add fields such as image: ImageModality = ..."
        )
    unknown = sorted(set(views.values()) - set(modalities))
    if unknown:
        raise InvalidValueError(f"views() names {unknown}; the modalities are {sorted(modalities)}")
    if set(reader_names) != set(views):
        raise InvalidValueError(
            f"readers() names the views {sorted(reader_names)}; views() has {sorted(views)}"
        )
    unknown = sorted(set(reader_names.values()) - set(modalities))
    if unknown:
        raise InvalidValueError(f"readers() names {unknown}; the modalities are {sorted(modalities)}")
    readers = {view: modalities[name].reader() for view, name in reader_names.items()}
    return Resolved(config, modalities, views, reader_names, readers)


def _check_ranges(config: TrainConfig) -> None:
    """Raise ValueError, naming the option, for a number outside its range."""
    for names, holds, expected in (
        (AT_LEAST_1, lambda value: value >= 1, "at least 1"),
        (AT_LEAST_0, lambda value: value >= 0, "at least 0"),
        (ABOVE_0, lambda value: 0 < value < math.inf, "a finite number above 0"),
        (FRACTIONS, lambda value: 0 <= value <= 1, "between 0 and 1"),
    ):
        for name in names:
            value = _value(config, name)
            if not holds(value):
                option = name.replace("_", "-")
                raise InvalidValueError(f"{name} is {value}; expected {expected}: change --{option}")


def _value(config: TrainConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = vars(value)[part]
    return value


def _check_combinations(config: TrainConfig) -> None:
    if not config.train:
        raise InvalidValueError("no shards to train on; give --train 'folder/train-{000..099}.tar'")
    if config.best_metric and not config.validation.data:
        raise InvalidValueError(
            f"best_metric is {config.best_metric!r}, a validation score; give --validation.data as well"
        )
    if config.parallel == "fsdp" and (
        config.gradient_cache_size or config.ema_decay or config.optimizer.unfreeze_at
    ):
        raise InvalidValueError(
            "parallel fsdp does not support gradient_cache_size, ema_decay and unfreeze_at; choose ddp, or "
            "leave them out"
        )
    if config.parallel == "column_parallel" and config.precision == "fp16":
        raise InvalidValueError(
            "parallel column_parallel does not support the scaled gradients of fp16; choose precision bf16, or ddp"
        )
    if config.precision == "fp16" and (config.cpu or not torch.cuda.is_available()):
        raise InvalidValueError("precision fp16 needs a GPU; choose bf16 or fp32")


def check_processes(config: TrainConfig, processes: int) -> None:
    """Raise ValueError if the global batch cannot be divided among the processes."""
    size = config.batch_size
    if size != "auto" and (size < 1 or size % processes):
        raise InvalidValueError(
            f"batch_size {size} is divided among {processes} processes; choose a multiple of {processes}, such as "
            f"{max(1, size // processes) * processes}"
        )


def check_batch(config: TrainConfig, index: ShardIndex) -> None:
    """Raise ValueError if the data are fewer than one global batch."""
    if config.batch_size != "auto" and len(index) < config.batch_size:
        raise InvalidValueError(
            f"{config.train!r} has {len(index)} samples, less than one batch of {config.batch_size}; "
            "lower --batch-size or name more shards"
        )


def check_widths(inner: Step, readers: Mapping[str, Reader]) -> None:
    """Run branches and objective on zeros, so that shapes that do not fit are refused before anything is read."""
    model, objective = inner.model, inner.objective
    model.eval(), objective.eval()
    with torch.no_grad():
        z = {}
        for view, reader in readers.items():
            x = torch.zeros((2, *reader.shape), dtype=reader.dtype)
            try:
                z[view] = model.branch(view)(x).z.float()
            except (IndexError, RuntimeError, AssertionError) as error:
                raise InvalidValueError(
                    f"the branch of view {view!r} does not take inputs of shape {tuple(reader.shape)}: {error}; change "
                    "the size or length that its modality reads, or choose another encoder"
                ) from error
        z = {view: torch.randn(2, value.shape[1]) for view, value in z.items()}
        present = {view: torch.ones(2, dtype=torch.bool) for view in z}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                objective(z, present, branches=model.views, seed=0, targets=z)
        except (RuntimeError, UserWarning) as error:
            widths = ", ".join(f"{view} {value.shape[1]}" for view, value in z.items())
            raise InvalidValueError(
                f"the objective does not take embeddings of these widths: {widths} ({error}); give the projectors "
                "the same last width, or choose an alignment with predictors between widths"
            ) from None
    model.train(), objective.train()
