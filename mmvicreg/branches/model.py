"""Branches and the model they make: inputs of each view to representations `h` and embeddings `z`.

Shapes: B rows of a batch, n rows that are present, E width of a representation, D width of an embedding.
Nothing here is shared between branches unless two views name the same branch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmvicreg.branches.batch_norm import SyncBatchNorm, placeholder_rows, synchronize_batch_norm
from mmvicreg.errors import InvalidValueError, UnknownNameError


@dataclass(frozen=True)
class Embedding:
    """What a branch gives for n rows: ``h`` (n, E) before and ``z`` (n, D) after the projector."""

    h: Tensor
    z: Tensor


def projector(input_width: int, widths: Sequence[int], *, dropout: float = 0.0) -> nn.Module:
    """The expander of VICReg (arXiv 2105.04906, section 4.2): (n, input_width) to (n, widths[-1]).

    Linear, batch normalization, ReLU for every width but the last; a Linear without bias at the end.
    ``()`` is the identity. ``dropout`` (chosen, not in the paper) follows each ReLU.
    """
    if any(width < 1 for width in widths):
        raise InvalidValueError(f"projector widths are positive; found {tuple(widths)}")
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(input_width, width, bias=False), SyncBatchNorm(width), nn.ReLU(inplace=True)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        input_width = width
    if widths:
        layers.append(nn.Linear(input_width, widths[-1], bias=False))
    return nn.Sequential(*layers)


class Branch(nn.Module):
    """One encoder and its projector, with its own learning rate.

    ``frozen`` keeps the encoder in evaluation mode and without gradient. ``learning_rate`` None takes the
    run's. ``ignores_padding``: inputs are token ids (n, L), and ids below 0 at the end of a row change nothing, so
    that texts may be embedded in batches as long as their longest one.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        *,
        frozen: bool = False,
        learning_rate: float | None = None,
        ignores_padding: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.ignores_padding = ignores_padding
        self.frozen = frozen
        self.waiting = False
        """frozen until a step of the run (see :meth:`freeze`)"""
        self.learning_rate = learning_rate
        if frozen:
            encoder.requires_grad_(False).eval()
        else:
            self.encoder = synchronize_batch_norm(encoder)

    def freeze(self, frozen: bool) -> bool:
        """Lock the encoder for now, or free it; True where that is a change. A branch made ``frozen`` stays so
        (its batch normalization was never synchronised): freeing it raises ValueError."""
        if self.frozen and not self.waiting:
            raise InvalidValueError(
                "this branch is frozen for the whole run; leave frozen out to free it at a step"
            )
        changed = frozen != self.waiting
        self.frozen = self.waiting = frozen
        if changed:
            named = dict(self.encoder.named_parameters())
            adapters = any("lora_" in name for name in named)
            for name, parameter in named.items():  # of a tower with adapters, they alone are trained
                parameter.requires_grad_(not frozen and (not adapters or "lora_" in name))
        self.train(self.training)
        return changed

    def train(self, mode: bool = True) -> Branch:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def represent(self, x: Tensor) -> Tensor:
        """x (n, ...) to h (n, E); n may be 0.

        Few encoders accept zero rows, but every process must run them: their collective operations need all
        processes, and every parameter must get a gradient (zero). So one row of zeros takes the place of none, and is
        dropped from the result.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if len(x):
                return self.encoder(x)
            with placeholder_rows(self.encoder):
                return self.encoder(x.new_zeros((1, *x.shape[1:])))[:0]

    def forward(self, x: Tensor, *, precomputed: bool = False) -> Embedding:
        """x (n, ...), or representations h (n, E) where they are ``precomputed``."""
        h = x if precomputed else self.represent(x)
        return Embedding(h, self.projector(h))


class Model(nn.Module):
    """All branches, and which branch each view goes through."""

    def __init__(self, branches: Mapping[str, Branch], views: Mapping[str, str]) -> None:
        super().__init__()
        unknown = sorted(set(views.values()) - set(branches))
        if unknown:
            raise UnknownNameError(f"views name the branches {unknown}; there are {sorted(branches)}")
        self.branches = nn.ModuleDict(branches)
        self.views = dict(views)

    def branch(self, view: str) -> Branch:
        """The branch that ``view`` goes through."""
        if view not in self.views:
            raise UnknownNameError(f"no view {view!r}; this model has {', '.join(self.views)}")
        return self.branch_named(self.views[view])

    def branch_named(self, name: str) -> Branch:
        """The branch of that name. Raises KeyError with the names there are."""
        if name not in self.branches:
            raise UnknownNameError(f"no branch {name!r}; this run has {', '.join(self.branches)}")
        branch = self.branches[name]
        assert isinstance(branch, Branch)
        return branch

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        *,
        precomputed: frozenset[str] = frozenset(),
    ) -> dict[str, Embedding]:
        """inputs {view: (B, ...)}, present {view: (B,) bool} to {view: Embedding of B rows}.

        Rows that are absent never pass through a branch (they would enter its batch statistics); they are
        zero in the result.
        """
        result = {}
        for view, x in inputs.items():
            rows = present[view]
            # One synchronisation a step and view, and only where a modality can be missing at all.
            if bool(rows.all()):
                result[view] = self.branch(view)(x, precomputed=view in precomputed)
            else:
                some = self.branch(view)(x[rows], precomputed=view in precomputed)
                result[view] = Embedding(_spread(some.h, rows), _spread(some.z, rows))
        return result


def _spread(values_nD: Tensor, rows_B: Tensor) -> Tensor:
    """(n, D) to (B, D) with zeros where ``rows_B`` is False."""
    full_BD = values_nD.new_zeros((len(rows_B), *values_nD.shape[1:]))
    return full_BD.index_put((rows_B.nonzero().squeeze(1),), values_nD)
