"""Moments of paired features: all that a solver needs to know of the data, in memory that does not grow with it.

Of each space (a branch behind a feature map): weight, mean, covariance, and optionally the scatter within concepts.
Of each pair of spaces: weight and cross-covariance. Sums are fp64 and taken about a fixed origin near the mean, so that
a large mean costs no digits; processes add theirs up once, at the end.

n rows of a block, F and G widths of two spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError, UnknownNameError

Pair = tuple[str, str]
STRIP = 256
"""Columns of a strip: half of a symmetric product and a little more is multiplied."""


@dataclass(frozen=True)
class SpaceMoments:
    """Moments of one space, fp64: ``mean`` (F,), ``covariance`` (F, F), ``within`` (F, F) or None.

    ``weight`` is the sum of the weights of the rows; ``within`` the covariance of the rows around the mean of their
    concept.
    """

    weight: float
    mean: Tensor
    covariance: Tensor
    within: Tensor | None = None

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (F,), ascending, and eigenvectors (F, F) of the covariance over its mean eigenvalue; computed
        once for all settings. The covariance must not be zero."""
        values, vectors = torch.linalg.eigh(self.covariance / self.covariance.diagonal().mean())
        return values, vectors


@dataclass(frozen=True)
class CrossMoments:
    """Cross-covariance (F, G) of two spaces over their pairs, fp64, whose weights sum to ``weight``."""

    weight: float
    covariance: Tensor


@dataclass(frozen=True)
class Moments:
    """Moments of every space by name, and of every pair that was counted, by (first, second)."""

    spaces: Mapping[str, SpaceMoments]
    pairs: Mapping[Pair, CrossMoments]

    @cached_property
    def _rotated(self) -> dict[Pair, Tensor]:
        return {}

    def rotated_cross(self, first: str, second: str) -> Tensor:
        """The cross-covariance in the eigenvectors of both covariances (see :attr:`SpaceMoments.eigen`), (F, G);
        computed once for all settings."""
        if (first, second) not in self._rotated:
            left, right = self.space(first).eigen[1], self.space(second).eigen[1]
            self._rotated[first, second] = left.T @ self.cross(first, second) @ right
        return self._rotated[first, second]

    def space(self, name: str) -> SpaceMoments:
        """Moments of one space; KeyError with the names there are."""
        if name not in self.spaces:
            raise UnknownNameError(f"no moments of {name!r}; there are {', '.join(self.spaces)}")
        return self.spaces[name]

    def cross(self, first: str, second: str) -> Tensor:
        """Cross-covariance (F_first, F_second), in whichever order the pair was counted."""
        if (first, second) in self.pairs:
            return self.pairs[first, second].covariance
        if (second, first) in self.pairs:
            return self.pairs[second, first].covariance.T
        known = ", ".join("-".join(pair) for pair in self.pairs) or "none"
        raise UnknownNameError(f"no moments of the pair {first}-{second}; there are {known}")


