"""What every regularizer is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Regularizer(ABC):
    """A function of one matrix of embeddings. Subclasses are frozen dataclasses; the weights are fields."""

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Weight of each term that ``__call__`` returns."""

    @abstractmethod
    def __call__(self, z_nD: Tensor, *, seed: int) -> dict[str, Tensor]:
        """Unweighted terms, 0-dimensional, in fp32 (fp64 for fp64 input) whatever the autocast.

        ``z_nD``: the present rows of this process, any n >= 0. The values are those of the rows of all
        processes; the local gradient is (number of processes) x d value / d rows (see ``distributed``).
        ``seed``: equal on all processes, different for each step and branch.
        """
