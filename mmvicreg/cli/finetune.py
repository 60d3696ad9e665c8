"""`mmvicreg finetune`: the semi-supervised protocol, an encoder fine-tuned on 1% or 10% of the labels.

Heavy imports come after the options.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmvicreg.cli.model_options import Model, ModelOptions, Out
from mmvicreg.cli.output import Output
from mmvicreg.files import lock, write_text

if TYPE_CHECKING:
    import numpy as np

    from mmvicreg.evaluation.transfer.classification import Classified
    from mmvicreg.evaluation.transfer.finetuning import FineTuning
    from mmvicreg.evaluation.transfer.labels import Labelled
    from mmvicreg.runs.run import Run
    from mmvicreg.stream.reader import Reader

SMALL = 0.03
"""Below this fraction VICReg's learning rates for 1% of the labels are the defaults, from it on those for 10%."""


@dataclass(frozen=True)
class FinetuneConfig(ModelOptions):
    """Fine-tune an encoder with a linear classifier on a fraction of the labels (1% or 10% in the papers)."""

    model: Model
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    out: Out
    """folder for summary.json, subset.txt, the confusion picture and a checkpoint; called again, it continues"""
    train: str = field(kw_only=True)
    """shards with labels, or an image folder CLASS/PICTURE"""
    test: str = field(kw_only=True)
    """the same, to score on"""
    fraction: float = 0.01
    """fraction of each class that is trained on, at least one sample"""
    seed: int = 0
    """which samples, their order and crops, and the first classifier"""
    label: str = "cls"
    """where class numbers (or names, with --names) are: a member suffix, or json:FIELD"""
    names: str = ""
    """file of class names, one a line or JSON; a folder's own names if empty"""
    branch: str = "image"
    """branch whose encoder is fine-tuned"""
    encoder_rate: float | None = None
    """learning rate of the encoder; VICReg's 0.03 (1%) or 0.01 (10%) if not given"""
    head_rate: float | None = None
    """learning rate of the classifier; VICReg's 0.08 (1%) or 0.1 (10%) if not given"""
    schedule: Literal["cosine", "step"] = "cosine"
    """by epoch: cosine to 0 (VICReg, BYOL), or times 0.2 after 60% and 80% of the epochs (SwAV, Barlow Twins)"""
    epochs: int = 20
    """passes over the chosen samples"""
    batch_size: int = 256
    """samples of a step"""
    weight_decay: float = 0.0
    """of all weights"""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """images: fraction of the area a training crop covers"""
    flip: float = 0.5
    """images: probability of a horizontal flip"""


def finetune(config: FinetuneConfig) -> Output:
    """Choose, train, score, and write summary.json."""
    from mmvicreg.evaluation.embed import embeddings_folder
    from mmvicreg.evaluation.summary import Summary, flatten
    from mmvicreg.evaluation.transfer.finetuning import balanced_subset
    from mmvicreg.evaluation.transfer.label_files import check_same_classes, open_labelled, read_lines

    run = config.load(config.model)
    run.model.branch_named(config.branch)  # KeyError with those there are
    names = read_lines(config.names) if config.names else []
    train, test = (
        open_labelled(data, config.label, cache=embeddings_folder(run), names=names)
        for data in (config.train, config.test)
    )
    check_same_classes(train, test)
    truth = train.single()
    chosen = balanced_subset(truth, fraction=config.fraction, seed=config.seed)
    classes = max(len(train.names), 1 + max(int(truth.max()), int(test.single().max())))
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, purpose="fine-tuning"):
        scores = _train(config, run, train, chosen, test, classes)
        # Of what was trained: a refusal leaves the old one.
        _write_subset(folder / "subset.txt", train, chosen, truth)
    labelled = int((truth >= 0).sum())
    line = (
        f"fine-tuned on {len(chosen):,} of {labelled:,} labels: top-1 {scores.top1:.2%}, top-5 {scores.top5:.2%} "
        f"on {scores.rows:,} items (chance {1 / classes:.2%})"
    )
    found = scores.to_json() | {"training_samples": len(chosen), "labelled_samples": labelled}
    settings = {"fraction": config.fraction, **asdict(_protocol(config))}
    summary = Summary("finetune", run.folder.name, run.step, flatten({"test": found}), settings=settings)
    path = summary.write(folder / "summary.json")
    _draw(scores, train.names or test.names, folder / "confusion.png")
    return Output(asdict(summary), (line, f"written: {path}"))


def _train(
    config: FinetuneConfig, run: Run, train: Labelled, chosen: np.ndarray, test: Labelled, classes: int
) -> Classified:
    import torch

    from mmvicreg.evaluation.transfer import finetuning
    from mmvicreg.shards.subset import only

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    plain, augmented = _readers(run.modalities[config.branch], config)
    encoder = run.model.branch_named(config.branch).encoder
    model = finetuning.make_classifier(encoder, plain, classes=classes, seed=config.seed, device=device)
    finetuning.fine_tune(
        model,
        only(train.index, chosen.tolist()),
        {"x": augmented, "label": train.reader},
        how=_protocol(config),
        folder=Path(config.out) / "checkpoints",
        device=device,
        threads=config.threads,
    )
    return finetuning.score_classifier(model, test.index, plain, test.reader, device=device)


def _protocol(config: FinetuneConfig) -> FineTuning:
    from mmvicreg.evaluation.transfer.finetuning import FineTuning

    encoder_rate, head_rate = (0.03, 0.08) if config.fraction < SMALL else (0.01, 0.1)
    return FineTuning(
        encoder_rate=encoder_rate if config.encoder_rate is None else config.encoder_rate,
        head_rate=head_rate if config.head_rate is None else config.head_rate,
        epochs=config.epochs,
        batch_size=config.batch_size,
        schedule=config.schedule,
        weight_decay=config.weight_decay,
        seed=config.seed,
    )


def _readers(modality: Any, config: FinetuneConfig) -> tuple[Reader, Reader]:
    """The branch's reader, and one with the papers' augmentation where it reads images."""
    from dataclasses import replace

    from mmvicreg.modalities.image import ImageModality

    if not isinstance(modality, ImageModality):
        return modality.reader(), modality.reader()
    crops = replace(
        modality, crop_scale=config.crop_scale, flip=config.flip, jitter=(0.0, 0.0, 0.0, 0.0), grayscale=0.0
    )
    return modality.reader(), crops.reader()


def _write_subset(path: Path, data: Labelled, chosen: np.ndarray, truth: np.ndarray) -> None:
    """Key and class of every sample that is trained on."""
    from mmvicreg.stream.fetcher import Fetcher

    fetch = Fetcher(data.index)
    keys = [fetch(*data.index.place(int(number)), ()).key for number in chosen]
    lines = [f"{key}\t{truth[number]}\n" for key, number in zip(keys, chosen, strict=True)]
    write_text(path, "".join(lines))


def _draw(scores: Any, names: list[str], path: Path) -> None:
    from mmvicreg.evaluation.report import figures as pictures

    named = names or [str(number) for number in range(scores.classes)]
    pictures.save(pictures.confusion_figure(scores.confusion, named), path)
