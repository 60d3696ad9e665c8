"""Branches and the model they make: inputs of each view to representations `h` and embeddings `z`.

Shapes: B rows of a batch, n rows that are present, E width of a representation, D width of an embedding.
Nothing here is shared between branches unless two views name the same branch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError, UnknownNameError


@dataclass(frozen=True)
class Embedding:
    """What a branch gives for n rows: ``h`` (n, E) before and ``z`` (n, D) after the projector."""

    h: Tensor
    z: Tensor


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation over the rows of all processes, any number of them on each, zero included.

    Input (n, C) or (n, C, ...). Equals ``nn.BatchNorm`` on the concatenated rows, value and gradient.
    torch's own SyncBatchNorm refuses CPU tensors, and a run must be the same on one process and on several
    wherever it runs; this one serves both.
    """

    placeholder = False
    """The rows stand for none (see :meth:`Branch.represent`): they enter no statistics, here or elsewhere."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise InvalidValueError(
                f"batch normalisation needs (rows, channels, ...), found shape {tuple(input.shape)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if not self.training:
            return super().forward(x)
        if distributed.world_size() == 1:
            if not len(x) or self.placeholder:
                return x
            if x.numel() > x.shape[1]:
                return super().forward(x)  # torch's own refuses the one row that a rare modality may have
        return self._normalize_globally(x)

    def _normalize_globally(self, x: Tensor) -> Tensor:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        x32 = x if x.dtype == torch.float64 else x.float()
        share = 0.0 if self.placeholder else 1.0
        local = share * torch.cat([x32.sum(axes), x32.new_tensor([x.numel() / x.shape[1]])])
        total = distributed.all_reduce_sum(local)
        rows = total[-1].detach()
        count = rows.clamp(min=1)
        mean = total[:-1] / count
        centred = x32 - mean.view(shape)
        variance = distributed.all_reduce_sum(share * centred.square().sum(axes)) / count
        self._update_running(mean.detach(), variance.detach(), rows)
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, rows: Tensor) -> None:
        """Where no process has a row the running statistics stay as they are."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(rows > 0)
        rate = self.momentum
        if rate is None:
            rate = 1 / float(self.num_batches_tracked.clamp(min=1))
        weight = rate * (rows > 0).to(self.running_mean.dtype)
        unbiased = variance * rows / (rows - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), weight)


class SyncBatchNormAct(SyncBatchNorm):
    """timm's BatchNormAct2d (EfficientNet, MobileNet, RegNet, ...): what follows the normalisation is part of it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """The same module with every batch normalisation over the rows of all processes, weights kept.

    Raises ValueError for one that computes something else than normalisation, which would be lost.
    """
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
        return _synchronized(module)
    for name, child in module.named_children():
        setattr(module, name, synchronize_batch_norm(child))
    return module


def _synchronized(module: _BatchNorm) -> SyncBatchNorm:
    plain = type(module).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    after = dict(module.named_children())
    if not plain and set(after) != {"drop", "act"}:
        raise InvalidValueError(
            f"{type(module).__name__} is a batch normalisation with a forward of its own, which would be lost when its "
            "statistics become those of all processes; normalise in nn.BatchNorm and do the rest in another module"
        )
    synced = (SyncBatchNorm if plain else SyncBatchNormAct)(
        module.num_features,
        eps=module.eps,
        momentum=module.momentum,
        affine=module.affine,
        track_running_stats=module.track_running_stats,
    )
    for name, child in after.items():
        synced.add_module(name, child)
    synced.load_state_dict(module.state_dict())
    synced.train(module.training)
    return synced


def projector(input_width: int, widths: Sequence[int], *, dropout: float = 0.0) -> nn.Module:
    """The expander of VICReg (arXiv 2105.04906, section 4.2): (n, input_width) to (n, widths[-1]).

    Linear, batch normalisation, ReLU for every width but the last; a Linear without bias at the end.
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
    run's.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        *,
        frozen: bool = False,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector
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
        (its batch normalisation was never synchronised): freeing it raises ValueError."""
        if self.frozen and not self.waiting:
            raise InvalidValueError(
                "this branch is frozen for the whole run; leave frozen out to free it at a step"
            )
        changed = frozen != self.waiting
        self.frozen = self.waiting = frozen
        if changed:
            self.encoder.requires_grad_(not frozen)
        self.train(self.training)
        return changed

    def train(self, mode: bool = True) -> Branch:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def represent(self, x: Tensor) -> Tensor:
        """x (n, ...) to h (n, E); n may be 0.

        Few encoders accept no rows at all, but every process must run them: for the collectives inside, and so
        that every parameter has a gradient (zero). So a row of zeros stands for none and is dropped again.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if len(x):
                return self.encoder(x)
            norms = [module for module in self.encoder.modules() if isinstance(module, SyncBatchNorm)]
            for norm in norms:
                norm.placeholder = True
            try:
                return self.encoder(x.new_zeros((1, *x.shape[1:])))[:0]
            finally:
                for norm in norms:
                    norm.placeholder = False

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
