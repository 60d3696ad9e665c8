"""Device, processes and precision of a run: Accelerate, with a limit on the wait for processes that never start."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError
from mmvicreg.runs.config import TrainConfig
from mmvicreg.training.monitoring.logger import check_trackers
from mmvicreg.training.monitoring.watchdog import deadline

REFUSED = {
    "ACCELERATE_USE_FSDP": "choose --parallel fsdp of the recipe instead",
    "ACCELERATE_USE_DEEPSPEED": "leave it out; --parallel fsdp of the recipe divides the weights",
    "ACCELERATE_USE_MEGATRON_LM": "leave it out; --parallel fsdp of the recipe divides the weights",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "leave it out; --parallel of the recipe says how processes share the work",
    "ACCELERATE_USE_SAGEMAKER": "start the recipe with torchrun",
    "ACCELERATE_DOWNCAST_BF16": "choose --precision bf16 of the recipe instead",
}
"""switches of launchers that this package does not support, and what to do instead"""


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Device, processes, precision and trackers.

    Raises ValueError for a tracker that is not installed and for launcher options that would be ignored.
    """
    check_trackers(config.trackers)
    check_launcher(config, os.environ)
    # Accelerate keeps its settings per process: without this a second run could not have another precision.
    AcceleratorState._reset_state()
    seconds = config.guard.process_group_timeout
    message = (
        f"the processes of this run did not meet within {seconds:g} s (--guard.process-group-timeout): one of them "
        "died, never started, or cannot reach the main one; see the output of the others and start the command again"
    )
    with deadline(seconds, message):
        return Accelerator(
            # Without an accelerator several processes would each take themselves for the only one.
            cpu=config.cpu or not torch.accelerator.is_available(),
            mixed_precision="no" if config.precision == "fp32" else config.precision,
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=distributed.TIMEOUT),
            ],
            log_with=list(config.trackers) or None,
            project_dir=config.out,
        )


def check_launcher(config: TrainConfig, environment: Mapping[str, str]) -> None:
    """Raise ValueError for every option of ``accelerate launch`` that this run would ignore or misread.

    The launcher hands its options to the processes in environment variables, which a configuration file or the
    shell may also set.
    """
    for name, instead in REFUSED.items():
        if _on(environment.get(name, "")):
            raise InvalidValueError(f"the launcher sets {name}, which this run would ignore: {instead}")
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("", "1"):
        raise InvalidValueError(
            f"the launcher sets gradient_accumulation_steps to {steps}: accumulation averages the statistics of small "
            "batches, which is another objective; leave it out and give the recipe --gradient-cache-size, which has "
            "the gradient of the whole batch"
        )
    asked = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    given = "no" if config.precision == "fp32" else config.precision
    if asked not in ("", "no", given):
        raise InvalidValueError(
            f"the launcher sets mixed_precision to {asked}, the recipe's --precision is {config.precision}; give the "
            "recipe --precision bf16 or fp16, or the launcher --mixed_precision no"
        )
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() not in ("", "no"):
        raise InvalidValueError(
            f"the launcher sets dynamo_backend to {backend}, which this run would ignore: give the recipe --compile"
        )
    if environment.get("ACCELERATE_GRADIENT_CLIPPING", "none").lower() not in ("", "none"):
        raise InvalidValueError(
            "the launcher sets gradient_clipping, which this run would ignore: give the recipe "
            "--optimizer.max-gradient-norm"
        )
    _check_cpu_launch(environment)


def _check_cpu_launch(environment: Mapping[str, str]) -> None:
    """Raise ValueError if ``accelerate launch --cpu`` was asked for several processes and started this one only: each
    would train alone, into one run directory."""
    several = {"ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= set(environment)
    ranks = {"RANK", "WORLD_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"} & set(
        environment
    )
    if several and not ranks and _on(environment["ACCELERATE_USE_CPU"]):
        raise InvalidValueError(
            "accelerate launch --cpu was asked for several processes and started one (more only with mpirun); use "
            "accelerate launch --multi_gpu --num_processes 2 RECIPE --cpu, or torchrun --nproc-per-node 2 RECIPE --cpu"
        )


def _on(value: str) -> bool:
    return value.lower() in ("1", "true", "yes", "on", "y", "t")
