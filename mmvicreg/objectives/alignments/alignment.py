"""The interface of an alignment, and the sum of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError
from mmvicreg.objectives.regularizers.regularizer import settings_text
from mmvicreg.objectives.terms import CallCounter, LossTerms

TensorPair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PairContext:
    """What an alignment is given beside the embeddings of a pair of views.

    ``seed``: equal on all processes, different for each step and pair.
    ``targets``: embeddings (n, D) of both views from the moving averages of their branches.
    ``identities``: int64 (n,) of both views; rows with equal numbers show the same item, so they are no negatives of
    each other.
    """

    seed: int = 0
    targets: TensorPair | None = None
    identities: TensorPair | None = None


class Alignment(nn.Module, ABC):
    """A loss on the embeddings of two views of the same samples; it may hold parameters (scales, predictors).

    ``alignment(a, b)`` returns :class:`LossTerms`. Subclasses implement ``weights`` and ``terms``; one that keeps
    state between steps also implements ``begin_step`` and ``end_step``. One object may serve several pairs of views
    in a step, so ``terms`` must not change parameters or buffers that an earlier pair saved for backward.
    Parameters follow the convention of ``mmvicreg.distributed``: averaged over processes, local gradients are exact.
    """

    momentum: float | None = None
    """Where set, the training loop keeps an exponential moving average of the branches with this momentum and passes
    its embeddings as ``targets``."""

    widths: tuple[int, int] | None = None
    """The embedding widths of the two views that it was made for; None: any, if equal."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = CallCounter()

    def fits(self, a: int, b: int) -> bool:
        """Whether embeddings of widths ``a`` and ``b`` can be aligned."""
        return a == b if self.widths is None else (a, b) == self.widths

    @abstractmethod
    def weights(self) -> dict[str, float]:
        """The weight of each term that ``terms`` returns."""

    @abstractmethod
    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        """Unweighted terms, 0-dimensional, in fp32 (fp64 for fp64 input) whatever the autocast.

        ``a_nD``, ``b_nD``: this process's rows (n, D) where both views are present, any n >= 0. The values are those
        of the rows of all processes. Without any row, every parameter still gets a gradient (of zero).
        """

    def begin_step(self) -> None:
        """Called before the first pair of a step: the place to constrain parameters."""

    def end_step(self) -> None:
        """Called after the last pair of a step: the place to store what later steps use."""

    def forward(
        self,
        a_nD: Tensor,
        b_nD: Tensor,
        *,
        seed: int | None = None,
        targets: TensorPair | None = None,
        identities: TensorPair | None = None,
    ) -> LossTerms:
        """The weighted total and the terms of a step with this one pair; arguments as in :class:`PairContext`."""
        self.begin_step()
        values = self.terms(a_nD, b_nD, PairContext(self._calls.seed(seed), targets, identities))
        self.end_step()
        return LossTerms.of(values, self.weights())

    def extra_repr(self) -> str:
        return settings_text(self)


class SumAlignment(Alignment):
    """Several alignments of the same pair, each with its own weight: SumAlignment(Prediction(...), InfoNCE(0.1)).

    Raises ValueError where two parts have a term of the same name or different momenta.
    """

    def __init__(self, *parts: Alignment) -> None:
        super().__init__()
        if not parts:
            raise InvalidValueError("SumAlignment() has no parts; pass it alignments")
        names = [term for part in parts for term in part.weights()]
        if len(set(names)) < len(names):
            raise InvalidValueError(
                f"the parts have the terms {names}, and each name may occur once: pass different alignments"
            )
        momenta = {part.momentum for part in parts if part.momentum is not None}
        if len(momenta) > 1:
            raise InvalidValueError(
                f"the parts have the momenta {sorted(momenta)}; give all of them one momentum"
            )
        self.momentum = next(iter(momenta), None)
        self.parts = nn.ModuleList(parts)

    def fits(self, a: int, b: int) -> bool:
        return all(part.fits(a, b) for part in self._parts())

    def weights(self) -> dict[str, float]:
        return {term: weight for part in self._parts() for term, weight in part.weights().items()}

    def begin_step(self) -> None:
        for part in self._parts():
            part.begin_step()

    def end_step(self) -> None:
        for part in self._parts():
            part.end_step()

    def terms(self, a_nD: Tensor, b_nD: Tensor, context: PairContext) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for part in self._parts():
            values |= part.terms(a_nD, b_nD, context)
        return values

    def _parts(self) -> list[Alignment]:
        return [part for part in self.parts if isinstance(part, Alignment)]
