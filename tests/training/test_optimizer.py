"""Groups, schedules and optimizers do what their formulas say."""

import math

import pytest
import torch
from torch import nn

import mmvicreg as mm
from mmvicreg.branches.activation_checkpointing import recompute_blocks
from mmvicreg.branches.model import projector
from mmvicreg.branches.moving_average import MovingAverage
from mmvicreg.training.dry_run import largest_power
from mmvicreg.training.gradient_cache import check_cacheable
from mmvicreg.training.optimizer import (
    Lars,
    clip_gradients,
    freeze_until,
    gradient_norms,
    layer_depths,
    learning_rate_factor,
    make_optimizer,
    parameter_groups,
    total_norm,
)


def model(*, norm: type[nn.Module] = nn.LayerNorm) -> mm.Model:
    """Two branches: three blocks and a stem, and a linear one."""
    torch.manual_seed(0)
    deep = nn.Sequential()
    deep.add_module("patch_embed", nn.Linear(4, 4))
    deep.add_module("blocks", nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), norm(4)) for _ in range(3)]))
    deep.add_module("head", nn.Linear(4, 4))
    branches = {
        "image": mm.Branch(deep, projector(4, (6, 5)), learning_rate=0.1),
        "text": mm.Branch(nn.Linear(3, 4), projector(4, (5,)), frozen=True),
    }
    return mm.Model(branches, {"image": "image", "text": "text"})


def test_groups_carry_rates_decays_and_exclusions() -> None:
    config = mm.OptimizerConfig(learning_rate=0.01, weight_decay=0.5, no_decay=("head",), layer_decay=0.5)
    groups = parameter_groups(model(), mm.InfoNCE(), config)
    found = {name: group for group in groups for name in group["names"]}
    prefix = "model.branches.image.encoder."
    assert found[f"{prefix}blocks.2.0.weight"]["peak"] == 0.1
    assert found[f"{prefix}blocks.0.0.weight"]["peak"] == pytest.approx(0.1 / 4)
    assert found[f"{prefix}patch_embed.weight"]["peak"] == pytest.approx(0.1 / 8)
    assert found[f"{prefix}head.weight"]["weight_decay"] == 0 and found[f"{prefix}head.weight"]["peak"] == 0.1
    assert found[f"{prefix}blocks.0.0.weight"]["weight_decay"] == 0.5
    assert (
        found[f"{prefix}blocks.0.0.bias"]["weight_decay"] == 0 != found[f"{prefix}blocks.1.0.weight"]["peak"]
    )
    assert found["objective.log_scale"]["peak"] == 0.01 and "model.branches.text.encoder.weight" not in found
    assert found["model.branches.text.projector.0.weight"]["peak"] == 0.01


@pytest.mark.parametrize(
    ("names", "depths"),
    [
        (
            ["1.cls_token", "1.blocks.0.attn.qkv.weight", "1.blocks.11.mlp.weight", "1.norm.weight"],
            [0, 1, 12, 12],
        ),
        (
            ["1.conv1.weight", "1.layer1.0.conv1.weight", "1.layer4.2.conv3.weight", "1.fc.weight"],
            [0, 2, 5, 5],
        ),
        (["model.embeddings.word.weight", "model.encoder.layer.5.output.weight"], [0, 6]),
        (["transformer.resblocks.3.attn.weight", "token_embedding.weight", "ln_final.weight"], [4, 0, 4]),
    ],
)
def test_depth_is_read_from_the_names_of_common_encoders(names: list[str], depths: list[int]) -> None:
    assert list(layer_depths(names).values()) == depths


def test_lars_is_its_formula() -> None:
    torch.manual_seed(0)
    matrix, bias = nn.Parameter(torch.randn(3, 4).double()), nn.Parameter(torch.randn(3).double())
    groups = [
        {"params": [matrix], "weight_decay": 0.1, "adapt": True},
        {"params": [bias], "weight_decay": 0.0, "adapt": False},
    ]
    optimizer = Lars(groups, learning_rate=0.3, momentum=0.9, trust=0.02)
    p, q = matrix.detach().clone(), bias.detach().clone()
    m, n = torch.zeros_like(p), torch.zeros_like(q)
    for _ in range(3):
        matrix.grad, bias.grad = torch.randn_like(matrix), torch.randn_like(bias)
        change = matrix.grad + 0.1 * p
        m = 0.9 * m + change * 0.02 * p.norm() / change.norm()
        n = 0.9 * n + bias.grad
        p, q = p - 0.3 * m, q - 0.3 * n
        optimizer.step()
    torch.testing.assert_close(matrix.detach(), p)
    torch.testing.assert_close(bias.detach(), q)


