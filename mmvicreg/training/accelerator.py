"""Device, processes and precision of a run: Accelerate, with an end to the wait for processes that never come."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from mmvicreg.errors import InvalidValueError
from mmvicreg.runs.config import TrainConfig
from mmvicreg.training.monitoring.throughput import deadline
from mmvicreg.training.monitoring.trackers import check_trackers

PATIENCE = timedelta(hours=2)
"""Of a collective: one process indexes new shards, or encodes once, while the others wait (NCCL's own is 10 minutes).
While training, --guard.stall-stop ends a process sooner."""


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Device, processes, precision and trackers.

    Raises ValueError for a precision the device does not have, and for a tracker that is not there.
    """
    if config.precision == "fp16" and (config.cpu or not torch.cuda.is_available()):
        raise InvalidValueError("precision fp16 needs a GPU; choose bf16 or fp32")
    check_trackers(config.trackers)
    _check_launcher()
    # Its settings are of the process: without this a second run in one process could not have another precision.
    AcceleratorState._reset_state()
    seconds = config.guard.process_group_timeout
    alone = (
        f"the processes of this run did not meet within {seconds:g} s (--guard.process-group-timeout): one of them "
        "died, never started, or cannot reach the main one; see the output of the others and start the command again"
    )
    with deadline(seconds, alone):
        return Accelerator(
            # Without an accelerator several processes would each take themselves for the only one.
            cpu=config.cpu or not torch.accelerator.is_available(),
            mixed_precision="no" if config.precision == "fp32" else config.precision,
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
            log_with=list(config.trackers) or None,
            project_dir=config.out,
        )


def _check_launcher() -> None:
    """Raise ValueError where ``accelerate launch --cpu`` was asked for several processes and started this one only:
    each would train alone, into one run directory."""
    asked = {"ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= set(os.environ)
    told = {"RANK", "WORLD_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"} & set(os.environ)
    if asked and not told and os.environ["ACCELERATE_USE_CPU"].lower() == "true":
        raise InvalidValueError(
            "accelerate launch --cpu was asked for several processes and started one (more only with mpirun); take "
            "accelerate launch --multi_gpu --num_processes 2 RECIPE --cpu, or torchrun --nproc-per-node 2 RECIPE --cpu"
        )
