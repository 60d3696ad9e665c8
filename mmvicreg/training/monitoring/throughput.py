"""Throughput: samples a second, time spent waiting for data, memory, and model FLOPs utilization."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmvicreg.branches.model import Branch, Model
from mmvicreg.stream.reader import Reader

PEAK_TFLOPS = {  # dense, from the vendors' data sheets: (fp32 with TF32 off, bf16 and fp16)
    "H200": (67.0, 989.0),
    "H100": (67.0, 989.0),
    "A100": (19.5, 312.0),
    "L40S": (91.6, 362.0),
    "L4": (30.3, 121.0),
    "V100": (15.7, 125.0),
}


@dataclass
class Clock:
    """Seconds, samples and waiting time since the last line of the log."""

    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    samples: int = 0

    def read(self) -> dict[str, float]:
        """Samples a second and the fraction of time spent waiting for data since the last call."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        metrics = {"samples_per_second": self.samples / seconds, "data_wait": self.waited / seconds}
        self.started, self.waited, self.samples = time.perf_counter(), 0.0, 0
        return metrics


def memory(device: torch.device) -> dict[str, float]:
    """Peak memory so far in GB: of the process, and of the device's allocator on a GPU."""
    metrics = {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    if device.type == "cuda":
        metrics["gpu_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return metrics


def peak_flops(given_tflops: float, device: torch.device, precision: str) -> float:
    """Peak operations a second of one device: as given, or of a known GPU; 0 if unknown."""
    if given_tflops or device.type != "cuda":
        return given_tflops * 1e12
    name = torch.cuda.get_device_name(device)
    known = [values for key, values in PEAK_TFLOPS.items() if key in name]
    return known[0][precision != "fp32"] * 1e12 if known else 0.0


@torch.no_grad()
def flops_per_sample(
    model: Model, readers: dict[str, Reader], *, precomputed: frozenset[str], device: torch.device
) -> float:
    """Operations (multiply and add are two) of the branches for one sample's training step, an estimate.

    Counted on a forward pass of two inputs of zeros in evaluation mode; a trained part counts three times, a frozen
    encoder once. Objective and optimizer are not counted: this is the numerator of MFU.
    """
    was_training = model.training
    model.eval()
    total = 0.0
    for view, reader in readers.items():
        branch = model.branch(view)
        x = torch.zeros((2, *reader.shape), dtype=reader.dtype, device=device)
        h = x if view in precomputed else None
        if h is None:
            with FlopCounterMode(display=False) as counted:
                h = branch.represent(x)
            total += counted.get_total_flops() / 2 * _passes(branch)
        with FlopCounterMode(display=False) as counted:
            branch.projector(h)
        total += counted.get_total_flops() / 2 * 3
    model.train(was_training)
    return total


def _passes(branch: Branch) -> int:
    return 1 if branch.frozen else 3
