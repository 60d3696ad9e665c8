"""One protocol for every image-only objective: train on pictures without labels, then a linear probe of the encoder.

A ``Method`` says what is trained: encoder, projector, objective, views. ``train`` trains it (AdamW, cosine schedule),
``probe`` fits multinomial logistic regression on the frozen representations with all, 10% and 1% of the labels; its
penalty is chosen on validation pictures, and the test pictures are scored once.

B pictures of a batch, E width of a representation, D width of an embedding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from image_data import CLASSES, STANDARD, TRAIN, Augmentation, Pictures, divide
from torch import Tensor, nn

import mmvicreg as mm
from mmvicreg.branches.moving_average import MovingAverage
from mmvicreg.evaluation.geometry import describe
from mmvicreg.evaluation.transfer.classification import LinearProbe, linear_probe, score_classes, sweep

WIDTHS = (12, 24, 48)
REPRESENTATION, EMBEDDING = WIDTHS[-1], 128
PENALTIES = (1e-3, 3e-2)
SETTING = (
    "1,000 coloured digits of 8x8 pixels, three convolutions, 12 epochs of AdamW; "
    "linear probe, % of 500 test pictures"
)
Embed = Callable[[mm.Model, Mapping[str, Tensor]], dict[str, Tensor]]
Represent = Callable[[mm.Model, Tensor], Tensor]


def encoder(channels: int = 3, widths: Sequence[int] = WIDTHS) -> nn.Sequential:
    """Pictures (B, channels, S, S) to representations (B, widths[-1]): 3x3 convolutions, then the mean over places."""
    layers: list[nn.Module] = []
    for number, width in enumerate(widths):
        stride = 1 if number == 1 else 2
        convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return made.to(memory_format=torch.channels_last)  # a third faster on a CPU


def branch(widths: Sequence[int] = (EMBEDDING, EMBEDDING)) -> mm.Branch:
    """The encoder and a projector with these widths."""
    return mm.Branch(encoder(), mm.projector(REPRESENTATION, widths))


def two_views(augmentation: Augmentation = STANDARD) -> Callable[[Tensor], dict[str, Tensor]]:
    """Two random views, "first" and "second", of each picture."""
    return lambda x: {"first": augmentation(x), "second": augmentation(x)}


def embed_views(model: mm.Model, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Embeddings (B, D) by view."""
    return {view: model.branch(view)(x).z for view, x in inputs.items()}


def represent_pictures(model: mm.Model, x: Tensor) -> Tensor:
    """Representations (B, E) of whole pictures by the branch of the first view."""
    found: Tensor = model.branch(next(iter(model.views))).encoder(x)
    return found


@dataclass(frozen=True)
class Method:
    """What is trained.

    ``branches`` and ``objective`` make new ones, after the seed was set. ``views``: the branch of each view.
    ``inputs``: pictures (B, 3, S, S) to the inputs of each view. ``embed``: the embeddings by view; all have the same
    number of rows. ``represent``: what the probe sees.
    """

    branches: Callable[[], dict[str, mm.Branch]]
    objective: Callable[[], mm.Objective]
    views: Mapping[str, str] = field(default_factory=lambda: {"first": "image", "second": "image"})
    inputs: Callable[[Tensor], dict[str, Tensor]] = two_views()
    embed: Embed = embed_views
    represent: Represent = represent_pictures


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. The learning rate rises over a tenth of the steps, then falls as a cosine to 0."""

    epochs: int = 12
    batch_size: int = 128
    learning_rate: float = 6e-3
    weight_decay: float = 1e-4
    pictures: int = 1000
    """training pictures"""
    probe_iterations: int = 50
    """most iterations of the linear probe"""

    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * (self.pictures // min(self.batch_size, self.pictures))


TINY = Schedule(epochs=2, batch_size=32, pictures=64, probe_iterations=3)
"""for a test of the code: its scores mean nothing"""


def train(method: Method, schedule: Schedule, seed: int) -> mm.Model:
    """The trained model. A loss that is not finite ends the training: the model keeps what it had by then."""
    torch.manual_seed(seed)
    model = mm.Model(method.branches(), dict(method.views))
    objective = method.objective()
    pixels = divide().train.first(schedule.pictures).pixels
    model.train()
    momenta = [m.momentum for m in objective.modules() if isinstance(m, mm.Alignment) and m.momentum]
    average = MovingAverage(model, momenta[0]) if momenta else None
    optimizer, turn = _optimizer([*model.parameters(), *objective.parameters()], schedule)
    for rows in _batches(schedule):
        inputs = method.inputs(pixels[rows])
        z = method.embed(model, inputs)
        targets = None
        if average is not None:
            with torch.no_grad():
                targets = method.embed(average.model, inputs)
        same = len(next(iter(z.values()))) == len(rows)
        identities = dict.fromkeys(z, rows) if same else None
        loss = objective(z, branches=dict(method.views), targets=targets, identities=identities).total
        if not bool(torch.isfinite(loss)):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        turn.step()
        if average is not None:
            average.update(model)
    return model


def _batches(schedule: Schedule) -> Iterator[Tensor]:
    """Numbers of the pictures of each step, in another order every epoch; what does not fill a batch is left out."""
    batch = min(schedule.batch_size, schedule.pictures)
    for _ in range(schedule.epochs):
        yield from torch.randperm(schedule.pictures).split(batch)[: schedule.pictures // batch]


def _optimizer(
    parameters: Sequence[nn.Parameter], schedule: Schedule
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    different = list({id(each): each for each in parameters if each.requires_grad}.values())
    rate = schedule.learning_rate
    made = torch.optim.AdamW(different, rate, weight_decay=schedule.weight_decay, fused=True)
    return made, torch.optim.lr_scheduler.OneCycleLR(made, rate, schedule.steps(), pct_start=0.1)


def train_supervised(pictures: Pictures, schedule: Schedule, seed: int) -> mm.Model:
    """The encoder and a linear classifier by cross-entropy on one random view of each picture, in as many steps."""
    torch.manual_seed(seed)
    model = mm.Model({"image": branch((CLASSES,))}, {"first": "image"})
    optimizer, turn = _optimizer(list(model.parameters()), schedule)
    labels = torch.from_numpy(pictures.labels)
    batch = min(schedule.batch_size, len(labels))
    for _ in range(schedule.steps()):
        rows = torch.randperm(len(labels))[:batch]
        z = model.branch("first")(STANDARD(pictures.pixels[rows])).z
        optimizer.zero_grad()
        F.cross_entropy(z, labels[rows]).backward()
        optimizer.step()
        turn.step()
    return model


@torch.no_grad()
def settle(model: mm.Model) -> mm.Model:
    """An untrained model whose batch normalization has the statistics of the training pictures."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    represent_pictures(model.train(), divide().train.pixels)
    return model


