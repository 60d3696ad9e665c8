"""The interface of a regularizer."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from mmvicreg.objectives.terms import CallCounter, LossTerms


class Regularizer(nn.Module, ABC):
    """A loss on the embeddings of one branch. Subclasses implement ``weights`` and ``terms``.

    ``regularizer(z)`` returns :class:`LossTerms`; an objective calls ``terms`` and weights the values itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls = CallCounter()

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """The weight of each term that ``terms`` returns."""

    @abstractmethod
    def terms(self, z_nD: Tensor, *, seed: int) -> dict[str, Tensor]:
        """Unweighted terms, 0-dimensional, in fp32 (fp64 for fp64 input) whatever the autocast.

        ``z_nD``: the present rows of this process, (n, D), any n >= 0. The values are those of the rows of all
        processes; the local gradient is (number of processes) x d value / d rows (see ``mmvicreg.distributed``).
        ``seed``: equal on all processes, different for each step and branch.
        """

    def forward(self, z_nD: Tensor, *, seed: int | None = None) -> LossTerms:
        """The weighted total and the terms of embeddings (n, D) of this process.

        ``seed``: of random directions; without one each call of this object uses other directions.
        """
        return LossTerms.of(self.terms(z_nD, seed=self._calls.seed(seed)), self.weights())

    def extra_repr(self) -> str:
        return settings_text(self)


def settings_text(part: nn.Module) -> str:
    """Public numbers, strings and flags of a module, ``name=value``, for ``print``."""
    shown = {
        name: value
        for name, value in vars(part).items()
        if not name.startswith("_") and name != "training" and isinstance(value, int | float | str | tuple)
    }
    return ", ".join(f"{name}={value!r}" for name, value in shown.items())
