"""``train``: from a configuration and an objective to a finished run, on one process or many."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from mmvicreg import distributed
from mmvicreg.branches import head as heads
from mmvicreg.errors import show_messages_alone
from mmvicreg.files import lock
from mmvicreg.objectives import predictors
from mmvicreg.objectives.description import classes_of, describe_objective
from mmvicreg.objectives.objective import Objective
from mmvicreg.plan.mixture import Part
from mmvicreg.runs import checkpoint, directory
from mmvicreg.runs.config import TrainConfig, to_json
from mmvicreg.runs.run import CHECKPOINTS, Run, read_config, rebuild
from mmvicreg.training.accelerator import make_accelerator
from mmvicreg.training.checkpointing import check_data, resume
from mmvicreg.training.data import make_plan, open_parts, whole
from mmvicreg.training.loop import Loop
from mmvicreg.training.monitoring.preemption import INTERRUPTED
from mmvicreg.training.preflight import Resolved, check_batch, check_processes, resolve
from mmvicreg.training.setup import Config, assemble, build_step
from mmvicreg.training.state import Training


def train(config: Config, objective: Callable[[Config], Objective]) -> Run:
    """Train what ``config`` describes, or continue it, and return the finished run.

    SIGTERM, SIGUSR1 and Ctrl-C write a checkpoint and end the process (Preempted, a SystemExit). Raises ValueError,
    KeyError or FileNotFoundError for what cannot be trained or continued, before the first step and with the run
    directory as it was; then NonFiniteLossError, CollapseError, ProcessesDifferError, TooManyRejectedError,
    AbsentViewError, and OSError if the last checkpoint cannot be written.
    """
    show_messages_alone()
    try:
        return _train(config, objective)
    except KeyboardInterrupt:
        print("interrupted; the same command continues the run from its last checkpoint", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _train(config: Config, objective: Callable[[Config], Objective]) -> Run:
    resolved = resolve(config)
    accelerator = make_accelerator(resolved.config)
    check_processes(resolved.config, accelerator.num_processes)
    distributed.on_main_process(lambda: directory.check_folder(resolved.config))
    with accelerator.main_process_first():
        parts = open_parts(resolved.config, resolved.modalities)
    check_batch(resolved.config, whole(parts))
    recipe_config = replace(config, out=resolved.config.out, batch_size=resolved.config.batch_size)
    inner = build_step(resolved, recipe_config, objective)
    views = tuple(inner.model.views)
    description = directory.describe_run(
        resolved.config,
        describe_objective(inner.objective, views),
        classes=classes_of(inner.objective, views),
    )
    with ExitStack() as held:
        warnings = distributed.on_main_process(lambda: _begin(resolved.config, description, parts, held))
        training = assemble(resolved, inner, accelerator, parts)
        _prepare(training, resolved, description, warnings)
        _run(training)
        accelerator.wait_for_everyone()
    return _finished(training, resolved)


def _prepare(
    training: Training, resolved: Resolved, description: directory.RunDescription, warnings: list[str]
) -> None:
    """Write what only the assembled run knows, and continue from the newest checkpoint."""
    inner = training.inner
    if training.accelerator.is_main_process:
        if training.config != resolved.config:  # the batch size was searched
            directory.write_description(
                training.folder, replace(description, config=to_json(training.config))
            )
        predicted = predictors.predictors_of(inner.objective, inner.model.views)
        predictors.write(training.folder, inner, predicted)
        branches = inner.model.branches
        heads.write(training.folder, {name: inner.model.branch_named(name).projector for name in branches})
    resume(training)
    for warning in warnings:
        training.logger.event(training.step, "source", warning)


def _begin(
    config: TrainConfig, description: directory.RunDescription, parts: tuple[Part, ...], held: ExitStack
) -> list[str]:
    """Lock the run directory until ``held`` is closed, check that its run is continued with the same objective and
    data, then write what it is now. Returns warnings; raises LockedError if another process trains there."""
    directory.move_aside(config)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    held.enter_context(lock(Path(config.out), purpose="training"))
    warnings = []
    if directory.is_continued(config):
        folder = Path(config.out)
        warnings = directory.check_continuation(folder, description, allowed=config.allow_change)
        newest = checkpoint.complete_checkpoints(folder / CHECKPOINTS)[-1]
        plan = make_plan(parts, config, 1 if config.batch_size == "auto" else config.batch_size)
        check_data(checkpoint.read_position(newest), config, plan, whole(parts))
    directory.begin(Path(config.out), description)
    return warnings


def _run(training: Training) -> None:
    """Every step that is left, and the last checkpoint."""
    if training.step:
        ended = training.step >= training.total_steps
        what = "is finished" if ended else f"continues from the checkpoint of step {training.step}"
        training.logger.say(f"{training.folder} {what} ({training.step} of {training.total_steps} steps)")
    training.logger.begin(to_json(training.config), training.step)
    writer = training.checkpoint_writer
    try:
        Loop(training).run()
        if writer is not None:
            writer.close()
    finally:
        if writer is not None:
            writer.wait()
        training.logger.close()
    training.logger.say(_next_commands(training))


def _next_commands(training: Training) -> str:
    run = training.folder
    commands = {
        f"mmvicreg report {run} --data 'HELD_OUT-*.tar'": f"scores, examples and curves: {run}/report.html",
        f"mmvicreg explore {run} --data 'HELD_OUT-*.tar'": "a local page to search and compare",
        f"mmvicreg export {run} FOLDER": "for Hugging Face, open_clip and timm",
    }
    width = max(map(len, commands))
    lines = [f"  {command:<{width}}  # {what}" for command, what in commands.items()]
    return "\n".join([f"finished: {training.step} steps, the run is in {run}. Next:", *lines])


def _finished(training: Training, resolved: Resolved) -> Run:
    # A model that is divided would need all processes for every batch it encodes.
    if training.config.parallel == "fsdp":
        return rebuild(training.folder, read_config(training.folder), resolved.branches)
    model = training.inner.model.eval()
    trained = predictors.predictors_of(training.inner.objective, model.views)
    objective = read_config(training.folder)["objective"]
    config = to_json(training.config)
    return Run(training.folder, config, resolved.branches, model, training.step, trained, objective)
