"""Several alignments of one pair of views at once."""

from __future__ import annotations

from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError
from mmvicreg.objectives.alignments.alignment import Alignment, Targets


class SumAlignment(Alignment):
    """The parts' terms side by side, with the parts' weights: SumAlignment(Prediction(...), InfoNCE(weight=0.1)).

    Raises ValueError where two parts have a term of the same name or different momenta.
    """

    def __init__(self, *parts: Alignment) -> None:
        super().__init__()
        if not parts:
            raise InvalidValueError("SumAlignment() has no parts; give it alignments")
        names = [term for part in parts for term in part.weights()]
        if len(set(names)) < len(names):
            raise InvalidValueError(
                f"the parts have the terms {names}; each name may occur once: give other parts"
            )
        momenta = {part.momentum for part in parts} - {None}
        if len(momenta) > 1:
            raise InvalidValueError(f"the parts ask for the momenta {sorted(momenta)}; give them one")  # type: ignore[type-var]
        self.momentum = next(iter(momenta), None)
        self.parts = nn.ModuleList(parts)

    def fits(self, a: int, b: int) -> bool:
        return all(part.fits(a, b) for part in self._parts())

    def weights(self) -> dict[str, float]:
        return {term: weight for part in self._parts() for term, weight in part.weights().items()}

    def forward(
        self, a_nD: Tensor, b_nD: Tensor, *, seed: int, targets: Targets | None = None
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for part in self._parts():
            terms |= part(a_nD, b_nD, seed=seed, targets=None if part.momentum is None else targets)
        return terms

    def _parts(self) -> list[Alignment]:
        return [part for part in self.parts if isinstance(part, Alignment)]
