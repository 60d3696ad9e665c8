import copy

import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn

from mmvicreg.branches.batch_norm import SyncBatchNorm, synchronize_batch_norm
from mmvicreg.branches.model import Branch, Model, projector
from mmvicreg.testing.processes import pool

SIZES = (5, 0, 3)


def rows(rank: int) -> torch.Tensor:
    """Rows of one process: another number and another distribution on each."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(SIZES[rank], 6, 4, generator=generator, dtype=torch.float64) * (rank + 1) + rank


def layer(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    made = kind(6).double()
    for parameter in made.parameters():
        nn.init.uniform_(parameter)
    return made


def loss_weights() -> torch.Tensor:
    return torch.randn(sum(SIZES), 6, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def on_one_rank() -> dict[str, torch.Tensor]:
    rank = dist.get_rank()
    norm = layer(SyncBatchNorm)
    x = rows(rank).requires_grad_()
    start = sum(SIZES[:rank])
    y = norm(x)
    (y * loss_weights()[start : start + SIZES[rank]]).sum().backward()
    assert x.grad is not None
    return {"y": y.detach(), "grad": x.grad, "mean": norm.running_mean, "var": norm.running_var}


@pytest.mark.slow
def test_batch_normalization_over_processes_equals_one_process() -> None:
    plain = layer(nn.BatchNorm1d)
    x = torch.cat([rows(rank) for rank in range(3)]).requires_grad_()
    y = plain(x)
    (y * loss_weights()).sum().backward()
    found = pool(3).run(on_one_rank)
    assert x.grad is not None
    torch.testing.assert_close(torch.cat([each["y"] for each in found]), y.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.cat([each["grad"] for each in found]), x.grad, rtol=1e-9, atol=1e-9)
    for each in found:
        torch.testing.assert_close(each["mean"], plain.running_mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(each["var"], plain.running_var, rtol=1e-9, atol=1e-9)


def test_one_row_is_normalized_to_the_bias() -> None:
    norm = layer(SyncBatchNorm)
    y = norm(torch.randn(1, 6, dtype=torch.float64))
    torch.testing.assert_close(y[0], norm.bias)
    assert all(torch.isfinite(value).all() for value in norm.state_dict().values())


def test_synchronizing_keeps_weights_and_result() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4)))
    synced = synchronize_batch_norm(copy.deepcopy(net))
    assert sum(isinstance(module, SyncBatchNorm) for module in synced.modules()) == 2
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(synced(x), net(x))


def test_what_timm_puts_behind_a_normalization_stays() -> None:
    """Its BatchNormAct2d holds the activation: a network whose normalization is replaced must keep it."""
    torch.manual_seed(0)
    net = timm.create_model("test_efficientnet", num_classes=0)
    synced = synchronize_batch_norm(copy.deepcopy(net))
    assert list(synced.state_dict()) == list(net.state_dict())
    x = torch.randn(4, 3, 64, 64)
    for training in (True, False):
        torch.testing.assert_close(synced.train(training)(x), net.train(training)(x))


def test_a_normalization_that_does_more_is_refused() -> None:
    class Shifted(nn.BatchNorm1d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    with pytest.raises(ValueError, match="Shifted is a batch normalization with a forward of its own"):
        Branch(nn.Sequential(Shifted(4)), nn.Sequential())


def test_the_projector_is_the_papers() -> None:
    made = projector(10, (8, 8, 4))
    assert isinstance(made, nn.Sequential)
    kinds = [type(module).__name__ for module in made]
    assert kinds == ["Linear", "SyncBatchNorm", "ReLU", "Linear", "SyncBatchNorm", "ReLU", "Linear"]
    assert made[-1].bias is None
    x = torch.randn(3, 10)
    assert torch.equal(projector(10, ())(x), x)


def test_absent_rows_are_zero_and_do_not_touch_the_statistics() -> None:
    model = Model({"a": Branch(nn.Linear(3, 5), projector(5, (4, 2)))}, {"a": "a"})
    alone = copy.deepcopy(model)
    x, present = torch.randn(6, 3), torch.tensor([True, False, True, True, False, True])
    z = model({"a": x}, {"a": present})["a"].z
    expected = alone({"a": x[present]}, {"a": torch.ones(4, dtype=torch.bool)})["a"].z
    torch.testing.assert_close(z[present], expected)
    assert not z[~present].any()
    some, same = dict(model.named_buffers()), dict(alone.named_buffers())
    assert all(torch.equal(some[name], same[name]) for name in some)


def test_no_row_present_is_legal() -> None:
    model = Model({"a": Branch(nn.Linear(3, 5), projector(5, (4, 2)))}, {"a": "a"})
    z = model({"a": torch.randn(4, 3)}, {"a": torch.zeros(4, dtype=torch.bool)})["a"].z
    z.sum().backward()
    assert z.shape == (4, 2)
    assert not z.any()


def test_a_frozen_encoder_stays_as_it_is() -> None:
    branch = Branch(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)), projector(5, (4, 2)), frozen=True)
    branch.train()
    before = {name: value.clone() for name, value in branch.encoder.state_dict().items()}
    branch(torch.randn(8, 3)).z.sum().backward()
    assert all(torch.equal(value, branch.encoder.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in branch.encoder.parameters())
    assert all(parameter.grad is not None for parameter in branch.projector.parameters())


def test_a_view_without_a_branch_is_named() -> None:
    with pytest.raises(KeyError, match="sound"):
        Model({"a": Branch(nn.Identity(), nn.Identity())}, {"a": "sound"})
