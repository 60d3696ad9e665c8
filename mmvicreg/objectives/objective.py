"""The objective of a step: an alignment of each pair of views, a regularizer of each branch, named terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import torch
from torch import Tensor, nn

from mmvicreg.distributed import rank, world_size
from mmvicreg.errors import InvalidValueError, UnknownNameError
from mmvicreg.objectives.alignments import Alignment, PairContext
from mmvicreg.objectives.regularizers import Regularizer
from mmvicreg.objectives.terms import CallCounter, LossTerms, check_weights

Pair = tuple[str, str]
Value = TypeVar("Value")


class Objective(nn.Module):
    """Weighted sum of an alignment of each pair of views and a regularizer of each branch.

    ``alignment``: one for all ``pairs``, or one per pair: {("image", "text"): InfoNCE(), ...}.
    ``regularizers``: by branch; a branch without one is not regularized. Where several views use one branch, each is
    regularized by itself and the terms are added, as in VICReg.
    ``pairs``: the pairs of views that are aligned; None: all pairs, an empty list: none.

    On several processes it equals one process with all rows, if gradients are averaged as DDP does.
    """

    def __init__(
        self,
        alignment: Alignment | Mapping[Pair, Alignment],
        regularizers: Mapping[str, Regularizer] | None = None,
        *,
        pairs: Iterable[Pair] | None = None,
    ) -> None:
        super().__init__()
        alone = isinstance(alignment, Alignment)
        if not alone and pairs is not None:
            raise InvalidValueError("alignment is given per pair, and pairs beside it; leave pairs out")
        self.shared = alignment if isinstance(alignment, Alignment) else None
        by_pair = {} if isinstance(alignment, Alignment) else dict(alignment)
        self.pairs = tuple(by_pair) if not alone else None if pairs is None else tuple(pairs)
        _check_pairs(self.pairs or ())
        self.by_pair = nn.ModuleDict({_name(pair): each for pair, each in by_pair.items()})
        self.regularizers = nn.ModuleDict(dict(regularizers or {}))
        for part in (alignment, *by_pair.values(), *self.regularizers.values()):
            if isinstance(part, Alignment | Regularizer):
                check_weights(part, part.weights())
        self._calls = CallCounter()

    def forward(
        self,
        z: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        *,
        branches: Mapping[str, str] | None = None,
        seed: int | None = None,
        targets: Mapping[str, Tensor] | None = None,
        identities: Mapping[str, Tensor] | None = None,
    ) -> LossTerms:
        """The loss of a step and its terms, named "view/term" and "view-view/term".

        ``z``: embeddings (B, D) by view; D may differ between branches where the alignment allows it.
        ``present``: bool (B,) by view, None: every sample has every view. On the CPU it costs no device sync.
        ``branches``: the branch of each view, None: branches have the names of their views.
        ``seed``: of this step, equal on all processes; None: the number of the call. Pass the number of the step to
        resume exactly.
        ``targets``: embeddings (B, D) by view from moving averages of the branches, for alignments with a momentum.
        ``identities``: int64 (B,) by view, equal for rows that show the same item; a view left out has distinct
        items. Contrastive alignments take no negatives among them.

        Raises KeyError for the branch of a regularizer or the view of a pair that is not there, ValueError for shapes
        that do not fit.
        """
        present = present or {view: torch.ones(x.shape[:1], dtype=torch.bool) for view, x in z.items()}
        branches = branches or {view: view for view in z}
        step = self._calls.seed(seed)
        self._check(z, present, branches)
        inputs = _Inputs(z, targets, _identities(identities, z), present)
        values: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for number, view in enumerate(z):
            regularizer = self._regularizer(branches[view])
            if regularizer is not None:
                found = regularizer.terms(inputs.view(view), seed=_seed(step, number))
                values |= _named(view, found)
                weights |= _named(view, regularizer.weights())
        alignments = self.alignments(tuple(z))
        different = list({id(each): each for each in alignments.values()}.values())
        for each in different:
            each.begin_step()
        for number, (pair, alignment) in enumerate(alignments.items()):
            a, b, context = inputs.pair(pair, seed=_seed(step, len(z) + number))
            values |= _named(_name(pair), alignment.terms(a, b, context))
            weights |= _named(_name(pair), alignment.weights())
        for each in different:
            each.end_step()
        return LossTerms.of(values, weights) if values else _without_terms(z)

    def alignments(self, views: Sequence[str]) -> dict[Pair, Alignment]:
        """The alignment of each pair: of the given pairs, or of all pairs of ``views`` where none were given."""
        return {
            pair: self._alignment(pair)
            for pair in (combinations(views, 2) if self.pairs is None else self.pairs)
        }

    def _alignment(self, pair: Pair) -> Alignment:
        found = self.by_pair[_name(pair)] if self.shared is None else self.shared
        assert isinstance(found, Alignment)
        return found

    def _regularizer(self, branch: str) -> Regularizer | None:
        found = self.regularizers[branch] if branch in self.regularizers else None
        assert found is None or isinstance(found, Regularizer)
        return found

    def _check(
        self, z: Mapping[str, Tensor], present: Mapping[str, Tensor], branches: Mapping[str, str]
    ) -> None:
        known = {branches[view] for view in z}
        for branch in self.regularizers:
            if branch not in known:
                raise UnknownNameError(
                    f"a regularizer is for the branch {branch!r}, but the branches are {sorted(known)}"
                )
        for view in {view for pair in self.pairs or () for view in pair}:
            if view not in z:
                raise UnknownNameError(f"a pair names view {view!r}, but the views are {sorted(z)}")
        _check_shapes(z, present)
        alignments = self.alignments(tuple(z))
        _check_pairs(alignments)
        for pair, alignment in alignments.items():
            found = z[pair[0]].shape[1], z[pair[1]].shape[1]
            if not alignment.fits(*found):
                raise InvalidValueError(
                    f"{type(alignment).__name__} of {_name(pair)} expects widths {alignment.widths or 'equal ones'}, "
                    f"found {found}: change the projectors' last widths, or use Prediction"
                )


@dataclass(frozen=True)
class _Inputs:
    """What a step gives to its terms; views and pairs get the rows that are present."""

    z: Mapping[str, Tensor]
    targets: Mapping[str, Tensor] | None
    identities: Mapping[str, Tensor] | None
    present: Mapping[str, Tensor]

    def view(self, view: str) -> Tensor:
        return _rows(self.z[view], _index(self.present[view], self.z[view].device))

    def pair(self, pair: Pair, *, seed: int) -> tuple[Tensor, Tensor, PairContext]:
        a, b = pair
        index = _index(self.present[a] & self.present[b], self.z[a].device)
        targets, identities = (
            None if values is None else (_rows(values[a], index), _rows(values[b], index))
            for values in (self.targets, self.identities)
        )
        return _rows(self.z[a], index), _rows(self.z[b], index), PairContext(seed, targets, identities)


def _index(present: Tensor, device: torch.device) -> Tensor | None:
    """Numbers of the present rows, made on the device of the mask; None where all are present."""
    return None if bool(present.all()) else present.nonzero()[:, 0].to(device, non_blocking=True)


def _rows(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(0, index)


def star_pairs(centre: str, others: Iterable[str]) -> tuple[Pair, ...]:
    """The pairs of one view with each of the others, and no pair of two others."""
    return tuple((centre, other) for other in others)


def _name(pair: Pair) -> str:
    return "-".join(pair)


def _named(owner: str, values: Mapping[str, Value]) -> dict[str, Value]:
    return {f"{owner}/{term}": value for term, value in values.items()}


def _seed(step: int, number: int) -> int:
    """Different for each view and pair of a step, and for each step."""
    return (step * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 1) % 2**63


def _identities(given: Mapping[str, Tensor] | None, z: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    """Identities of every view; those of a view left out are distinct."""
    if given is None:
        return None
    unknown = sorted(set(given) - set(z))
    if unknown:
        raise UnknownNameError(f"identities name the views {unknown}, but the views are {sorted(z)}")
    for view, x in given.items():
        if x.dtype != torch.int64 or x.shape != z[view].shape[:1]:
            raise InvalidValueError(
                f"identities of view {view!r} are {x.dtype} {tuple(x.shape)}; expected torch.int64 "
                f"{tuple(z[view].shape[:1])}, one number per sample"
            )
    return {view: given[view] if view in given else _distinct(x) for view, x in z.items()}


def _distinct(x_BD: Tensor) -> Tensor:
    """Numbers that no two rows of any process share."""
    return torch.arange(x_BD.shape[0], device=x_BD.device) * world_size() + rank()


def _check_pairs(pairs: Iterable[Pair]) -> None:
    """Raise ValueError for a pair of one view, and for pairs whose terms would have the same names."""
    names: dict[str, Pair] = {}
    for a, b in pairs:
        if a == b:
            raise InvalidValueError(f"a pair aligns view {a!r} with itself; name two views")
        first = names.setdefault(_name((a, b)), (a, b))
        if first != (a, b):
            raise InvalidValueError(
                f"the pairs {first} and {(a, b)} would both have terms named {_name((a, b))!r}; rename a view so that "
                "their names joined by a hyphen differ"
            )


def _check_shapes(z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
    rows = {view: tuple(x.shape[:1]) for view, x in z.items()}
    for view, x in z.items():
        if view not in present:
            raise UnknownNameError(f"present has no view {view!r}; it has {sorted(present)}")
        mask = present[view]
        found = f"{tuple(x.shape)}, present {tuple(mask.shape)} {mask.dtype}"
        whole = x.dim() == 2 and x.shape[1] > 0 and mask.dtype == torch.bool
        if not whole or mask.shape != x.shape[:1] or len(set(rows.values())) > 1:
            raise InvalidValueError(
                f"view {view!r} has z {found}; expected (B, D) and (B,) bool, B of the views: {rows}"
            )


def _without_terms(z: Mapping[str, Tensor]) -> LossTerms:
    """Zero, but connected to the embeddings, so that backward still runs."""
    return LossTerms(torch.stack([x.sum() * 0.0 for x in z.values()]).sum(), {})
