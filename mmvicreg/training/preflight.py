"""What cannot be trained is said here, in words, before the first step."""

from __future__ import annotations

import warnings

import torch

from mmvicreg.errors import InvalidValueError
from mmvicreg.modalities.modality import Modality, modalities_of
from mmvicreg.runs.config import TrainConfig
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.reader import Reader
from mmvicreg.training.step import Step


def check(config: TrainConfig, processes: int) -> None:
    """Raise ValueError for fields that no data could make right."""
    modalities = modalities_of(config)
    if not modalities:
        raise InvalidValueError(
            f"{type(config).__name__} has no modality; add fields such as image: ImageModality = ..."
        )
    if not config.train:
        raise InvalidValueError("no shards to train on; give --train 'folder/train-{000..099}.tar'")
    if config.batch_size != "auto" and (config.batch_size < 1 or config.batch_size % processes):
        raise InvalidValueError(
            f"batch_size {config.batch_size} is shared by {processes} processes; "
            f"choose a multiple of {processes}, such as {max(1, config.batch_size // processes) * processes}"
        )
    for name in ("log_every", "checkpoint_every", "keep_checkpoints"):
        if vars(config)[name] < 1:
            raise InvalidValueError(f"{name} is {vars(config)[name]}; it is at least 1")
    for name in ("gradient_cache_size", "checkpoint_minutes", "epochs", "ema_decay"):
        if vars(config)[name] < 0:
            raise InvalidValueError(f"{name} is {vars(config)[name]}; it is at least 0")
    unknown = sorted(set(config.views().values()) - set(modalities))
    if unknown:
        raise InvalidValueError(f"views() names {unknown}; the modalities are {sorted(modalities)}")
    _check_readers(config.views(), config.readers(), modalities)
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


def _check_readers(views: dict[str, str], readers: dict[str, str], modalities: dict[str, Modality]) -> None:
    if set(readers) != set(views):
        raise InvalidValueError(f"readers() names the views {sorted(readers)}; views() has {sorted(views)}")
    unknown = sorted(set(readers.values()) - set(modalities))
    if unknown:
        raise InvalidValueError(f"readers() names {unknown}; the modalities are {sorted(modalities)}")


def view_readers(config: TrainConfig) -> dict[str, Reader]:
    """The reader of each view."""
    modalities = modalities_of(config)
    return {view: modalities[name].reader() for view, name in config.readers().items()}


def modalities_in_use(config: TrainConfig) -> dict[str, Modality]:
    """The modalities that some view goes through."""
    used = set(config.views().values())
    return {name: modality for name, modality in modalities_of(config).items() if name in used}


def check_batch(config: TrainConfig, index: ShardIndex, batch_size: int) -> None:
    if len(index) < batch_size:
        raise InvalidValueError(
            f"{config.train!r} has {len(index)} samples, less than one batch of {batch_size}; "
            "lower --batch-size or name more shards"
        )


def check_widths(inner: Step, readers: dict[str, Reader]) -> None:
    """Try branches and objective on empty inputs, so that what does not fit is said before anything is read."""
    model, objective = inner.model, inner.objective
    model.eval(), objective.eval()
    with torch.no_grad():
        z = {}
        for view, reader in readers.items():
            x = torch.zeros((2, *reader.shape), dtype=reader.dtype)
            z[view] = model.branch(view)(x).z.float()
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
                "one last width, or choose an alignment with predictors between widths"
            ) from None
    model.train(), objective.train()
