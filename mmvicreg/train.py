"""The training loop: batches to terms to weights, on one process or many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mmvicreg.accumulation import average_gradients, chunked_step
from mmvicreg.assembly import Config, Training, assemble, check, make_accelerator, modalities_in_use, resolved
from mmvicreg.collapse import look
from mmvicreg.config import to_json
from mmvicreg.continuation import restore, resume, save, saved_batch_size
from mmvicreg.guards import Collapsed, NonFiniteLoss, Verdict, agree, compare_processes, explain_non_finite
from mmvicreg.journal import flat
from mmvicreg.numbers import StepNumbers, log_line
from mmvicreg.objective import Objective
from mmvicreg.optim import clip_gradients, gradient_norms, total_norm
from mmvicreg.preemption import Preempted, Preemption
from mmvicreg.progress import bar
from mmvicreg.runs import Run, load, open_run
from mmvicreg.schedule import freeze_until, learning_rate_factor, set_learning_rate
from mmvicreg.shards import open_index
from mmvicreg.step import StepOutput, seed_random_state, step_seed
from mmvicreg.stream import Batch, Stream, stream
from mmvicreg.watch import Clock, Watchdog, flops_per_sample, peak_flops
