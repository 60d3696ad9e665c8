"""What the optimizer, the guards and the probes of a run are told: frozen dataclasses of plain fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and schedule: linear warm-up, then what ``schedule`` says."""

    name: Literal["adamw", "lars"] = "adamw"
    """adamw (fused kernels), or lars as in the VICReg paper (momentum 0.9, trust coefficient 0.001)"""
    learning_rate: float = 1e-3
    """peak learning rate, for this batch size (nothing is scaled behind your back)"""
    weight_decay: float = 1e-4
    """decay of matrices; biases and normalisation have none"""
    no_decay: tuple[str, ...] = ()
    """regular expressions of further parameter names without decay, such as 'embedding'"""
    beta1: float = 0.9
    """adamw: first moment; lars: momentum"""
    beta2: float = 0.98
    """adamw: second moment"""
    schedule: Literal["cosine", "linear", "constant", "trapezoid"] = "cosine"
    """after warm-up; trapezoid is constant and then linear over the last fifth of the run"""
    warmup_epochs: float = 1.0
    """epochs of linear warm-up from 0"""
    final: float = 0.0
    """learning rate at the end, as a share of the peak"""
    layer_decay: float = 1.0
    """learning rate of each block of an encoder as a share of the next block's (0.75 is usual for fine-tuning)"""
    unfreeze_at: dict[str, int] = field(default_factory=dict)
    """branch and step: the encoder keeps its weights until then, the projector trains (a modality's own
    ``frozen`` locks it for the whole run, as LiT does)"""
    clip: float = 0.0
    """largest norm of the gradient; 0 for no clipping"""


@dataclass(frozen=True)
class StreamConfig:
    """How samples are read, and what is done about bad ones."""

    exclude: str = ""
    """list of samples to leave out, as 'mmvicreg check --quarantine' writes it"""
    weights: tuple[float, ...] = ()
    """mix several data sets (separated by :: in train), each with its share of the samples; empty for no mixture"""
    at_least: dict[str, float] = field(default_factory=dict)
    """modality and the share of the samples that must have it, such as effect 0.25: those that have it come more
    often until it does (on average; 0.25 of 128 rows is 32 give or take 5)"""
    workers: int = 0
    """processes that read, for readers that hold the interpreter's lock; 0 for threads"""
    substitutes: int = 0
    """following samples that may stand in for a rejected one; 0 masks its view"""
    max_rejected: float = 0.01
    """share of rejected samples, over all processes and starts, above which the run stops and names the worst
    shards (looked at with every line of the log, from 10,000 samples on)"""
    patience: float = 60.0
    """seconds of waiting for data after which the log says for what"""
    spool: str = ""
    """folder for copies of remote shards; empty for the user's cache"""
    spool_gigabytes: float = 100.0
    """what that folder may hold"""


@dataclass(frozen=True)
class GuardConfig:
    """What is watched while training, and what is done about it."""

    skips: int = 0
    """steps in a row that may be left out for a loss or gradient that is not finite; one more stops the run"""
    every: int = 100
    """steps between looks at the embeddings for collapse; 0 for never"""
    after: int = 200
    """steps before the first alarm: embeddings of untrained branches look collapsed"""
    patience: int = 3
    """looks in a row that must find the same before it is an alarm"""
    action: Literal["warn", "stop", "rollback"] = "warn"
    """on an alarm: write it down, stop, or go back to the last checkpoint and lower the learning rate"""
    lower: float = 0.5
    """factor on the learning rate when rolling back"""
    rollbacks: int = 3
    """times the run may roll back; the next alarm stops it"""
    min_spread: float = 0.05
    """alarm below this: standard deviation of the l2-normalised embeddings times sqrt(width); 1 is isotropic"""
    min_rank: float = 0.02
    """alarm below this: effective rank, as a share of min(width, rows)"""
    max_correlation: float = 0.7
    """alarm above this: mean absolute correlation of two dimensions"""
    max_sigreg: float = 0.0
    """alarm above this: SIGReg's statistic of the standardised embeddings (about 1 where they are normal); 0 for no
    alarm, as objectives without SIGReg do not ask for a normal distribution"""
    min_margin: float = 0.01
    """alarm below this: mean cosine of matched rows less that of shuffled rows (rank is not alignment)"""
    stall_warning: float = 300.0
    """seconds without a step before the watchdog says what is being waited for; 0 for no watchdog"""
    stall_stop: float = 1800.0
    """seconds without a step before the process ends itself with exit status 75; 0 for never"""
    meet_stop: float = 600.0
    """seconds that processes wait for each other at the start before they end themselves with status 75; 0 for never"""
    compare_every: int = 1000
    """steps between comparisons of the weights of all processes; 0 for never"""


@dataclass(frozen=True)
class ValidationConfig:
    """Scores on held-out samples while training; training itself is bit for bit the same with and without."""

    data: str = ""
    """held-out shards; empty for no probe"""
    every: int = 1000
    """steps between probes; one is made at the end in any case"""
    samples: int = 2000
    """at most this many samples, from the first on"""
    neighbours: int = 10
    """neighbours of the kNN probe"""
    label: str = ""
    """JSON field of each sample with its class, for the kNN and linear probes; empty for retrieval alone"""