@dataclass
class MomentSums:
    """Running sums of :class:`Moments` about ``origins`` {space: (F,) fp64}, the same on every process."""

    origins: Mapping[str, Tensor]
    sums: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    cross_sums: dict[Pair, dict[str, Tensor]] = field(default_factory=dict)
    scratch: dict[str, Tensor] = field(default_factory=dict)
    """memory of the centred rows of a space, used for every block: fresh memory for each fragments the heap"""

    def add_rows(self, name: str, x_nF: Tensor, weights_n: Tensor) -> None:
        """Rows of one space with their weights; every row of the data is added once."""
        x, weights = self._centred(name, x_nF), weights_n.double()
        sums = self.sums.setdefault(name, {})
        weighted = _weighted(x, weights)
        _add(sums, "weight", weights.sum())
        _add(sums, "first", weighted.sum(0))
        _add_upper(_held(sums, "second", x, x), weighted, x)

    def add_pairs(self, first: str, second: str, x_nF: Tensor, y_nG: Tensor, weights_n: Tensor) -> None:
        """Matching rows of two spaces, one pair a row, with the weight of each pair."""
        x, y, weights = self._centred(first, x_nF), self._centred(second, y_nG), weights_n.double()
        sums = self.cross_sums.setdefault((first, second), {})
        weighted = _weighted(x, weights)
        _add(sums, "weight", weights.sum())
        _add(sums, "first", weighted.sum(0))
        _add(sums, "second", weights @ y)
        _held(sums, "cross", x, y).addmm_(weighted.T, y)

    def add_groups(self, name: str, x_nF: Tensor, groups_n: Tensor) -> None:
        """Rows of one space that belong together (views of one concept): ``groups_n`` numbers the group of each row
        from 0; whole groups only. Each row has the weight 1."""
        x = self._centred(name, x_nF)
        count = int(groups_n.max()) + 1 if len(groups_n) else 0
        sizes = torch.bincount(groups_n, minlength=count).clamp(min=1).to(x)
        means = x.new_zeros((count, x.shape[1])).index_add_(0, groups_n, x) / sizes[:, None]
        scatter = x - means[groups_n]
        sums = self.sums.setdefault(name, {})
        _add_upper(_held(sums, "within", x, x), scatter, scatter)
        _add(sums, "within_weight", x.new_tensor(float(len(x))))

    def _centred(self, name: str, x_nF: Tensor) -> Tensor:
        """The rows about the origin, fp64, until the next call for the same space."""
        if name not in self.origins:
            raise UnknownNameError(f"no space {name!r}; there are {', '.join(self.origins)}")
        origin, count = self.origins[name], len(x_nF)
        if count > len(self.scratch.get(name, ())):
            self.scratch[name] = origin.new_empty((count, len(origin)))
        x = torch.sub(x_nF, origin, out=self.scratch[name][:count])
        if not bool(torch.isfinite(x.sum())):  # one pass; a sum of fp32 values in fp64 does not overflow
            bad = int((~torch.isfinite(x)).any(1).sum())
            raise InvalidValueError(
                f"{bad} of {len(x)} rows of {name!r} are not finite (NaN or infinity); "
                "find them with 'mmvicreg check', or leave these samples out"
            )
        return x

    def finish(self) -> Moments:
        """Sums of all processes to moments; every process calls this once and gets the same.

        Raises ValueError for a space without rows, or a pair of spaces without pairs.
        """
        for name, origin in self.origins.items():
            self._complete(self.sums.setdefault(name, {}), origin)
        for sums in (*self.sums.values(), *self.cross_sums.values()):
            for key in sorted(sums):
                sums[key] = distributed.all_reduce_sum(sums[key], overwrite=True)
        pairs = {pair: self._pair(pair) for pair in self.cross_sums}
        return Moments({name: self._space(name) for name in self.origins}, pairs)

    def expect_pairs(self, first: str, second: str) -> None:
        """Count this pair of spaces on every process, also where a process has no rows of it."""
        x, y = self.origins[first], self.origins[second]
        sums = self.cross_sums.setdefault((first, second), {})
        for key, shape in (
            ("weight", ()),
            ("first", (len(x),)),
            ("second", (len(y),)),
            ("cross", (len(x), len(y))),
        ):
            sums.setdefault(key, x.new_zeros(shape))

    def _complete(self, sums: dict[str, Tensor], origin: Tensor) -> None:
        width = len(origin)
        shapes: dict[str, tuple[int, ...]] = {
            "weight": (), "first": (width,), "second": (width, width),
        }  # fmt: skip
        for key, shape in shapes.items():
            if key not in sums:
                sums[key] = origin.new_zeros(shape)

    def _space(self, name: str) -> SpaceMoments:
        sums = self.sums[name]
        weight = float(sums["weight"])
        if weight <= 0:
            raise InvalidValueError(
                f"{name!r} has no rows: nothing to solve; are its members in these shards?"
            )
        mean = sums["first"] / weight
        covariance = mirror_upper(sums.pop("second").div_(weight).addr_(mean, mean, alpha=-1.0))
        within = None
        if "within" in sums:
            within = mirror_upper(sums.pop("within").div_(max(float(sums["within_weight"]), 1.0)))
        return SpaceMoments(weight, self.origins[name] + mean, covariance, within)

    def _pair(self, pair: Pair) -> CrossMoments:
        sums = self.cross_sums[pair]
        weight = float(sums["weight"])
        if weight <= 0:
            raise InvalidValueError(
                f"no sample has both {pair[0]!r} and {pair[1]!r}: there are no pairs to align; check the members "
                "of these shards with 'mmvicreg check'"
            )
        cross = sums.pop("cross").div_(weight)
        return CrossMoments(weight, cross.addr_(sums["first"] / weight, sums["second"] / weight, alpha=-1.0))


def _add(sums: dict[str, Tensor], key: str, value: Tensor) -> None:
    if key in sums:
        sums[key] += value
    else:
        sums[key] = value


def _weighted(x_nF: Tensor, weights_n: Tensor) -> Tensor:
    """Each row times its weight; not a copy where all weigh 1."""
    return x_nF if bool((weights_n == 1).all()) else x_nF * weights_n[:, None]


def _held(sums: dict[str, Tensor], key: str, x_nF: Tensor, y_nG: Tensor) -> Tensor:
    """The running sum (F, G), zeros at first. Products are added to it in place: a product that is made first takes as
    much memory again."""
    if key not in sums:
        sums[key] = x_nF.new_zeros((x_nF.shape[1], y_nG.shape[1]))
    return sums[key]


def strips(width: int) -> Iterable[tuple[int, int]]:
    """First and last column of strips of a matrix that are multiplied, or copied, together."""
    return ((start, min(start + STRIP, width)) for start in range(0, width, STRIP))


def _add_upper(total_FF: Tensor, weighted_nF: Tensor, x_nF: Tensor) -> None:
    """Add weighted' x, which is symmetric: the rows of each strip from its own columns on, and nothing below."""
    for start, end in strips(x_nF.shape[1]):
        total_FF[start:end, start:].addmm_(weighted_nF[:, start:end].T, x_nF[:, start:])


def mirror_upper(matrix_FF: Tensor) -> Tensor:
    """The matrix itself, its lower triangle overwritten by the upper one, strip after strip."""
    for start, end in strips(len(matrix_FF)):
        own = matrix_FF[start:end, start:end]
        own.copy_(own.triu() + own.triu(1).T)
        matrix_FF[end:, start:end] = matrix_FF[start:end, end:].T
    return matrix_FF
