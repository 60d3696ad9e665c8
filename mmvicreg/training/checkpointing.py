"""Save, resume and roll back a training run: every stateful part of it, over any number of processes."""

from __future__ import annotations

import time
from pathlib import Path

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError
from mmvicreg.plan.plan import Cursor, Plan
from mmvicreg.runs import checkpoint
from mmvicreg.runs.config import TrainConfig
from mmvicreg.runs.directory import cut_log
from mmvicreg.runs.run import CHECKPOINTS
from mmvicreg.shards.index import ShardIndex
from mmvicreg.training.state import Training


def snapshot(training: Training, *, score: float | None, seconds: float) -> checkpoint.Snapshot:
    """Copy the state of every part to the host; every process calls this."""
    position = checkpoint.Position(
        step=training.step,
        consumed=training.consumed,
        processes=training.accelerator.num_processes,
        plan=training.plan.fingerprint(),
        data=training.index.fingerprint,
        score=score,
        seconds=seconds,
        parts={name: part.state_dict() for name, part in training.json_parts().items()},
    )
    files = {name: part.state_dict() for name, part in training.tensor_parts().items()}
    return checkpoint.Snapshot(position, files)


def save(training: Training, *, score: float | None, started: float) -> None:
    """Begin to write a checkpoint of the current step; every process calls this. ``started``: monotonic time."""
    training.sample_counts.sum()
    writer = training.checkpoint_writer
    # Processes that hold parts of the weights all take part in the copy; otherwise the main one has them all.
    if writer is None and training.config.parallel == "ddp":
        return
    taken = snapshot(training, score=score, seconds=training.seconds + time.monotonic() - started)
    if writer is not None:
        writer.save(taken)


def resume(training: Training) -> None:
    """Continue from the newest whole checkpoint, if there is one. Every process calls this."""
    path = _newest(training)
    if path is not None:
        restore(training, path)
    if training.accelerator.is_main_process:
        cut_log(training.folder, training.step)  # without a checkpoint too: a run killed early has lines


def roll_back(training: Training, reason: str) -> bool:
    """Restore the newest whole checkpoint with a lower learning rate; False if there is none."""
    if training.checkpoint_writer is not None:
        training.checkpoint_writer.wait()
    distributed.barrier()
    path = _newest(training)
    if path is None:
        return False
    guard, failed = training.config.guard, training.step
    rollbacks = training.rollbacks.next(guard.rollback_factor)
    restore(training, path)
    training.rollbacks = rollbacks
    training.alarms.clear()
    training.skipped.consecutive = 0
    if training.accelerator.is_main_process:
        cut_log(training.folder, training.step)
    training.logger.event(
        failed,
        "rollback",
        f"{reason}. Back to step {training.step}, learning rates times {rollbacks.learning_rate_scale:g} from here "
        f"({rollbacks.count} of {guard.max_rollbacks} times)",
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
        training.logger.event(training.step, "checkpoint", f"{message}; the one before it is used")
    return path


def check_data(position: checkpoint.Position, config: TrainConfig, plan: Plan, index: ShardIndex) -> None:
    """Raise ValueError if the checkpoint at ``position`` was written by a run on other data."""
    if position.plan != plan.fingerprint():
        raise InvalidValueError(
            f"{config.out} was trained on other data: its order is {position.plan}, that of {config.train!r} is "
            f"{plan.fingerprint()}; choose another --out, or restore the shards"
        )
    if position.data not in ("", index.fingerprint):
        raise InvalidValueError(
            f"the shards of {config.train!r} are not those {config.out} was trained on: their fingerprint was "
            f"{position.data}, it is {index.fingerprint}; restore them, or choose another --out"
        )


def restore(training: Training, path: Path) -> None:
    """Load every part from a checkpoint. Raises ValueError if it is of other data or does not fit."""
    position = checkpoint.read_position(path)
    check_data(position, training.config, training.plan, training.index)
    for name, part in training.tensor_parts().items():
        part.load_state_dict(checkpoint.read_tensors(path, name), source=path / name)
    training.continue_at(Cursor(position.step, position.consumed))
    for key, state in training.json_parts().items():
        if key in position.parts:
            state.load_state_dict(position.parts[key])
    training.seconds = position.seconds
