"""Random streams named by a key, and the random state of a training step.

Every draw is a function of its key (seed, epoch, sample, step, process), so there is no random state to checkpoint.
"""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class _Key(ISeedSequence):
    """Hands Philox its key as it is; given no seed, numpy would first ask the system for entropy (10 us)."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def generate_state(self, n_words: int, dtype: object = np.uint64) -> np.ndarray:
        assert n_words == 2, "Philox takes two words"
        return np.frombuffer(self._digest, "<u8")


def generator(*key: int | str) -> np.random.Generator:
    """A random stream named by ``key``: the same on every machine, process and Python version."""
    seed: Any = _Key(blake2b(repr(key).encode(), digest_size=16).digest())  # numpy types less than it takes
    return np.random.Generator(np.random.Philox(seed))


def step_seed(seed: int, step: int) -> int:
    """The seed of a step's random directions: equal on every process, another at every step."""
    return _seed("step", seed, step)


def seed_random_state(seed: int, step: int, *, rank: int, part: str = "") -> None:
    """Set torch's, numpy's and Python's random state (dropout, drop path, what a user's module draws) as a
    function of the step and the process.

    So there is no random state to save: a resumed run, or one with probes between its steps, draws the same.
    """
    import torch

    value = _seed("random", seed, step, rank, part)
    torch.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)


def _seed(*key: str | int) -> int:
    name = " ".join(map(str, key))
    return int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "little")
