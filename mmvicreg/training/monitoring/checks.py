"""What is checked after a step: collapse of the embeddings, views that no sample has, validation scores."""

from __future__ import annotations

from mmvicreg.errors import UnknownNameError
from mmvicreg.training.data import check_presence, shard_cache_of
from mmvicreg.training.monitoring.collapse import CollapseDiagnostics, measure
from mmvicreg.training.monitoring.guards import CollapseError, compare_processes
from mmvicreg.training.monitoring.metrics import StepMetrics
from mmvicreg.training.state import Training


def check_embeddings(training: Training, metrics: StepMetrics) -> CollapseDiagnostics | None:
    """Collapse diagnostics, if they are due after this step; every process calls this."""
    every = training.config.guard.diagnose_every
    due = every and (training.step % every == 0 or training.step == training.total_steps)
    if not due or training.skipped.consecutive:
        return None
    return measure(metrics.output.z, metrics.present)


def raise_alarms(training: Training, diagnostics: CollapseDiagnostics) -> str:
    """Write an event for every alarm; the alarm to roll back for, or empty. Raises CollapseError if one stops the
    run."""
    guard = training.config.guard
    for alarm in training.alarms.update(diagnostics, training.step):
        training.logger.event(training.step, "collapse", alarm)
        if guard.action == "warn":
            continue
        if guard.action == "stop" or training.rollbacks.count >= guard.max_rollbacks:
            raise CollapseError(f"step {training.step}: {alarm}")
        return alarm
    return ""


def check_weights(training: Training) -> None:
    """Compare the weights of all processes, if that is due. Raises ProcessesDifferError."""
    every = training.config.guard.compare_every
    if every and training.step % every == 0 and training.config.parallel != "fsdp":
        compare_processes(training.inner, training.step)


def check_views(training: Training) -> None:
    """Raise AbsentViewError if no sample so far had some view, once enough samples were read; every process calls
    this."""
    after = min(training.config.guard.absent_after, training.plan.samples)
    before = training.plan.cursor(training.step - 1).consumed
    ends = training.step == training.total_steps and training.consumed < after
    if after and (before < after <= training.consumed or ends):
        counts = training.sample_counts.sum()
        cache = shard_cache_of(training.config)
        check_presence(counts, training.readers, training.index, cache=cache)


def validate(training: Training) -> dict[str, float]:
    """Validation scores, if they are due after this step; every process calls this."""
    due = training.step % training.config.validation.every == 0 or training.step == training.total_steps
    if training.validation is None or not due:
        return {}
    model = training.inner.model if training.average is None else training.average.model
    return training.validation.scores(
        model, device=training.accelerator.device, threads=training.config.threads
    )


def best_score(training: Training, scores: dict[str, float]) -> float | None:
    """The score that chooses the best checkpoint; None if there is none now."""
    best = training.config.best_metric
    if not best or not scores:
        return None
    if best not in scores:
        raise UnknownNameError(f"best_metric is {best!r}; validation gives {', '.join(sorted(scores))}")
    return scores[best]
