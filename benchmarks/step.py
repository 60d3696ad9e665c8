"""Claim: a training step of ours is at least as fast as open_clip's own, for the same two towers and batch.

    python benchmarks/step.py                                     # small towers, on a CPU
    python benchmarks/step.py --model ViT-B-32 --batch-size 1024 --precision bf16      # on a GPU
    python benchmarks/step.py --model RN50 --batch-size 1024 --precision bf16
    python benchmarks/step.py --tiny                              # seconds: one step of one layer, to see that it runs

open_clip's side is its training loop (open_clip_train.train.train_one_epoch: autocast, InfoNCE, backward, AdamW,
clamp), ours the loop's step (random state, forward, objective, backward, norms, guards, AdamW), on the same
batches, made beforehand. Sides take turns; the best round of each counts: CPU time of the process on a CPU (other
users of the machine do not count), wall time on a GPU. Memory is the peak of all that a side holds (weights, gradients,
moments, activations), in a process of its own. Ours has no projector, so the towers are the same; pixels arrive as
uint8 and are normalized inside our step. Last line: one JSON object.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from measure import apart, peak_bytes

sys.path.insert(0, str(Path(__file__).parent.parent))

MEAN, STD = (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)
"""OpenAI's normalization of pixels, rounded; the same on both sides."""
REGULARIZERS = ("vicreg", "visreg", "sigreg")


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str = "small"
    """small (4 layers of width 256, 64 pixels, 32 tokens), or a model of open_clip"""
    batch_size: int = 256
    steps: int = 2
    """steps of a round"""
    rounds: int = 5
    minutes: float = 3.0
    precision: Literal["fp32", "bf16"] = "fp32"
    tiny: bool = False
    """one step of towers of one layer, to see that it runs"""


def towers(options: Options) -> Any:
    """An open_clip model with separate towers, random weights."""
    import open_clip
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

    if options.model != "small":
        return open_clip.create_model(options.model, force_custom_text=True, output_dict=True)
    layers, width = (1, 64) if options.tiny else (4, 256)
    vision = CLIPVisionCfg(layers=layers, width=width, head_width=width // 4, patch_size=16, image_size=64)
    text = CLIPTextCfg(context_length=32, vocab_size=49408, width=width, heads=4, layers=layers)
    return CustomTextCLIP(width, vision, text, output_dict=True)


def open_clip_side(clip: Any, batches: list[Any], options: Options, device: Any) -> Callable[[], None]:
    """One call: ``steps`` steps of open_clip's training loop."""
    import torch
    from open_clip import ClipLoss
    from open_clip_train.train import train_one_epoch

    model = copy.deepcopy(clip).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0.2)
    side = model.visual.image_size[0]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    prepared = [((image.float() / 255 - mean) / std, text) for image, text in batches]
    assert prepared[0][0].shape[-1] == side

    class Loader:
        """Batches, and what the loop asks of a loader."""

        num_batches = len(prepared)
        num_samples = len(prepared) * options.batch_size

        def __iter__(self) -> Any:
            return iter(prepared)

    data = {"train": Namespace(set_epoch=lambda epoch: None, dataloader=Loader())}
    args = Namespace(
        device=str(device),
        precision="fp32" if options.precision == "fp32" else "amp_bf16",
        distill=False,
        accum_freq=1,
        skip_scheduler=True,
        grad_clip_norm=None,
        horovod=False,
        rank=0,
        local_rank=0,
        world_size=1,
        distributed=False,
        log_local=False,
        log_every_n_steps=10**9,
        batch_size=options.batch_size,
        wandb=False,
    )
    loss = ClipLoss()
    return lambda: train_one_epoch(model, data, loss, 0, optimizer, None, None, None, args)


def our_side(clip: Any, batches: list[Any], options: Options, device: Any, goal: Any) -> Callable[[], None]:
    """One call: the same number of steps of ours."""
    import numpy as np

    from mmvicreg import Plan, TrainConfig
    from mmvicreg.training.accelerator import make_accelerator
    from mmvicreg.training.loop import Loop
    from mmvicreg.training.monitoring.guards import Alarms, BufferCopies
    from mmvicreg.training.optimizer import make_optimizer, parameter_groups
    from mmvicreg.training.state import Training

    inner = _our_step(clip, goal).to(device)
    config = TrainConfig(
        batch_size=options.batch_size, precision=options.precision, cpu=device.type == "cpu", out="."
    )
    accelerator = make_accelerator(config)
    groups = parameter_groups(inner.model, goal, config.optimizer)
    plan = Plan(np.array([10**6]), seed=0, global_batch=options.batch_size)
    absent = "parts index average momentum validation logger checkpoint_writer sample_counts"
    fields: Any = dict.fromkeys(absent.split())
    training = Training(
        config=config,
        batch_size=options.batch_size,
        accelerator=accelerator,
        plan=plan,
        readers={},
        inner=inner,
        module=accelerator.prepare_model(inner),
        optimizer=accelerator.prepare_optimizer(make_optimizer(groups, config.optimizer)),
        alarms=Alarms(config.guard),
        buffers=BufferCopies(inner),
        total_samples=10**9,
        warmup_samples=10**6,
        **fields,
    )
    loop = Loop(training)
    ready = _as_batches(batches, options.batch_size)

    def steps() -> None:
        for batch in ready:
            loop.step(batch)

    return steps


