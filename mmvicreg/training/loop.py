"""The training loop: steps until the end, each with its guards, validation, log line and checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from mmvicreg.progress import bar
from mmvicreg.randomness import seed_random_state, step_seed
from mmvicreg.stream.stream import Batch, Stream
from mmvicreg.training.checkpointing import roll_back, save
from mmvicreg.training.data import shard_cache_of
from mmvicreg.training.gradient_cache import average_gradients, cached_step
from mmvicreg.training.monitoring import checks
from mmvicreg.training.monitoring.guards import (
    CollapseError,
    NonFiniteLossError,
    Verdict,
    agree,
    explain_non_finite,
)
from mmvicreg.training.monitoring.metrics import StepMetrics, conclude, log_line
from mmvicreg.training.monitoring.preemption import Preempted, Preemption
from mmvicreg.training.monitoring.throughput import Clock, flops_per_sample, peak_flops
from mmvicreg.training.monitoring.watchdog import StallWatchdog
from mmvicreg.training.optimizer import (
    clip_gradients,
    freeze_until,
    gradient_norms,
    learning_rate_factor,
    set_learning_rate,
    total_norm,
)
from mmvicreg.training.state import Training
from mmvicreg.training.step import StepOutput


class Loop:
    """Steps until the end. One method a stage: data, step, guards, and what is written."""

    def __init__(self, training: Training) -> None:
        self.training, self.config = training, training.config
        self.preemption = Preemption()
        self.started = time.monotonic()
        self.note = self.score = ""
        guard = training.config.guard
        self.watchdog = StallWatchdog(
            lambda message: training.logger.event(training.step, "stall", message),
            training.folder / f"stacks-{training.accelerator.process_index}.txt",
            warning=guard.stall_warning,
            stop=guard.stall_stop,
        )

    def run(self) -> None:
        """Every step that is left."""
        training = self.training
        training.inner.train()
        training.settle_buckets()
        self._estimate_flops()
        left = (training.total_steps - training.step) * training.batch_size
        with ExitStack() as stack:
            for context in (self.preemption, self.watchdog):
                stack.enter_context(context)
            self.advance = stack.enter_context(bar("train", left, show=training.accelerator.is_main_process))
            while training.step < training.total_steps:
                self._until_rolled_back()

    def _estimate_flops(self) -> None:
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
        """Steps to the end, or to an alarm that returns to a checkpoint."""
        training = self.training
        model, unfreeze_at = training.inner.model, self.config.optimizer.unfreeze_at
        if freeze_until(model, unfreeze_at, training.step):
            training.rewrap()
        training.clock = Clock()
        batches = self._stream()
        training.sample_counts.follow(batches.counts)
        try:
            for batch in self._timed(batches):
                if freeze_until(model, unfreeze_at, training.step):
                    training.rewrap()
                metrics, verdict = self.step(batch)
                reason = self._finish_step(metrics, verdict)
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
            budget=None,  # it holds for all processes together: the sample counts have it
            patience=self.config.stream.wait_warning,
            shard_cache=shard_cache_of(self.config),
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
        """Forward and backward pass, what all processes agree on, and the update of the weights."""
        training, optimizer = self.training, self.training.optimizer
        if self.config.guard.max_skipped_steps:
            training.buffers.capture()
        self._set_learning_rate()
        output = self._differentiate(batch)
        training.accelerator.unscale_gradients(optimizer)
        norms = gradient_norms(optimizer)
        norm = total_norm(norms)
        writer = training.checkpoint_writer
        verdict = agree(
            output.terms.total,
            norm,
            signal=self.preemption.received,
            save=writer is not None and writer.due(training.step + 1),
        )
        scaled = training.accelerator.scaler is not None  # fp16 overflows now and then, and skips by itself
        if verdict.finite_loss and (verdict.finite_gradient or scaled):
            clip_gradients(optimizer, norm, self.config.optimizer.max_gradient_norm)
            optimizer.step()
            for average in (training.average, training.momentum):
                if average is not None:
                    average.update(training.inner.model)
            training.skipped.consecutive = 0
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
        set_learning_rate(training.optimizer, factor * training.rollbacks.learning_rate_scale)

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
                output = cached_step(
                    inner,
                    inputs,
                    batch.present,
                    seed=seed,
                    targets=targets,
                    size=config.gradient_cache_size,
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
        """Leave the weights as they are, or stop if too many consecutive steps were skipped."""
        training, allowed = self.training, self.config.guard.max_skipped_steps
        message = explain_non_finite(training.step, output, norms, batch, skips=allowed)
        training.skipped.consecutive += 1
        if training.skipped.consecutive > allowed:
            raise NonFiniteLossError(message)
        training.buffers.restore()
        training.logger.event(
            training.step,
            "skip",
            f"skipped ({training.skipped.consecutive} of {allowed} in a row): {message}",
        )

    def _finish_step(self, metrics: StepMetrics, verdict: Verdict) -> str:
        """Checks, validation, log and checkpoint after a step; the reason to roll back, or empty."""
        training, step = self.training, self.training.step
        last = step == training.total_steps
        diagnostics = checks.check_embeddings(training, metrics)
        alarm = checks.raise_alarms(training, diagnostics) if diagnostics is not None else ""
        if alarm:
            return alarm
        checks.check_weights(training)
        checks.check_views(training)
        self.watchdog.beat(f"the checks after step {step}")
        scores = checks.validate(training)
        if step % self.config.log_every == 0 or last or diagnostics is not None or scores:
            line = log_line(training, metrics, diagnostics=diagnostics, validation=scores)
            training.logger.metrics(line)
            self._update_note(line)
            training.logger.show(line, total_steps=training.total_steps, score=self.score)
            training.sample_counts.check()
        score = checks.best_score(training, scores)
        scored = score is not None  # the best checkpoint must not fall between two
        if verdict.save or verdict.signal or last or scored:
            self.watchdog.beat(f"writing the checkpoint of step {step}")
            save(training, score=score, started=self.started)
        writer = training.checkpoint_writer
        if writer is not None and (problem := writer.problem()):
            training.logger.event(step, "checkpoint", problem)
        self.advance(training.batch_size, f"step {step} of {training.total_steps}{self.note}")
        if verdict.signal and not last:
            self._leave(verdict.signal)
        return ""

    def _update_note(self, line: Mapping[str, Any]) -> None:
        """Loss, alignments and the newest validation score, shown beside samples a second."""
        pairs = {name: value for name, value in line["terms"].items() if "-" in name.partition("/")[0]}
        aligned = "".join(f"  {name} {value:.4g}" for name, value in list(pairs.items())[:2])
        scores = line.get("validation", {})
        chosen = self.config.best_metric or next((name for name in scores if "recall_at_1" in name), "")
        if chosen in scores:
            self.score = f"  {chosen} {scores[chosen]:.3f}"
        self.note = f"  loss {line['total']:.4g}{aligned}{self.score}"

    def _roll_back(self, reason: str) -> None:
        if not roll_back(self.training, reason):
            raise CollapseError(f"step {self.training.step}: {reason}; there is no checkpoint to go back to")

    def _leave(self, number: int) -> None:
        """End the process once the checkpoint is written."""
        training = self.training
        if training.checkpoint_writer is not None:
            training.checkpoint_writer.close()
        training.accelerator.wait_for_everyone()
        preempted = Preempted(training.step, number)
        training.logger.event(training.step, "preemption", str(preempted))
        raise preempted
