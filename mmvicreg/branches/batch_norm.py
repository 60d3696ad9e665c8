"""Batch normalization over the rows of all processes, and its placement into existing networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvicreg import distributed
from mmvicreg.errors import InvalidValueError


class SyncBatchNorm(_BatchNorm):
    """Batch normalization over the rows of all processes, any number of them on each, zero included.

    Input (n, C) or (n, C, ...). Equals ``nn.BatchNorm`` on the concatenated rows, value and gradient. Weight and bias
    get a gradient (zero) also where no process has a row, so that an optimizer treats them alike on any number of
    processes. torch's SyncBatchNorm refuses CPU tensors.
    """

    placeholder = False
    """True while the input stands for no rows (:func:`placeholder_rows`): it enters the statistics of no process."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise InvalidValueError(
                f"batch normalization needs (rows, channels, ...), found shape {tuple(input.shape)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if not self.training:
            return super().forward(x)
        # nn.BatchNorm refuses the single row that a rare modality may have, and leaves no gradient without rows.
        if distributed.world_size() == 1 and not self.placeholder and x.numel() > x.shape[1]:
            return super().forward(x)
        return self._normalize_globally(x)

    def _normalize_globally(self, x: Tensor) -> Tensor:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        x32 = x if x.dtype == torch.float64 else x.float()
        included = 0.0 if self.placeholder else 1.0
        local = included * torch.cat([x32.sum(axes), x32.new_tensor([x.numel() / x.shape[1]])])
        total = distributed.all_reduce_sum(local)
        rows = total[-1].detach()
        count = rows.clamp(min=1)
        mean = total[:-1] / count
        centred = x32 - mean.view(shape)
        variance = distributed.all_reduce_sum(included * centred.square().sum(axes)) / count
        # torch keeps running statistics of an earlier pass for its backward: written only where they change.
        if distributed.world_size() > 1 or (len(x) and not self.placeholder):
            self._update_running(mean.detach(), variance.detach(), rows)
        # Without any row, 1 instead of 0: placeholders would grow by 1 / sqrt(eps) in every layer and overflow.
        variance = torch.where(rows > 0, variance, torch.ones_like(variance))
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, rows: Tensor) -> None:
        """Where no process has a row, the running statistics stay as they are."""
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
    """timm's BatchNormAct2d (EfficientNet, MobileNet, RegNet, ...): normalization, dropout and activation in one."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """``module`` with each batch normalization replaced by one over the rows of all processes; weights are kept.

    Raises ValueError for a batch normalization with a forward of its own, which the replacement would lose.
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
            f"{type(module).__name__} is a batch normalization with a forward of its own, which would be lost when it "
            "is replaced by one over all processes; normalize in nn.BatchNorm and move the rest to another module"
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


def batch_norm_layers(module: nn.Module) -> list[str]:
    """Dotted names of the batch normalizations in ``module``; "" is the module itself."""
    return [name for name, each in module.named_modules() if isinstance(each, _BatchNorm)]


@contextmanager
def placeholder_rows(module: nn.Module) -> Iterator[None]:
    """Within it the inputs of ``module`` stand for no rows: its batch normalizations leave them out of statistics."""
    norms = [each for each in module.modules() if isinstance(each, SyncBatchNorm)]
    for norm in norms:
        norm.placeholder = True
    try:
        yield
    finally:
        for norm in norms:
            norm.placeholder = False
