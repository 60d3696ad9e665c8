"""Column-parallel last layer of a projector: each process owns D/R of its D outputs.

DDP sends a gradient of 268 MB at every step for a last weight of (8192, 8192), whatever the batch, and each process
keeps all of the weight and of its optimizer state. Here a process owns D/R outputs and gathers the hidden rows of all
processes, so it has the whole gradient of its weights: no weight gradient is sent, and optimizer state and update are
divided by R. Rows are sent instead: h and dL/dh, z and dL/dz. docs/objectives/column_parallel.md counts the bytes.

The layer returns all D columns of this process's rows, so every regularizer and alignment works unchanged. Gradients
follow the convention of ``mmvicreg.distributed``.

n rows of this process, N of all, R processes, H inputs, D outputs, d = D/R outputs of this process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from mmvicreg import distributed
from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import InvalidValueError
from mmvicreg.numerics import once_only


class ColumnParallelLinear(nn.Linear):
    """``nn.Linear`` of which every process owns D/R outputs: h (n, H) to z (n, D); n may differ, 0 included.

    ``weight`` is a DTensor (D, H), sharded over the processes: the optimizer updates the part of this process, and
    checkpoints hold the whole under the name it has in ``nn.Linear``, so they load on any number of processes, with
    or without this layer. The bias, if any, is whole on every process. In training all processes call the layer
    together, forward and backward.

    ``eval()``, which all processes call together, gathers the weight once; until ``train()`` any process may then
    call the layer alone. Weights that change in between need another ``eval()``.
    """

    gathered_DH: Tensor | None = None

    def train(self, mode: bool = True) -> ColumnParallelLinear:
        super().train(mode)
        weight = self.weight.detach()
        assert isinstance(weight, DTensor)
        self.gathered_DH = None if mode else weight.full_tensor()
        return self

    def forward(self, h: Tensor) -> Tensor:
        if self.gathered_DH is not None:
            return nn.functional.linear(h, self.gathered_DH, self.bias)
        assert isinstance(self.weight, DTensor)
        weight_dH = self.weight.to_local()
        kind = h.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            h, weight_dH = h.to(dtype), weight_dH.to(dtype)
        z: Tensor = _ColumnParallelProduct.apply(h, weight_dH, self.out_features)
        return z if self.bias is None else z + self.bias.to(z.dtype)


class _ColumnParallelProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_nH: Tensor, weight_dH: Tensor, features: int) -> Tensor:
        ctx.counts = distributed.row_counts(h_nH)
        h_NH = distributed.gather_rows(h_nH, ctx.counts)
        ctx.save_for_backward(h_NH, weight_dH, h_nH)
        return distributed.from_feature_shards(h_NH @ weight_dH.T, ctx.counts, features)

    @staticmethod
    def backward(ctx: Any, grad_nD: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        h_NH, weight_dH, h_nH = ctx.saved_tensors
        origins = (grad_nD, weight_dH, h_nH)
        grad_Nd = distributed.to_feature_shards(grad_nD, ctx.counts)
        # dL/dz contains the factor R for an average over processes, which this weight does not take part in.
        weight = grad_Nd.T @ h_NH / distributed.world_size() if ctx.needs_input_grad[1] else None
        h = distributed.scatter_sum(grad_Nd @ weight_dH, ctx.counts) if ctx.needs_input_grad[0] else None
        h, weight = (None if x is None else once_only(x, *origins) for x in (h, weight))
        return h, weight, None


def split_projectors(model: Model, device: torch.device) -> None:
    """Divide the last layer of every projector over the processes, in place; the weights are those of process 0.

    On one process nothing is done. Raises ValueError where a projector does not end in a Linear, or its width is
    not a multiple of the number of processes.
    """
    if distributed.world_size() == 1:
        return
    for name, branch in model.branches.items():
        assert isinstance(branch, Branch)
        layers = branch.projector
        if not (isinstance(layers, nn.Sequential) and len(layers) and type(layers[-1]) is nn.Linear):
            raise InvalidValueError(
                f"parallel column_parallel divides the last Linear of each projector, and that of {name} has none; "
                "give it widths, or choose parallel ddp"
            )
        layers[-1] = _split(layers[-1], device, owner=name)


def _split(linear: nn.Linear, device: torch.device, *, owner: str) -> ColumnParallelLinear:
    size, width = distributed.world_size(), linear.out_features
    if width % size:
        raise InvalidValueError(
            f"the projector of {owner} ends in {width} features, which {size} processes cannot share equally; "
            f"choose {-(-width // size) * size}, or parallel ddp"
        )
    mesh = init_device_mesh(device.type, (size,))
    with torch.device("meta"):
        made = ColumnParallelLinear(linear.in_features, width, bias=linear.bias is not None)
    weight = distribute_tensor(linear.weight.detach(), mesh, [Shard(0)])
    made.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    made.bias = linear.bias
    return made


def wrap_whole_parameters(module: nn.Module, device: torch.device) -> nn.Module:
    """``module`` in DDP, which averages the gradients of whole parameters and leaves the divided ones alone."""
    divided = [name for name, parameter in module.named_parameters() if isinstance(parameter, DTensor)]
    # Accelerate refuses DTensors in DDP, so DDP is used directly; this setter is its only way to leave parameters out.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, divided)
    if not any(p.requires_grad for name, p in module.named_parameters() if name not in divided):
        return module
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
