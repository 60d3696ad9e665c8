"""The moving average of the branches against torch's own."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmvicreg.branches.model import Branch, Model
from mmvicreg.branches.moving_average import MovingAverage


def test_the_weights_are_those_of_torchs_averaged_model_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = Model({"a": Branch(nn.Linear(5, 4), nn.Linear(4, 3))}, {"a": "a"})
    ours, theirs = (
        MovingAverage(model, 0.9),
        AveragedModel(copy.deepcopy(model), multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    )
    theirs.update_parameters(model)  # the first call copies
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update(model)
        theirs.update_parameters(model)
    for mine, other, now in zip(
        ours.model.parameters(), theirs.module.parameters(), model.parameters(), strict=True
    ):
        assert torch.equal(mine, other)
        assert not torch.equal(mine, now)
