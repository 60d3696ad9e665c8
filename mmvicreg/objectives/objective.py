"""The objective of a step: one alignment per pair of views, one regularizer per branch, named terms out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError, UnknownNameError
from mmvicreg.objectives.alignments import Alignment
from mmvicreg.objectives.regularizers import Regularizer

Pair = tuple[str, str]


@dataclass(frozen=True)
class LossTerms:
    """``total``: the weighted sum to differentiate. ``parts``: every term, unweighted, detached, on the
    device, named "view/term" and "view-view/term"."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(nn.Module):
    """Weighted sum of the alignments of pairs of views and the regularizers of branches.

    ``alignment``: one for all ``pairs``, or one per pair: {("image", "text"): InfoNCE(), ...}.
    ``regularizers``: by branch; a branch without one is not regularized. Two views of one branch are
    regularized one by one and added, as in VICReg.
    ``pairs``: which views are aligned; all pairs of the views unless said, none where empty.
    """

    def __init__(
        self,
        alignment: Alignment | Mapping[Pair, Alignment],
        regularizers: Mapping[str, Regularizer],
        *,
        pairs: Iterable[Pair] | None = None,
    ) -> None:
        super().__init__()
        alone = isinstance(alignment, Alignment)
        if not alone and pairs is not None:
            raise InvalidValueError("alignment is given per pair and pairs beside it; leave pairs out")
        self.shared = alignment if isinstance(alignment, Alignment) else None
        by_pair = {} if isinstance(alignment, Alignment) else dict(alignment)
        self.by_pair = nn.ModuleDict({_name(pair): each for pair, each in by_pair.items()})
        self.pairs = tuple(by_pair) if not alone else None if pairs is None else tuple(pairs)
        for a, b in self.pairs or ():
            if a == b:
                raise InvalidValueError(f"a pair aligns view {a!r} with itself; name two views")
        self.regularizers = dict(regularizers)
        for part in (alignment, *by_pair.values(), *self.regularizers.values()):
            if isinstance(part, Alignment | Regularizer):
                _check_weights(part)

    def forward(
        self,
        z: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        *,
        branches: Mapping[str, str],
        seed: int,
        targets: Mapping[str, Tensor] | None = None,
    ) -> LossTerms:
        """``z``: (B, D) per view, D free per branch where the alignment allows. ``present``: (B,) bool per
        view; on the CPU it costs no device sync. ``branches``: the branch of each view. ``seed``: of this
        step, equal on all processes. ``targets``: (B, D) per view from momentum branches.

        Raises KeyError for a regularizer's branch or a pair's view that is not there, ValueError for shapes that
        do not fit.
        """
        self._check(z, present, branches)
        rows = {view: _Rows(present[view], z[view].device) for view in z}
        terms: dict[str, tuple[float, Tensor]] = {}
        for number, view in enumerate(z):
            regularizer = self.regularizers.get(branches[view])
            if regularizer is not None:
                values = regularizer(rows[view].of(z[view]), seed=_seed(seed, number))
                terms |= _weighted(view, regularizer.weights(), values)
        for number, ((a, b), alignment) in enumerate(self.alignments(tuple(z)).items()):
            both = _Rows(present[a] & present[b], z[a].device)
            goal = None if targets is None else (both.of(targets[a]), both.of(targets[b]))
            values = alignment(both.of(z[a]), both.of(z[b]), seed=_seed(seed, len(z) + number), targets=goal)
            terms |= _weighted(_name((a, b)), alignment.weights(), values)
        if terms:
            total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        else:  # nothing is asked for: zero, but of the embeddings, so that backward still runs
            total = torch.stack([x.sum() * 0.0 for x in z.values()]).sum()
        return LossTerms(total, {name: value.detach() for name, (_, value) in terms.items()})

    def alignments(self, views: Sequence[str]) -> dict[Pair, Alignment]:
        """The alignment of every pair that is aligned, of all pairs of ``views`` unless pairs were given."""
        return {
            pair: self._alignment(pair)
            for pair in (combinations(views, 2) if self.pairs is None else self.pairs)
        }

    def _alignment(self, pair: Pair) -> Alignment:
        found = self.by_pair[_name(pair)] if self.shared is None else self.shared
        assert isinstance(found, Alignment)
        return found

    def _check(
        self, z: Mapping[str, Tensor], present: Mapping[str, Tensor], branches: Mapping[str, str]
    ) -> None:
        known = {branches[view] for view in z}
        for branch in self.regularizers:
            if branch not in known:
                raise UnknownNameError(
                    f"a regularizer is for branch {branch!r}, but the branches are {sorted(known)}"
                )
        for view in {view for pair in self.pairs or () for view in pair}:
            if view not in z:
                raise UnknownNameError(f"a pair names view {view!r}, but the views are {sorted(z)}")
        rows = {view: tuple(x.shape[:1]) for view, x in z.items()}
        for view, x in z.items():
            found = f"{tuple(x.shape)}, present {tuple(present[view].shape)} {present[view].dtype}"
            whole = x.dim() == 2 and x.shape[1] > 0 and present[view].dtype == torch.bool
            if not whole or present[view].shape != x.shape[:1] or len(set(rows.values())) > 1:
                raise InvalidValueError(
                    f"view {view!r} has z {found}; expected (B, D) and (B,) bool, B of the views: {rows}"
                )
        for (a, b), alignment in self.alignments(tuple(z)).items():
            if not alignment.fits(z[a].shape[1], z[b].shape[1]):
                wanted = alignment.widths or "equal ones"
                raise InvalidValueError(
                    f"{type(alignment).__name__} of {_name((a, b))} expects widths {wanted}, found "
                    f"{(z[a].shape[1], z[b].shape[1])}: change the projectors' last widths, or take Prediction"
                )


class _Rows:
    """The present rows of a view: all of them without a copy, or an index made on the mask's device."""

    def __init__(self, present: Tensor, device: torch.device) -> None:
        self.index = None if bool(present.all()) else present.nonzero()[:, 0].to(device, non_blocking=True)

    def of(self, x: Tensor) -> Tensor:
        return x if self.index is None else x.index_select(0, self.index)


def star_pairs(centre: str, others: Iterable[str]) -> tuple[Pair, ...]:
    """Pairs of one view with each of the others, and of no two others."""
    return tuple((centre, other) for other in others)


def _name(pair: Pair) -> str:
    return "-".join(pair)


def _check_weights(part: Alignment | Regularizer) -> None:
    for term, weight in part.weights().items():
        if not (math.isfinite(weight) and weight >= 0):
            raise InvalidValueError(
                f"the weight of {type(part).__name__}'s {term} is {weight}; expected a finite number of at least 0"
            )


def _seed(step: int, number: int) -> int:
    """Different for each view and pair of a step, and for each step."""
    return (step * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 1) % 2**63


def _weighted(
    owner: str, weights: Mapping[str, float], values: Mapping[str, Tensor]
) -> dict[str, tuple[float, Tensor]]:
    return {f"{owner}/{term}": (weights[term], value) for term, value in values.items()}