def test_fused_adamw_is_adamw_on_channels_last_weights() -> None:
    torch.manual_seed(0)
    start = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
    ours, plain = (nn.Parameter(start.clone(memory_format=torch.preserve_format)) for _ in range(2))
    config = mm.OptimizerConfig(learning_rate=0.1)
    group = {"params": [ours], "names": ["w"], "name": "a", "peak": 0.1, "lr": 0.1, "weight_decay": 0.2}
    mine = make_optimizer([group], config)
    other = torch.optim.AdamW(
        [plain], lr=0.1, betas=(0.9, 0.98), weight_decay=0.2, fused=False, foreach=False
    )
    for _ in range(3):
        ours.grad = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
        plain.grad = ours.grad.clone()
        mine.step()
        other.step()
    torch.testing.assert_close(ours, plain)


def test_norms_of_branches_make_the_norm_of_all_and_clipping_bounds_it() -> None:
    made = model()
    optimizer = make_optimizer(
        parameter_groups(made, nn.Identity(), mm.OptimizerConfig()), mm.OptimizerConfig()
    )
    trained = [p for p in made.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    whole = torch.cat([p.grad.reshape(-1) for p in trained if p.grad is not None]).norm()
    norms = gradient_norms(optimizer)
    assert sorted(norms) == ["image", "text"]
    torch.testing.assert_close(total_norm(norms), whole)
    clip_gradients(optimizer, total_norm(norms), 0.5)
    assert float(total_norm(gradient_norms(optimizer))) == pytest.approx(0.5, rel=1e-4)


def test_schedules_have_their_shapes() -> None:
    def at(step: int, schedule: str, final: float = 0.0) -> float:
        config = mm.OptimizerConfig(schedule=schedule, final_fraction=final)  # type: ignore[arg-type]
        return learning_rate_factor(step, warmup=10, total=110, config=config)

    assert [at(0, "cosine"), at(9, "cosine"), at(10, "cosine")] == [0.1, 1.0, 1.0]
    assert at(60, "cosine") == pytest.approx(0.5) and at(110, "cosine", 0.1) == pytest.approx(0.1)
    assert at(35, "cosine") == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert at(60, "linear") == pytest.approx(0.5) and at(109, "constant") == 1.0
    assert at(89, "trapezoid") == 1.0 and at(100, "trapezoid") == pytest.approx(0.5)


def test_encoders_are_freed_at_their_step_and_others_stay() -> None:
    made = model()
    encoder = made.branch_named("image").encoder
    assert freeze_until(made, {"image": 5}, 0) and not freeze_until(made, {"image": 5}, 4)
    assert (
        not any(p.requires_grad for p in encoder.parameters())
        and not made.train().branch_named("image").encoder.training
    )
    groups = parameter_groups(made, nn.Identity(), mm.OptimizerConfig(), later=frozenset({"image"}))
    assert any("encoder" in name for group in groups for name in group["names"])
    assert freeze_until(made, {"image": 5}, 5) and all(p.requires_grad for p in encoder.parameters())
    assert encoder.training
    with pytest.raises(ValueError, match="frozen for the whole run"):
        freeze_until(made, {"text": 5}, 0)
    with pytest.raises(KeyError, match="names branch 'txt'"):
        freeze_until(made, {"txt": 5}, 0)


def test_a_moving_average_follows_and_shares_what_is_frozen() -> None:
    made = model()
    average = MovingAverage(made, 0.75)
    weight = made.get_parameter("branches.image.encoder.head.weight")
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    average.update(made)
    averaged = average.model.get_parameter("branches.image.encoder.head.weight")
    torch.testing.assert_close(averaged, before + 0.25)
    frozen = "branches.text.encoder.weight"
    assert average.model.get_parameter(frozen) is made.get_parameter(frozen)
    with pytest.raises(ValueError, match=r"momentum of a moving average is in \[0, 1\); found 1"):
        MovingAverage(made, 1.0)


def test_recomputing_blocks_changes_no_gradient_and_refuses_batch_normalization() -> None:
    plain, again = model(), model()
    assert recompute_blocks(again) == {"image": 3}
    x = torch.randn(7, 4)
    for each in (plain, again):
        each.branches["image"](x).z.square().sum().backward()
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        if one.grad is None or other.grad is None:
            assert one.grad is other.grad
        else:
            assert one.grad.equal(other.grad)
    assert list(plain.state_dict()) == list(again.state_dict())
    with pytest.raises(ValueError, match="activation_checkpointing is set"):
        recompute_blocks(model(norm=nn.BatchNorm1d))
    with pytest.raises(ValueError, match="the encoder of image normalizes over the batch"):
        check_cacheable(model(norm=nn.BatchNorm1d))


def test_the_largest_batch_is_a_power_of_two_that_fits() -> None:
    assert largest_power(lambda rows: rows <= 100, limit=1 << 17) == 64
    assert largest_power(lambda rows: True, limit=300) == 256
    with pytest.raises(ValueError, match="not even 8 samples"):
        largest_power(lambda rows: False, limit=300)
