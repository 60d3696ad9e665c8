"""What every alignment is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

Targets = tuple[Tensor, Tensor]


class Alignment(nn.Module, ABC):
    """A function of the embeddings of two views, row by row; may hold parameters (scales, predictors).

    Its parameters follow the convention of ``distributed``: averaged over processes, their local gradients
    are exact.
    """

    momentum: float | None = None
    """Where set, the training loop keeps an exponential moving average of the branches with this momentum
    and passes its embeddings as ``targets``."""

    widths: tuple[int, int] | None = None
    """Where set, the two views' widths that it was made for; where not, any, equal ones."""

    def fits(self, a: int, b: int) -> bool:
        """Whether embeddings of these widths can be aligned."""
        return a == b if self.widths is None else (a, b) == self.widths

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Weight of each term that ``forward`` returns."""

    @abstractmethod
    def forward(
        self, a_nD: Tensor, b_nD: Tensor, *, seed: int, targets: Targets | None = None
    ) -> dict[str, Tensor]:
        """Unweighted terms, 0-dimensional, in fp32 (fp64 for fp64 input) whatever the autocast.

        ``a_nD``, ``b_nD``: this process's rows where both views are present, any n >= 0. The values are
        those of the rows of all processes. ``targets``: the momentum branches' (a_nD, b_nD).
        """
