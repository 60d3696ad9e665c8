"""The training loop: batches to terms to weights, on one process or many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from mmvicreg.branches import head as heads
from mmvicreg.errors import UnknownNameError, show_messages_alone
from mmvicreg.objectives import predictors
from mmvicreg.objectives.objective import Objective
from mmvicreg.progress import bar
from mmvicreg.randomness import seed_random_state, step_seed
from mmvicreg.runs.config import to_json
from mmvicreg.runs.run import Run, load, open_run, read_config, rebuild, write_config
from mmvicreg.stream.stream import Batch, Stream
from mmvicreg.training.accelerator import make_accelerator
from mmvicreg.training.checkpointing import resume, roll_back, save, saved_batch_size
from mmvicreg.training.data import open_parts, spool_of
from mmvicreg.training.gradient_cache import average_gradients, chunked_step
from mmvicreg.training.monitoring.collapse import look
from mmvicreg.training.monitoring.guards import (
    CollapseError,
    NonFiniteLossError,
    Verdict,
    agree,
    compare_processes,
    explain_non_finite,
)
from mmvicreg.training.monitoring.metrics import StepMetrics, conclude, log_line
from mmvicreg.training.monitoring.throughput import Clock, Watchdog, flops_per_sample, peak_flops
from mmvicreg.training.optimizer import clip_gradients, gradient_norms, total_norm
from mmvicreg.training.preemption import Preempted, Preemption
from mmvicreg.training.preflight import check, modalities_in_use
from mmvicreg.training.schedule import freeze_until, learning_rate_factor, set_learning_rate
from mmvicreg.training.setup import Config, Training, assemble, resolved
from mmvicreg.training.step import StepOutput


def train(config: Config, objective: Callable[[Config], Objective]) -> Run:
    """Train what ``config`` describes, or continue it, and return the finished run.

    SIGTERM and SIGUSR1 write a checkpoint and end the process (Preempted, a SystemExit of status 0). Raises
    ValueError, KeyError or FileNotFoundError for what cannot be trained, before the first step; then
    NonFiniteLossError, CollapseError, ProcessesDifferError, TooManyRejectedError, and OSError where the last
    checkpoint cannot be written.
    """
    show_messages_alone()
    found = saved_batch_size(Path(config.out)) if config.resume == "auto" else None
    if config.batch_size == "auto" and found is not None:
        config = resolved(config, found)
    accelerator = make_accelerator(config)
    check(config, accelerator.num_processes)
    with accelerator.main_process_first():
        parts = open_parts(config)
    if accelerator.is_main_process:
        open_run(config)
    accelerator.wait_for_everyone()
    training = assemble(config, objective, accelerator, parts)
    if config.batch_size == "auto":
        training.config = resolved(config, training.batch_size)
        if accelerator.is_main_process:
            write_config(training.config)
    if accelerator.is_main_process:
        predicted = predictors.predictors_of(training.inner.objective, training.inner.model.views)
        predictors.write(training.folder, training.inner, predicted)
        model = training.inner.model
        heads.write(training.folder, {name: model.branch_named(name).projector for name in model.branches})
    resume(training)
    training.journal.begin(to_json(training.config), training.step)
    try:
        Loop(training).run()
        if training.keeper is not None:
            training.keeper.close()
    finally:
        if training.keeper is not None:
            training.keeper.wait()
        training.journal.close()
    accelerator.wait_for_everyone()
    if config.parallel == "fsdp":  # a shared-out model would need all processes for every batch it sees
        return rebuild(training.folder, read_config(training.folder), modalities_in_use(config))
    model = training.inner.model.eval()
    modalities, trained = (
        modalities_in_use(config),
        predictors.predictors_of(training.inner.objective, model.views),
    )
    return Run(training.folder, to_json(training.config), modalities, model, training.step, trained)


class Loop:
    """Steps until the end. One method a stage: data, step, guards, and what is written."""

    def __init__(self, training: Training) -> None:
        self.training, self.config = training, training.config
        self.preemption = Preemption()
        self.started = time.monotonic()
        guard = training.config.guard
        self.watchdog = Watchdog(
            lambda message: training.journal.event(training.step, "stall", message),
            training.folder / f"stacks-{training.accelerator.process_index}.txt",
            warning=guard.stall_warning,
            stop=guard.stall_stop,
        )

    def run(self) -> None:
        """Every step that is left."""
        training = self.training
        training.inner.train()
        training.rehearse()
        self._estimate()
        left = (training.total_steps - training.step) * training.batch_size
        with ExitStack() as stack:
            for context in (self.preemption, self.watchdog):
                stack.enter_context(context)
            self.advance = stack.enter_context(bar("train", left, show=training.accelerator.is_main_process))
            while training.step < training.total_steps:
                self._until_rolled_back()

    def _estimate(self) -> None:
        training = self.training
        device = training.accelerator.device
        if peak_flops(self.config.peak_tflops, device, self.config.precision):
            training.flops = flops_per_sample(
                training.inner.model,
                training.readers,
                precomputed=training.inner.precomputed,
                device=device,
            )

    def _until_rolled_back(self) -> None:
        """Steps to the end, or to an alarm that goes back to a checkpoint."""
        training = self.training
        model, unfreeze_at = training.inner.model, self.config.optimizer.unfreeze_at
        if freeze_until(model, unfreeze_at, training.step):
            training.rewrap()
        training.clock = Clock()
        batches = self._stream()
        training.tally.follow(batches.counts)
        try:
            for batch in self._timed(batches):
                if freeze_until(model, unfreeze_at, training.step):
                    training.rewrap()
                numbers, verdict = self.step(batch)
                reason = self._look_and_write(numbers, verdict)
                if reason:
                    self._roll_back(reason)
                    return
            conclude(training)
        finally:
            batches.close()

    def _stream(self) -> Stream:
        training, accelerator = self.training, self.training.accelerator
        return Stream(
            training.index,
            training.plan,
            readers=training.readers,
            start=training.step,
            stop=training.total_steps,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            threads=self.config.threads,
            ledger=str(training.folder),
            workers=self.config.stream.workers,
            substitutes=self.config.stream.substitutes,
            budget=None,  # it holds for all processes together: the tally has it
            patience=self.config.stream.wait_warning,
            spool=spool_of(self.config),
            device=accelerator.device,
        )

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            asked = time.perf_counter()
            self.watchdog.beat(f"waiting for the data of step {self.training.step}")
            batch = next(batches, None)
            self.training.clock.waited += time.perf_counter() - asked
            if batch is None:
                return
            self.watchdog.beat(f"computing step {self.training.step}")
            yield batch

    def step(self, batch: Batch) -> tuple[StepMetrics, Verdict]:
        """Forward, backward, what all processes agree on, weights."""
        training, optimizer = self.training, self.training.optimizer
        guard = self.config.guard
        if guard.max_skipped_steps:
            training.buffers.keep()
        self._set_learning_rate()
        output = self._differentiate(batch)
        training.accelerator.unscale_gradients(optimizer)
        norms = gradient_norms(optimizer)
        norm = total_norm(norms)
        keeper = training.keeper
        verdict = agree(
            output.terms.total,
            norm,
            signal=self.preemption.received,
            save=keeper is not None and keeper.due(training.step + 1),
        )
        scaled = training.accelerator.scaler is not None  # fp16 overflows now and then, and skips by itself
        if verdict.finite_loss and (verdict.finite_gradient or scaled):
            clip_gradients(optimizer, norm, self.config.optimizer.max_gradient_norm)
            optimizer.step()
            for kept in (training.average, training.momentum):
                if kept is not None:
                    kept.update(training.inner.model)
            training.skipped = 0
        else:
            self._skip(output, norms, batch)
        optimizer.zero_grad(set_to_none=True)
        training.step += 1
        training.clock.samples += training.batch_size
        return StepMetrics(output, norms, batch.present), verdict

    def _set_learning_rate(self) -> None:
        training = self.training
        factor = learning_rate_factor(
            training.consumed,
            warmup=training.warmup_samples,
            total=training.total_samples,
            config=self.config.optimizer,
            unit=training.batch_size,
        )
        set_learning_rate(training.optimizer, factor * training.learning_rate_scale)

    def _differentiate(self, batch: Batch) -> StepOutput:
        """Terms of the objective, and gradients averaged over processes."""
        training, config = self.training, self.config
        accelerator, inner, step = training.accelerator, training.inner, training.step
        seed, rank = step_seed(config.seed, step), accelerator.process_index
        inputs = {view: x.to(accelerator.device, non_blocking=True) for view, x in batch.inputs.items()}
        targets: dict[str, Tensor] | None = None
        if training.momentum is not None:
            seed_random_state(config.seed, step, rank=rank, part="momentum")
            with accelerator.autocast():
                targets = training.momentum.targets(inputs, batch.present, precomputed=inner.precomputed)
        seed_random_state(config.seed, step, rank=rank)
        if config.gradient_cache_size:
            with accelerator.autocast():
                output = chunked_step(
                    inner,
                    inputs,
                    batch.present,
                    seed=seed,
                    targets=targets,
                    chunk=config.gradient_cache_size,
                    reseed=lambda part: seed_random_state(config.seed, step, rank=rank, part=part),
                    backward=accelerator.backward,
                )
        elif config.parallel != "ddp":
            with accelerator.autocast():
                output = training.module(inputs, batch.present, seed, targets)
            accelerator.backward(output.terms.total)
        else:
            output = training.module(inputs, batch.present, seed, targets)
            accelerator.backward(output.terms.total)
        if config.gradient_cache_size:
            average_gradients(inner.parameters())
        elif config.parallel == "fsdp":
            average_gradients(inner.objective.parameters())
        return output

    def _skip(self, output: StepOutput, norms: dict[str, Tensor], batch: Batch) -> None:
        """Leave the weights as they are, or stop where the budget is spent."""
        training, guard = self.training, self.config.guard
        message = explain_non_finite(training.step, output, norms, batch, skips=guard.max_skipped_steps)
        training.skipped += 1
        if training.skipped > guard.max_skipped_steps:
            raise NonFiniteLossError(message)
        training.buffers.restore()
        training.journal.event(
            training.step,
            "skip",
            f"left out ({training.skipped} of {guard.max_skipped_steps} in a row): {message}",
        )

    def _look_and_write(self, numbers: StepMetrics, verdict: Verdict) -> str:
        """Guards, probe, log and checkpoint after a step; the reason to roll back, or empty."""
        training, config, step = self.training, self.config, self.training.step
        last = step == training.total_steps
        looks = None
        if (
            config.guard.diagnose_every
            and (step % config.guard.diagnose_every == 0 or last)
            and not training.skipped
        ):
            looks = look(numbers.output.z, numbers.present)
            for alarm in training.alarms.hear(looks, step):
                if self._act_on(alarm):
                    return alarm
        if config.guard.compare_every and step % config.guard.compare_every == 0:
            if config.parallel != "fsdp":
                compare_processes(training.inner, step)
        scores = self._probe(last)
        if step % config.log_every == 0 or last or looks is not None or scores:
            training.journal.numbers(log_line(training, numbers, looks=looks, probe=scores))
            training.tally.check()
        score = self._score(scores)
        scored = score is not None  # the best one must not fall between two checkpoints
        if verdict.save or verdict.signal or last or scored:
            self.watchdog.beat(f"writing the checkpoint of step {step}")
            save(training, score=score, started=self.started)
        self._tell_problems(step)
        self.advance(training.batch_size, f"step {step} of {training.total_steps}")
        if verdict.signal and not last:
            self._leave(verdict.signal)
        return ""

    def _act_on(self, alarm: str) -> bool:
        """Write an alarm down; True to roll back. Raises CollapseError where it stops the run."""
        training, guard = self.training, self.config.guard
        training.journal.event(training.step, "collapse", alarm)
        if guard.action == "warn":
            return False
        if guard.action == "stop" or training.rollbacks >= guard.max_rollbacks:
            raise CollapseError(f"step {training.step}: {alarm}")
        return True

    def _roll_back(self, reason: str) -> None:
        if not roll_back(self.training, reason):
            raise CollapseError(f"step {self.training.step}: {reason}; there is no checkpoint to go back to")

    def _probe(self, last: bool) -> dict[str, float]:
        training, config = self.training, self.config
        if training.probe is None or not (training.step % config.validation.every == 0 or last):
            return {}
        self.watchdog.beat(f"the probe of step {training.step}")
        model = training.inner.model if training.average is None else training.average.model
        return training.probe.scores(model, device=training.accelerator.device, threads=config.threads)

    def _score(self, scores: dict[str, float]) -> float | None:
        best = self.config.best_metric
        if not best or not scores:
            return None
        if best not in scores:
            raise UnknownNameError(f"best_metric is {best!r}; validation gives {', '.join(sorted(scores))}")
        return scores[best]

    def _tell_problems(self, step: int) -> None:
        keeper = self.training.keeper
        if keeper is not None and (problem := keeper.problem()):
            self.training.journal.event(step, "checkpoint", problem)

    def _leave(self, number: int) -> None:
        """The checkpoint is being written: wait for it, and end the process."""
        import signal

        training = self.training
        if training.keeper is not None:
            training.keeper.close()
        training.accelerator.wait_for_everyone()
        name = signal.Signals(number).name
        training.journal.event(training.step, "preemption", str(Preempted(training.step, name)))
        raise Preempted(training.step, name)


__all__ = ["CollapseError", "NonFiniteLossError", "Preempted", "Run", "load", "train"]
