"""`mmvicreg segment`: a linear probe on the patch features of an image encoder, scored by mIoU.

Heavy imports come after the options.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmvicreg.cli.model_options import Model, ModelOptions
from mmvicreg.cli.output import Output
from mmvicreg.errors import InvalidValueError

if TYPE_CHECKING:
    import numpy as np

    from mmvicreg.evaluation.transfer.dense.kept_features import Maps
    from mmvicreg.evaluation.transfer.dense.probe import DenseProbe
    from mmvicreg.runs.run import Run


@dataclass(frozen=True)
class SegmentConfig(ModelOptions):
    """Dense linear probe: classify every pixel from the frozen features of its place; mean intersection over union.

    Samples hold a picture and a mask: a PNG of class numbers (grey values or palette entries), 255 to be ignored.
    """

    model: Model
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    train: str = field(kw_only=True)
    """shards with pictures and masks"""
    test: str = field(kw_only=True)
    """the same, to score on"""
    mask: str = "mask.png"
    """member suffix of the mask"""
    names: str = ""
    """file of class names, one a line or JSON; numbers if empty"""
    branch: str = "image"
    """branch whose encoder is probed"""
    size: int = 0
    """side of the picture in pixels; 0 for that of the run (only convolutional encoders take another)"""
    learning_rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    """to try; chosen on a fifth of the training pictures"""
    epochs: int = 20
    """passes over the training pictures"""
    batch_size: int = 16
    """pictures of a step"""
    seed: int = 0
    """order of the pictures"""
    out: str = ""
    """JSON file to write; a picture of masks goes beside it"""


def segment(config: SegmentConfig) -> Output:
    """Encode once, sweep, score the test pictures once; print, and write JSON and a picture."""
    import numpy as np
    import torch

    from mmvicreg.evaluation.summary import Summary, flatten, shown
    from mmvicreg.evaluation.transfer.dense.masks import check_classes
    from mmvicreg.evaluation.transfer.dense.probe import predict_masks
    from mmvicreg.evaluation.transfer.dense.scores import score_masks
    from mmvicreg.evaluation.transfer.label_files import read_lines

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    run, train, test = _maps(config, device)
    check_classes(np.asarray(test.masks))
    names = read_lines(config.names) if config.names else []
    classes = max(len(names), _classes(train), _classes(test))
    if names and classes > len(names):
        raise InvalidValueError(f"a mask has the value {classes - 1}, and there are {len(names)} class names")
    probe, rate = _probe(config, train, classes, device)
    called = predict_masks(probe, test, np.arange(len(test.masks)), device=device).numpy()
    scores = score_masks(called, np.asarray(test.masks), classes=classes)
    result: dict[str, Any] = scores.to_json() | {
        "learning_rate": rate,
        "pictures": len(test.masks),
        "training_pictures": len(train.masks),
        "skipped": train.skipped + test.skipped,
    }
    lines = [f"dense linear: {', '.join(f'{name} {shown(name, value)}' for name, value in result.items())}"]
    named = names or [str(number) for number in range(classes)]
    result["per_class"] = dict(zip(named, scores.per_class.tolist(), strict=True))
    summary = Summary("segment", run.folder.name, run.step, flatten({"test": result}))
    if config.out:
        _draw(summary.write(config.out).with_suffix(".png"), test, called, classes)
        lines.append(f"written: {config.out}")
    return Output(asdict(summary), tuple(lines))


def _maps(config: SegmentConfig, device: str) -> tuple[Run, Maps, Maps]:
    from mmvicreg.evaluation.embed import embeddings_folder
    from mmvicreg.evaluation.transfer.dense.kept_features import feature_maps
    from mmvicreg.evaluation.transfer.dense.masks import MaskedReader
    from mmvicreg.modalities.image import ImageModality
    from mmvicreg.shards.index import open_index

    run = config.load(config.model)
    branch, modality = run.model.branch_named(config.branch), run.modalities[config.branch]
    if not isinstance(modality, ImageModality):
        raise InvalidValueError(
            f"branch {config.branch!r} is a {type(modality).__name__}; a dense probe takes an ImageModality"
        )
    reader = MaskedReader(replace(modality, size=config.size or modality.size).reader(), config.mask)
    folder = embeddings_folder(run)
    train, test = (
        feature_maps(branch, open_index(data), reader, folder=folder, device=device)
        for data in (config.train, config.test)
    )
    return run, train, test


def _classes(maps: Maps) -> int:
    from mmvicreg.evaluation.transfer.dense.masks import IGNORED

    known = [int(value) for mask in maps.masks for value in (mask[mask != IGNORED].max(initial=0),)]
    return 1 + max(known)


def _probe(config: SegmentConfig, maps: Maps, classes: int, device: str) -> tuple[DenseProbe, float]:
    """The best of the sweep on a fifth of the pictures, trained again on all of them."""
    import numpy as np

    from mmvicreg.evaluation.transfer.dense.probe import dense_probe, predict_masks
    from mmvicreg.evaluation.transfer.dense.scores import score_masks

    def train(rows: np.ndarray, rates: tuple[float, ...]) -> list[DenseProbe]:
        options: dict[str, Any] = {
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "seed": config.seed,
        }
        return dense_probe(maps, rows, classes=classes, learning_rates=rates, device=device, **options)

    order = np.random.default_rng(config.seed).permutation(len(maps.masks))
    held = np.sort(order[: len(order) // 5])
    best = config.learning_rates[0]
    if len(config.learning_rates) > 1 and len(held):
        probes = train(np.sort(order[len(held) :]), config.learning_rates)
        truth = np.asarray(maps.masks[held])
        found = [
            score_masks(
                predict_masks(probe, maps, held, device=device).numpy(), truth, classes=classes
            ).mean_iou
            for probe in probes
        ]
        best = config.learning_rates[int(np.argmax(found))]
    return train(np.sort(order), (best,))[0], best


def _draw(path: Path, test: Maps, called: np.ndarray, classes: int) -> None:
    import numpy as np

    from mmvicreg.evaluation.report import figures
    from mmvicreg.evaluation.transfer.dense.masks import IGNORED

    chosen = np.unique(np.linspace(0, len(called) - 1, 6).round().astype(int))
    rows = [(test.keys[n], np.asarray(test.masks[n]), called[n]) for n in chosen]
    figures.save(figures.masks_figure(rows, classes=classes, ignored=IGNORED), path)
