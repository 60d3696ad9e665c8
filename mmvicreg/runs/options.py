"""Nested parts of the training configuration: optimizer, stream, guards and validation, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule: a linear warm-up, then what ``schedule`` says."""

    name: Literal["adamw", "lars"] = "adamw"
    """adamw (fused kernels), or lars as in the VICReg paper (momentum 0.9, trust coefficient 0.001)"""
    learning_rate: float = 1e-3
    """peak learning rate; it is not rescaled with the batch size"""
    weight_decay: float = 1e-4
    """weight decay of matrices; biases and normalization parameters have none"""
    no_decay: tuple[str, ...] = ()
    """regular expressions for the names of further parameters without weight decay, such as 'embedding'"""
    beta1: float = 0.9
    """adamw: decay of the first moment; lars: momentum"""
    beta2: float = 0.98
    """adamw: decay of the second moment"""
    schedule: Literal["cosine", "linear", "constant", "trapezoid"] = "cosine"
    """learning rate after warm-up; trapezoid is constant, then linear over the last fifth of the run"""
    warmup_epochs: float = 1.0
    """epochs of linear warm-up from 0"""
    final_fraction: float = 0.0
    """learning rate at the end, as a fraction of the peak"""
    layer_decay: float = 1.0
    """learning rate of each encoder block as a fraction of the next block's (0.75 is usual for fine-tuning)"""
    unfreeze_at: dict[str, int] = field(default_factory=dict)
    """branch and step: the encoder stays frozen until that step while the projector trains (a modality's own
    ``frozen`` freezes its encoder for the whole run, as in LiT)"""
    max_gradient_norm: float = 0.0
    """largest norm of the gradient, above which it is clipped; 0 for no clipping"""


@dataclass(frozen=True)
class StreamConfig:
    """How samples are read, and what happens to samples that cannot be used."""

    exclude: str = ""
    """file that lists samples to leave out, as written by 'mmvicreg check --quarantine'"""
    weights: tuple[float, ...] = ()
    """mix several data sets (separated by :: in train): the weight of each; empty for no mixture"""
    minimum_fraction: dict[str, float] = field(default_factory=dict)
    """modality and the fraction of the samples that must have it, such as effect 0.25: samples that have it are
    drawn more often until that holds (on average; 0.25 of 128 samples is 32, give or take 5)"""
    workers: int = 0
    """reader processes, for readers that hold the interpreter's lock; 0 reads in threads"""
    substitutes: int = 0
    """how many of the samples that follow may replace a rejected one; 0 marks its view as absent"""
    max_rejected_fraction: float = 0.01
    """fraction of rejected samples, over all processes and starts, above which the run stops and names the worst
    shards (compared whenever the log is written, from 10,000 samples on)"""
    wait_warning: float = 60.0
    """seconds of waiting for data after which the log says what is being waited for"""
    shard_cache: str = ""
    """folder for local copies of shards; empty for the user's cache folder"""
    shard_cache_gigabytes: float = 100.0
    """largest size of that folder"""
    copy_local_shards: bool = False
    """also copy shards with local paths there before they are read: for slow network disks"""


@dataclass(frozen=True)
class GuardConfig:
    """What is checked while training, and what happens when a check fails."""

    max_skipped_steps: int = 0
    """consecutive steps that may be skipped because the loss or gradient is not finite; one more stops the run"""
    diagnose_every: int = 100
    """steps between checks of the embeddings for collapse; 0 for none"""
    diagnose_after: int = 200
    """steps before the first alarm: embeddings of untrained branches look collapsed"""
    patience: int = 3
    """consecutive checks that must find the same fault before it is an alarm"""
    action: Literal["warn", "stop", "rollback"] = "warn"
    """on an alarm: write an event, stop, or return to the last checkpoint with a lower learning rate"""
    rollback_factor: float = 0.5
    """factor on the learning rate at each return to a checkpoint"""
    max_rollbacks: int = 3
    """how many times the run may return to a checkpoint; the next alarm stops it"""
    min_spread: float = 0.05
    """alarm below this: standard deviation of the l2-normalized embeddings times sqrt(width); 1 is isotropic"""
    min_rank: float = 0.02
    """alarm below this: effective rank, as a fraction of min(width, rows)"""
    max_correlation: float = 0.7
    """alarm above this: mean absolute correlation of two dimensions"""
    max_sigreg: float = 0.0
    """alarm above this: SIGReg's statistic of the standardized embeddings (about 1 for a normal distribution); 0 for
    no alarm, since objectives without SIGReg do not ask for a normal distribution"""
    min_margin: float = 0.01
    """alarm below this: mean cosine of matched rows minus that of shuffled rows (a high rank is not alignment)"""
    absent_after: int = 1000
    """samples after which a view that none of them had stops the run; 0 for no check"""
    stall_warning: float = 300.0
    """seconds without a step after which the stall watchdog reports what is being waited for; 0 for no report"""
    stall_stop: float = 1800.0
    """seconds without a step after which the process ends itself with exit status 75; 0 for never"""
    process_group_timeout: float = 600.0
    """seconds that processes wait for each other at the start before they end with exit status 75; 0 for no limit"""
    compare_every: int = 1000
    """steps between comparisons of the weights of all processes; 0 for none"""


@dataclass(frozen=True)
class ValidationConfig:
    """Scores on held-out samples during training; the training itself is bit for bit the same with and without."""

    data: str = ""
    """held-out shards; empty for no validation"""
    every: int = 1000
    """steps between validations; there is one at the end in any case"""
    samples: int = 2000
    """largest number of samples used, from the first on"""
    neighbours: int = 10
    """neighbours of the kNN probe"""
    label: str = ""
    """JSON field of each sample that holds its class, for the kNN and linear probes; empty for retrieval alone"""