@torch.no_grad()
def probe(model: mm.Model, represent: Represent, *, iterations: int, test: bool = True) -> dict[str, float]:
    """Accuracies of the linear probe in percent: "validation" and, with ``test``, those of the test pictures with
    "all", a "tenth" and a "hundredth" of the training labels (10 and 1 pictures of each class).
    """
    division = divide()
    model.eval()
    h = {part: represent(model, pictures.pixels) for part, pictures in vars(division).items()}
    found: dict[str, float] = {}
    for name, count in (("all", TRAIN), ("tenth", 10), ("hundredth", 1)):
        rows = division.train.rows_of_each_class(count)
        fit = partial(_fit, h["train"][rows], division.train.labels[rows], iterations)
        made, scores = sweep(fit, PENALTIES, h["validation"], division.validation.labels)
        if name == "all":
            found["validation"] = 100 * max(scores.values())
        if not test:
            break
        found[name] = 100 * score_classes(made(h["test"]), division.test.labels).top1
    return found


def _fit(h_NE: Tensor, labels_N: np.ndarray, iterations: int, penalty: float) -> LinearProbe:
    return linear_probe(h_NE, labels_N, penalty=penalty, classes=CLASSES, iterations=iterations)


@torch.no_grad()
def geometry(model: mm.Model) -> dict[str, float]:
    """Of the embeddings of 512 training pictures: "spread", the mean standard deviation of their dimensions; "std",
    that of the l2-normalized ones times sqrt(D), 1 if healthy and 0 for a constant (SimSiam's measure); "rank", the
    participation ratio of the covariance's eigenvalues, 1 to D.
    """
    z = model.eval().branch(next(iter(model.views)))(divide().train.first(512).pixels).z
    if not bool(torch.isfinite(z).all()):
        return {"spread": 0.0, "std": 0.0, "rank": 0.0}
    found = describe(z)
    return {"spread": found.std_mean, "std": found.std_unit, "rank": found.participation_ratio}


def run_method(method: Method, schedule: Schedule, seed: int, *, test: bool = True) -> dict[str, float]:
    """Train, then probe. "seconds" are those of one core, training alone."""
    start = time.process_time()
    model = train(method, schedule, seed)
    seconds = time.process_time() - start
    sizes = geometry(model) if method.embed is embed_views and method.represent is represent_pictures else {}
    scores = probe(model, method.represent, iterations=schedule.probe_iterations, test=test)
    return {**scores, **sizes, "training seconds": seconds}


def run_untrained(
    branches: Callable[[], dict[str, mm.Branch]], schedule: Schedule, seed: int
) -> dict[str, float]:
    """The probe of a random encoder: the floor of every claim."""
    torch.manual_seed(seed)
    model = settle(mm.Model(branches(), {"first": "image"}))
    return {**probe(model, represent_pictures, iterations=schedule.probe_iterations), **geometry(model)}


def run_supervised(count: int, schedule: Schedule, seed: int) -> dict[str, float]:
    """The probe of an encoder trained with ``count`` labels of each class: the ceiling."""
    model = train_supervised(divide().train.of_each_class(count), schedule, seed)
    return probe(model, represent_pictures, iterations=schedule.probe_iterations)
