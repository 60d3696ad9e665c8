"""Layers of towers: found, pooled as their encoder pools, and compared by the neighbours they share."""

import torch
from torch import nn

from mmvicreg.solvers.layers import compare_layers, layer_representations, layers_of, pooled


class Tower(nn.Module):
    """Three linear layers, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6, bias=False) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def rotation(seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed)))[0]


def test_the_layer_that_keeps_the_neighbours_of_the_other_tower_is_found() -> None:
    torch.manual_seed(0)
    one, x = Tower(), torch.randn(200, 6)
    narrow = torch.zeros(6, 6)
    narrow[0, 0] = 1
    first, second, third = (block.get_parameter("weight") for block in one.blocks)
    with torch.no_grad():
        first.copy_(torch.diag(torch.tensor([1.0, 0, 0, 0, 0, 0])) + 0.05 * rotation(0))
        second.copy_(torch.linalg.inv(first))
        third.copy_(narrow)
    found = compare_layers(layer_representations(one, x, batch_size=64), {"inputs": x @ rotation(1)})
    assert found.first == ("blocks.0", "blocks.1", "blocks.2", "representation")
    assert found.best[:2] == ("blocks.1", "inputs") and found.best[2] > 0.99
    assert found.shared[-1, 0] < 0.5 and found.chance == 10 / 199


def test_layers_are_the_longest_list_inside_an_encoder_and_hooks_are_taken_off() -> None:
    tower = nn.Sequential(nn.Identity(), Tower())
    assert list(layers_of(tower)) == ["1.blocks.0", "1.blocks.1", "1.blocks.2"]
    layer_representations(tower, torch.randn(9, 6))
    assert not any(module._forward_hooks for module in tower.modules())


def test_padding_enters_no_mean_of_tokens() -> None:
    states, ids = torch.randn(2, 3, 5), torch.tensor([[4, 5, -1], [7, -1, -1]])
    found = pooled((states,), ids)
    assert found is not None
    torch.testing.assert_close(found, torch.stack([states[0, :2].mean(0), states[1, 0]]))
    assert pooled(torch.randn(3, 5), ids) is None
