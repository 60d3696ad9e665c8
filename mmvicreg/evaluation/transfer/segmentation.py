"""A linear probe on patch features: each place's frozen features to a class, one 1x1 convolution, mIoU.

As DINOv2 does (arXiv 2304.07193, section 7.4): features are standardised by channel, one linear layer is trained by
AdamW on cross-entropy after bilinear upsampling to the mask, and a pixel of value 255 is ignored. Pictures are the
centre square at the encoder's size, without augmentation, so features are computed once and kept.

Shapes: N pictures, E channels, C classes, S side of a picture and its mask.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mmvicreg.branches.model import Branch, Model
from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.embed import store_name
from mmvicreg.evaluation.store import move_folder, work_folder
from mmvicreg.evaluation.transfer.feature_maps import feature_map
from mmvicreg.modalities.decoding import crops, pixels
from mmvicreg.modalities.image import ImageReader
from mmvicreg.progress import bar
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.evaluation_items import EvaluationItem, evaluation_items
from mmvicreg.stream.reader import BadSampleError, Item, Reader, Sample

IGNORED = 255


@dataclass(frozen=True)
class MaskedReader(Reader):
    """A picture and its mask, cut alike: uint8 (4, S, S), the last channel the class of each pixel.

    Masks are PNG files with class numbers as grey values or palette entries (PASCAL VOC's), read as they are.
    """

    image: ImageReader
    mask: str = "mask.png"

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.image.members, self.mask)

    @property
    def shape(self) -> tuple[int, ...]:
        return (4, self.image.size, self.image.size)

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    def read(self, sample: Sample, generator: np.random.Generator) -> Item | None:
        found = self.items(sample)
        return found[0] if found else None

    def items(self, sample: Sample) -> list[Item]:
        suffix = next((name for name in self.image.suffixes if name in sample.members), "")
        if not suffix or self.mask not in sample.members:
            return []
        picture = pixels.decode(sample.members[suffix], max_pixels=self.image.max_pixels)
        mask = decode_mask(sample.members[self.mask], max_pixels=self.image.max_pixels)
        height, width = picture.array.shape[:2]
        if mask.shape != (height, width):
            raise BadSampleError(
                f"mask: {mask.shape[1]} x {mask.shape[0]} pixels, its picture has {width} x {height}"
            )
        box, size = crops.centre_box(width, height), self.image.size
        nearest = ((np.arange(size) + 0.5) * box.width / size).astype(np.int64)
        cut = torch.from_numpy(mask[np.ix_(box.top + nearest, box.left + nearest)].copy())
        return [
            Item(
                torch.cat([crops.resize_crop(picture.array, box, size), cut[None]]),
                recovered=picture.recovered,
            )
        ]


def decode_mask(data: bytes, *, max_pixels: int) -> np.ndarray:
    """Class numbers uint8 (H, W) of a grey-level or palette PNG. Raises BadSampleError for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=["PNG"])
            if image.mode not in ("L", "P", "1"):
                raise BadSampleError(f"mask: mode {image.mode}; expected 8-bit grey values or a palette")
            if image.width * image.height > max_pixels:
                raise BadSampleError(f"mask: {image.width} x {image.height} pixels, at most {max_pixels}")
            return np.array(image).astype(np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadSampleError(f"mask: no PNG that can be read ({error})") from None


@dataclass(frozen=True)
class Maps:
    """Kept features, float16 (N, E, rows, columns), masks uint8 (N, S, S), keys; the first two memory-mapped."""

    features: np.ndarray
    masks: np.ndarray
    keys: list[str]
    skipped: int
    """samples without a picture or a mask, or with damaged ones"""


def feature_maps(
    branch: Branch,
    index: ShardIndex,
    reader: MaskedReader,
    *,
    folder: Path,
    device: str,
    batch_size: int = 16,
) -> Maps:
    """Features and masks of every sample, under ``folder``: opened if they are there, made if not.

    Raises ValueError where no sample has both a picture and a mask.
    """
    name = store_name(Model({"image": branch}, {"image": "image"}), index, {"image": reader}, settings="maps")
    target = folder / f"{name}.maps"
    if not (target / "maps.json").is_file():
        work = work_folder(target)
        _write_maps(branch, index, reader, work, device=device, batch_size=batch_size)
        move_folder(work, target)
    found = json.loads((target / "maps.json").read_text())
    shapes = {"features": (np.float16, found["features"]), "masks": (np.uint8, found["masks"])}
    arrays = {
        name: np.memmap(target / name, dtype=kind, mode="r", shape=tuple(shape))
        for name, (kind, shape) in shapes.items()
    }
    return Maps(arrays["features"], arrays["masks"], found["keys"], found["skipped"])


def _write_maps(
    branch: Branch, index: ShardIndex, reader: MaskedReader, folder: Path, *, device: str, batch_size: int
) -> None:
    encoder = branch.encoder.eval().to(device)
    keys: list[str] = []
    held: list[Tensor] = []
    shape: tuple[int, ...] = ()
    with (
        open(folder / "features", "wb") as features,
        open(folder / "masks", "wb") as masks,
        bar("encode", len(index)) as b,
    ):

        def flush() -> None:
            nonlocal shape
            if not held:
                return
            both = torch.stack(held)
            found = feature_map(encoder, both[:, :3].to(device)).half().cpu().contiguous()
            if not bool(found.isfinite().all()):
                raise InvalidValueError(
                    "features are not finite in half precision; check the checkpoint that made them"
                )
            shape = tuple(found.shape[1:])
            features.write(found.numpy().tobytes())
            masks.write(both[:, 3].contiguous().numpy().tobytes())
            b(len(held), "")
            held.clear()

        for item in evaluation_items(index, {"image": reader}):
            if isinstance(item, EvaluationItem):
                keys.append(item.key)
                held.append(item.value)
            if len(held) == batch_size:
                flush()
        flush()
    if not keys:
        raise InvalidValueError(
            f"none of the {len(index)} samples has a picture and a mask {reader.mask!r} of its size"
        )
    content = {"features": [len(keys), *shape], "masks": [len(keys), *reader.shape[1:]], "keys": keys}
    (folder / "maps.json").write_text(json.dumps(content | {"skipped": len(index) - len(keys)}))


class DenseProbe(nn.Module):
    """Features (n, E, rows, columns) to scores (n, C, S, S): standardise, one linear layer, enlarge."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean_E: Tensor, std_E: Tensor, classes: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("mean", mean_E.view(-1, 1, 1))
        self.register_buffer("std", std_E.view(-1, 1, 1))
        self.linear = nn.Conv2d(len(mean_E), classes, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        scores = self.linear((features.float() - self.mean) / self.std)
        return F.interpolate(scores, (self.side, self.side), mode="bilinear", align_corners=False)


def dense_probe(
    maps: Maps,
    rows: np.ndarray,
    *,
    classes: int,
    learning_rates: Sequence[float],
    epochs: int = 20,
    batch_size: int = 16,
    seed: int = 0,
    device: str = "cpu",
) -> list[DenseProbe]:
    """One probe for each learning rate, trained on these rows of ``maps`` side by side (one pass reads for all).

    AdamW, weight decay 1e-4, cosine to 0. Raises ValueError where every pixel is ignored, or all others are of one
    class (masks of 0 and 255, which would score 1 whatever the probe says).
    """
    check_classes(np.asarray(maps.masks[rows]))
    mean_E, std_E = _standards(maps, rows)
    probes = [DenseProbe(mean_E, std_E, classes, maps.masks.shape[1]).to(device) for _ in learning_rates]
    optimizers = [
        torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=1e-4)
        for probe, rate in zip(probes, learning_rates, strict=True)
    ]
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(rows) // batch_size)
    done = 0
    with bar("dense probe", steps, unit="steps") as advance, torch.enable_grad():
        for _ in range(epochs):
            for part in torch.randperm(len(rows), generator=generator).split(batch_size):
                x, y = _batch(maps, np.sort(rows[part.numpy()]), device)
                for probe, optimizer, rate in zip(probes, optimizers, learning_rates, strict=True):
                    optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * done / steps)) / 2
                    optimizer.zero_grad()
                    # A sum over the count: cross_entropy's own mean is nan where all pixels are ignored.
                    loss = F.cross_entropy(probe(x), y, ignore_index=IGNORED, reduction="sum")
                    (loss / (y != IGNORED).sum().clamp(min=1)).backward()
                    optimizer.step()
                done += 1
                advance(1, "")
    return [probe.eval() for probe in probes]


def check_classes(masks: np.ndarray) -> None:
    """Raise ValueError for masks (n, S, S) of which one class or none is left once 255 is ignored."""
    found = np.unique(masks)
    if found.tolist() in ([0, IGNORED], [1, IGNORED]):
        raise InvalidValueError(
            f"the {len(masks)} masks hold only {found[0]} and {IGNORED}, and {IGNORED} is ignored: one class is left, "
            "and calling every pixel that would score 1. Is 255 the foreground? Write class numbers then, 0 and 1"
        )
    if not (found != IGNORED).any():
        raise InvalidValueError(f"every pixel of the {len(masks)} masks is {IGNORED}, which is ignored")


def _batch(maps: Maps, rows: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
    features = torch.from_numpy(maps.features[rows]).to(device)
    return features, torch.from_numpy(maps.masks[rows]).long().to(device)


def _standards(maps: Maps, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    total, square, count = np.zeros(maps.features.shape[1]), np.zeros(maps.features.shape[1]), 0
    for start in range(0, len(rows), 64):
        block = np.asarray(maps.features[np.sort(rows[start : start + 64])], dtype=np.float64)
        total += block.sum((0, 2, 3))
        square += (block**2).sum((0, 2, 3))
        count += block.size // block.shape[1]
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0)).clip(1e-6)
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


@dataclass(frozen=True)
class Segmented:
    """``confusion[t, p]``: pixels of class t called p, int64 (C, C), ignored pixels left out."""

    confusion: np.ndarray

    @property
    def per_class(self) -> np.ndarray:
        """Intersection over union (C,); nan where a class is neither there nor called."""
        both = self.confusion.diagonal()
        union = self.confusion.sum(0) + self.confusion.sum(1) - both
        return np.where(union > 0, both / np.maximum(union, 1), np.nan)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that are there or called (Everingham et al. 2010; scikit-learn's macro Jaccard)."""
        return float(np.nanmean(self.per_class))

    def to_json(self) -> dict[str, float | int]:
        """The scalars; ``majority_iou`` is what calling every pixel the commonest class would give."""
        size = self.confusion.sum(1)
        constant = np.zeros_like(self.confusion)
        constant[:, size.argmax()] = size
        return {
            "mean_iou": self.mean_iou,
            "pixel_accuracy": float(self.confusion.trace() / size.sum()),
            "mean_class_accuracy": float((self.confusion.diagonal()[size > 0] / size[size > 0]).mean()),
            "majority_iou": float(np.nanmean(Segmented(constant).per_class)),
            "classes": len(size),
            "pixels": int(size.sum()),
        }


@torch.inference_mode()
def predict_masks(
    probe: DenseProbe, maps: Maps, rows: np.ndarray, *, device: str = "cpu", batch_size: int = 16
) -> Tensor:
    """The class called for every pixel, uint8 (n, S, S)."""
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return torch.cat(
        [probe(_batch(maps, part, device)[0]).argmax(1).to("cpu", torch.uint8) for part in parts]
    )


def score_masks(called: np.ndarray, masks: np.ndarray, *, classes: int) -> Segmented:
    """Confusion of called (n, S, S) against true masks (n, S, S), both uint8.

    Raises ValueError for a mask value that is no class, and where every pixel is ignored.
    """
    kept = masks != IGNORED
    if not kept.any():
        raise InvalidValueError(f"every pixel of the {len(masks)} masks is {IGNORED}, which is ignored")
    truth, found = masks[kept].astype(np.int64), called[kept].astype(np.int64)
    if truth.max() >= classes:
        raise InvalidValueError(f"a mask has the value {truth.max()}; there are {classes} classes")
    counts = np.bincount(truth * classes + found, minlength=classes**2)
    return Segmented(counts.reshape(classes, classes))
