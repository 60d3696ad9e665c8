"""Writing where a run stands, and going on from there: after a kill, on other processes, or one step back."""

from __future__ import annotations

import time
from pathlib import Path

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError
from mmvicreg.plan.plan import Cursor
from mmvicreg.runs.run import CHECKPOINTS, CONFIG, checkpoint, cut_log, read_config
from mmvicreg.stream.ledger import Counts
from mmvicreg.stream.sample_counts import SampleCounts
from mmvicreg.training.setup import Training


def snapshot(
    training: Training, counts: Counts, *, score: float | None, seconds: float
) -> checkpoint.Snapshot:
    """Everything of the current step on the host; every process calls this."""
    files = {
        checkpoint.WEIGHTS: checkpoint.tensors_of(training.inner),
        checkpoint.OPTIMIZER: checkpoint.optimizer_tensors(training.optimizer),
    }
    for name, kept in ((checkpoint.AVERAGE, training.average), (checkpoint.MOMENTUM, training.momentum)):
        if kept is not None:
            tensors = checkpoint.tensors_of(kept.model)
            files[name] = {f"model.{key}": value for key, value in tensors.items()}
    scaler = training.accelerator.scaler
    if scaler is not None:
        files[checkpoint.SCALER] = checkpoint.scaler_tensors(scaler)
    position = checkpoint.Position(
        step=training.step,
        consumed=training.consumed,
        processes=training.accelerator.num_processes,
        plan=training.plan.fingerprint(),
        data=training.index.fingerprint,
        learning_rate_scale=training.learning_rate_scale,
        rollbacks=training.rollbacks,
        score=score,
        seconds=seconds,
        counts=counts.state(),
    )
    return checkpoint.Snapshot(position, files)


def save(training: Training, *, score: float | None, started: float) -> None:
    """Begin to write a checkpoint of the current step; every process calls this. ``started``: monotonic time."""
    counts = training.tally.sum()
    # Processes that share the weights all take part in the copy; otherwise the main one has it all.
    if training.keeper is None and training.config.parallel == "ddp":
        return
    taken = snapshot(training, counts, score=score, seconds=training.seconds + time.monotonic() - started)
    if training.keeper is not None:
        training.keeper.save(taken)


def saved_batch_size(folder: Path) -> int | None:
    """What "auto" was resolved to in a run that is continued; None where there is no run."""
    if not (folder / CONFIG).is_file():
        return None
    found = read_config(folder)["config"].get("batch_size")
    return found if isinstance(found, int) else None


def resume(training: Training) -> bool:
    """Continue from the newest checkpoint that is whole; True where there is one. Every process calls this."""
    path = _newest(training)
    if path is not None:
        restore(training, path)
    if training.accelerator.is_main_process:
        cut_log(training.folder, training.step)  # without a checkpoint too: a run killed early has lines
    return path is not None


def roll_back(training: Training, reason: str) -> bool:
    """Put the newest whole checkpoint back and lower the learning rate; False where there is none."""
    if training.keeper is not None:
        training.keeper.wait()
    distributed.barrier()
    path = _newest(training)
    if path is None:
        return False
    lower, times = (
        training.learning_rate_scale * training.config.guard.rollback_factor,
        training.rollbacks + 1,
    )
    failed = training.step
    restore(training, path)
    training.learning_rate_scale, training.rollbacks = lower, times
    if training.accelerator.is_main_process:
        cut_log(training.folder, training.step)
    training.journal.event(
        failed,
        "rollback",
        f"{reason}. Back to step {training.step}, learning rates times {lower:g} from here "
        f"({times} of {training.config.guard.max_rollbacks} times)",
    )
    return True


def _newest(training: Training) -> Path | None:
    folder = training.folder / CHECKPOINTS
    found = None
    if training.accelerator.is_main_process:
        found = checkpoint.newest_whole(folder)
        checkpoint.set_aside(folder, found[0])
    path, wrong = distributed.broadcast_object(found)
    for message in wrong:
        training.journal.event(training.step, "checkpoint", f"{message}; the one before it is used")
    return path


def restore(training: Training, path: Path) -> None:
    """Put a checkpoint back. Raises ValueError where it is of other data or does not fit."""
    position = checkpoint.read_position(path)
    if position.plan != training.plan.fingerprint():
        raise InvalidValueError(
            f"{training.folder} was trained on other data: its order is {position.plan}, that of "
            f"{training.config.train!r} is {training.plan.fingerprint()}; choose another --out, or restore the shards"
        )
    if position.data not in ("", training.index.fingerprint):
        raise InvalidValueError(
            f"the shards of {training.config.train!r} are not those {training.folder} was trained on: their "
            f"fingerprint was {position.data}, it is {training.index.fingerprint}; "
            "restore them, or choose another --out"
        )
    weights = checkpoint.read_tensors(path, checkpoint.WEIGHTS)
    checkpoint.fill(training.inner, weights, source=path / checkpoint.WEIGHTS)
    checkpoint.fill_optimizer(training.optimizer, checkpoint.read_tensors(path, checkpoint.OPTIMIZER))
    for name, kept in ((checkpoint.AVERAGE, training.average), (checkpoint.MOMENTUM, training.momentum)):
        if kept is not None:
            checkpoint.read_model(path, kept.model, file=name)
    scaler = training.accelerator.scaler
    if scaler is not None:
        checkpoint.fill_scaler(scaler, checkpoint.read_tensors(path, checkpoint.SCALER))
    training.continue_at(Cursor(position.step, position.consumed))
    training.learning_rate_scale, training.rollbacks = position.learning_rate_scale, position.rollbacks
    training.seconds, training.skipped = position.seconds, 0
    training.tally = SampleCounts(
        Counts(**position.counts), training.tally.budget, device=training.accelerator.device
    )