def _our_step(clip: Any, goal: Any) -> Any:
    """The towers of ``clip`` without projectors as branches, and the objective: what a step runs."""
    import torch

    from mmvicreg import Branch, Model
    from mmvicreg.branches.model import projector
    from mmvicreg.modalities.encoders.pixel_normalization import PixelNormalization
    from mmvicreg.training.step import Step

    parts = copy.deepcopy(clip)
    visual = torch.nn.Sequential(PixelNormalization(MEAN, STD), parts.visual)
    branches = {
        "image": Branch(visual.to(memory_format=torch.channels_last), projector(1, ())),
        "text": Branch(parts.text, projector(1, ())),
    }
    return Step(Model(branches, {"image": "image", "text": "text"}), goal, frozenset())


def _as_batches(batches: list[Any], size: int) -> list[Any]:
    """What the stream would hand over: every row present."""
    import torch

    from mmvicreg.stream.stream import Batch

    rows = torch.ones(size, dtype=torch.bool)
    present = dict.fromkeys(("image", "text"), rows)
    return [
        Batch(0, 0, ("",) * size, rows.long(), {"image": image, "text": text}, present)
        for image, text in batches
    ]


Side = Callable[[], None]


def make_sides(options: Options, device: Any) -> Mapping[str, Callable[[], Side]]:
    """What builds each side: its own copy of the towers, the same batches."""
    import torch

    import mmvicreg as mm

    logging.getLogger().setLevel(logging.WARNING)
    torch.manual_seed(0)
    clip = towers(options)
    side, length = clip.visual.image_size[0], clip.text.context_length
    shape = (options.batch_size, 3, side, side)
    batches = [
        (
            torch.randint(0, 256, shape, dtype=torch.uint8),
            torch.randint(1, 49000, (options.batch_size, length)),
        )
        for _ in range(options.steps)
    ]
    regularizers = dict(zip(REGULARIZERS, (mm.VICReg(), mm.VISReg(), mm.SIGReg()), strict=True))
    goals = {
        name: mm.Objective(mm.Invariance(25.0), {"image": each, "text": each})
        for name, each in regularizers.items()
    }
    goals |= {
        "infonce": mm.Objective(mm.InfoNCE(), {}),
        "invariance alone": mm.Objective(mm.Invariance(25.0), {}),
    }
    sides = {"open_clip": partial(open_clip_side, clip, batches, options, device)}
    ours = {name: partial(our_side, clip, batches, options, device, goal) for name, goal in goals.items()}
    return {**sides, **ours}


def peak(side: str, options: Options) -> int:
    """Peak bytes of a side from its building to the end of its second step; for a process of its own."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def build_and_step(rows: int) -> None:
        steps = make_sides(replace(options, steps=1, batch_size=rows), device)[side]()
        steps()
        steps()

    return peak_bytes(lambda: build_and_step(options.batch_size), warm_up=lambda: build_and_step(2))


def measure(options: Options) -> dict[str, Any]:
    """Best round of every side, and the ratios."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sides = {name: make() for name, make in make_sides(options, device).items()}
    best = _rounds(sides, options, device)
    memory = {name: apart(peak, name, options) for name in ("open_clip", *REGULARIZERS)}
    ratios = {f"samples_per_second_ratio_{name}": round(best["open_clip"] / best[name], 3) for name in sides}
    rest = {
        f"objective_fraction_{name}": round(1 - best["invariance alone"] / best[name], 3)
        for name in REGULARIZERS
    }
    rest |= {
        f"memory_ratio_{name}": round(memory["open_clip"] / max(memory[name], 1), 3) for name in REGULARIZERS
    }
    seconds = {f"seconds_{name}": round(best[name] / options.steps, 4) for name in sides}
    what = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    about: dict[str, Any] = {"model": options.model, "batch_size": options.batch_size, "device": what}
    about |= {"threads": torch.get_num_threads(), "precision": options.precision}
    del ratios["samples_per_second_ratio_open_clip"], ratios["samples_per_second_ratio_invariance alone"]
    return about | ratios | rest | seconds


def _rounds(sides: dict[str, Side], options: Options, device: Any) -> dict[str, float]:
    """Best seconds of a round of each side."""
    import torch

    best: dict[str, float] = {}
    end = time.monotonic() + 60 * options.minutes
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    for number in range(options.rounds + 1):
        for name, steps in sides.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            before = clock()
            steps()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first round warms up
                best[name] = min(best.get(name, float("inf")), clock() - before)
        print(f"round {number}: { ({name: round(value, 3) for name, value in best.items()}) }", flush=True)
        if time.monotonic() > end and number:
            break
    return best


def main() -> None:
    options = tyro.cli(Options)
    if options.tiny:
        options = replace(options, batch_size=8, steps=1, rounds=1)
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
