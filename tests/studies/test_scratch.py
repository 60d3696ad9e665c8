"""Pairs encoded from shards, and encoders trained from random weights on them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import mmvicreg as mm
from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.studies.study import Trial

ROOT = Path(__file__).parents[2]
REGIME = "pairs-100-split-0"
SETTINGS = {
    **{
        "learning_rate": 2e-3,
        "batch": 25,
        "width": 32,
        "temperature": 0.1,
        "variance": 25.0,
        "covariance": 1.0,
    },
    **{"invariance": 5.0, "shape": 1.0, "sigreg": 0.05, "infonce": 1.0},
}


def few_pairs(path: Path, count: int, *, without: str = "none") -> Path:
    """The first pairs of the demo's shard of styles, without the members that end so."""
    with tarfile.open(ROOT / "data/demo/style-000000.tar") as whole, tarfile.open(path, "w") as part:
        for member in whole.getmembers()[: 3 * count]:
            if not member.name.endswith(without):
                part.addfile(member, whole.extractfile(member))
    return path


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory):
    """What studies/encode_pairs.py wrote of 160 pairs without towers; the studies read it."""
    folder = tmp_path_factory.mktemp("pixels")
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "studies"))
    patch.setenv("MMVICREG_PAIRS", str(folder / "pixels.npz"))
    patch.setenv("MMVICREG_EPOCHS", "1")
    import encode_pairs

    shards = few_pairs(folder / "few.tar", 160)
    config = encode_pairs.Config(str(shards), str(folder / "pixels.npz"), "pixels", "tokens", views=1)
    encode_pairs.main(config)
    yield folder / "pixels.npz"
    patch.undo()


def test_pixels_and_word_pieces_are_those_of_the_shards(pixels: Path) -> None:
    with np.load(pixels) as found:
        assert found["image"].shape == (160, 2, 3, 48, 48) and found["image"].dtype == np.uint8
        assert found["text"].dtype == np.int64 and found["text"].shape[2] == 16
        assert (found["image"][:, 0] != found["image"][:, 1]).any(axis=(1, 2, 3)).mean() > 0.9  # random crops
        tokens = mm.TextModality(encoder=mm.MINILM.encoder, length=16).reader()
        for name, rows, count in zip(found["name"], found["text"], found["captions"], strict=True):
            assert rows[0].tolist() == tokens.encode(str(name)).tolist()
            assert (rows[:count] > 0).any(axis=1).all() and not rows[count:].any()


def test_features_are_those_of_the_towers(pixels: Path, tmp_path: Path) -> None:
    import encode_pairs

    shards = few_pairs(tmp_path / "few.tar", 4)
    out = tmp_path / "features.npz"
    encode_pairs.main(encode_pairs.Config(str(shards), str(out), views=0))
    samples = encode_pairs.read_samples(str(shards))
    with np.load(out) as found, torch.inference_mode():
        reader, branch = mm.EFFICIENTNET_LITE0.reader(), mm.EFFICIENTNET_LITE0.branch().eval()
        pictures = torch.stack([torch.as_tensor(reader.items(sample)[0].value) for sample in samples])
        expected = branch.represent(pictures).numpy()
        assert np.allclose(found["image"][:, 0], expected, atol=2e-3 * np.abs(expected).max())
        assert found["key"].tolist() == [sample.key for sample in samples]
        names = [json.loads(sample.members["json"])["name"] for sample in samples]
        assert found["name"].tolist() == names


def test_a_pair_without_what_an_encoder_reads_is_named(pixels: Path, tmp_path: Path) -> None:
    import encode_pairs

    shards = few_pairs(tmp_path / "few.tar", 2, without="webp")
    with pytest.raises(
        InvalidValueError, match=r"sample noto-\w+ has \['json', 'txt'\], nothing pixels reads"
    ):
        encode_pairs.main(encode_pairs.Config(str(shards), str(tmp_path / "f.npz"), "pixels", "tokens"))


def test_shards_that_are_missing_or_hold_no_names_are_named(pixels: Path, tmp_path: Path) -> None:
    import encode_pairs

    with pytest.raises(MissingFileError, match=r"no shard .*none\.tar; --pairs takes paths such as"):
        encode_pairs.read_samples(str(tmp_path / "none.tar"))
    nameless = few_pairs(tmp_path / "nameless.tar", 2, without="json")
    with pytest.raises(InvalidValueError, match=r"sample noto-\w+ has no JSON member"):
        encode_pairs.read_samples(str(nameless))


def test_padding_does_not_change_the_representation_of_a_text(pixels: Path) -> None:
    from scratch_encoders import PAD, TextTransformer

    torch.manual_seed(0)
    encoder = TextTransformer().eval()
    short = torch.tensor([[101, 2417, 6207, 102]])
    padded = torch.nn.functional.pad(short, (0, 12), value=PAD)
    assert torch.allclose(encoder(short), encoder(padded), atol=1e-5)
    assert not torch.allclose(encoder(short), encoder(short.flip(1)), atol=1e-2)


@pytest.mark.slow
def test_every_objective_trains_both_encoders_and_is_scored_from_the_kept_weights(
    pixels: Path, tmp_path: Path
) -> None:
    import scratch

    assert len(scratch.STUDY.methods) == 10
    for name, method in scratch.STUDY.methods.items():
        trial = Trial(name, REGIME, SETTINGS, 1, tmp_path / name)
        assert set(method.space) <= set(SETTINGS)
        method.train(trial)
        first, again = scratch.test(trial), scratch.test(trial)
        assert first == again and 0 <= first["mean_recall"] <= 1
        kept = json.loads((trial.out / "summary.json").read_text())
        assert kept["source"] == "studies/scratch.py" and kept["scores"]["validation.mean_recall"] > 0


def test_encoders_from_random_weights_learn_their_training_pairs(
    pixels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scratch
    from pair_features import Division

    monkeypatch.setattr(scratch, "EPOCHS", 12)
    whole = scratch.pairs_of(REGIME, 1)
    monkeypatch.setattr(
        scratch, "pairs_of", lambda regime, seed: Division(whole.train, whole.train, whole.train)
    )
    trial = Trial("infonce", REGIME, SETTINGS, 1, tmp_path)
    scratch.train(trial)
    # About 100 names: a random order has a mean recall near 0.05.
    assert scratch.test(trial)["mean_recall"] > 0.25
