"""One protocol for every image-only objective: train on pictures without labels, then a linear probe of the encoder.

A ``Method`` says what is trained: encoder, projector, objective, views. ``train`` trains it (AdamW, cosine schedule),
``probe`` fits multinomial logistic regression on the frozen representations with all, 10% and 1% of the labels; its
penalty is chosen on validation pictures, and the test pictures are scored once. ``Runs`` keeps each run's result in a
file as soon as it ends, so an interrupted study continues.

B pictures of a batch, E width of a representation, D width of an embedding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from image_data import CLASSES, STANDARD, TRAIN, Augmentation, Pictures, divide
from torch import Tensor, nn

import mmvicreg as mm
from mmvicreg.branches.moving_average import MovingAverage
from mmvicreg.evaluation.transfer.classification import linear_probe, score_classes, sweep
from mmvicreg.progress import bar

WIDTHS = (16, 32, 64)
REPRESENTATION, EMBEDDING = WIDTHS[-1], 256
PENALTIES = (1e-3, 1e-2, 1e-1)
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

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    pictures: int = 1000
    """training pictures"""

    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * (self.pictures // min(self.batch_size, self.pictures))


TINY = Schedule(epochs=2, batch_size=32, pictures=64)
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
    """An untrained model whose batch normalisation has the statistics of the training pictures."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    represent_pictures(model.train(), divide().train.pixels)
    return model


@torch.no_grad()
def probe(model: mm.Model, represent: Represent, *, test: bool) -> dict[str, float]:
    """Accuracies of the linear probe, as fractions, with all, 10% and 1% of the training labels.

    "validation" and, with ``test``, "all", "tenth" and "hundredth" (10 and 1 pictures of each class).
    """
    division = divide()
    model.eval()
    h = {part: represent(model, pictures.pixels) for part, pictures in vars(division).items()}
    found: dict[str, float] = {}
    for name, count in (("all", TRAIN), ("tenth", 10), ("hundredth", 1)):
        rows = division.train.rows_of_each_class(count)
        made, scores = sweep(
            lambda penalty, rows=rows: linear_probe(
                h["train"][rows], division.train.labels[rows], penalty=penalty, classes=CLASSES, iterations=100
            ),
            PENALTIES,
            h["validation"],
            division.validation.labels,
        )
        if name == "all":
            found["validation"] = max(scores.values())
        if not test:
            break
        found[name] = score_classes(made(h["test"]), division.test.labels).top1
    return found


@torch.no_grad()
def geometry(model: mm.Model) -> dict[str, float]:
    """"std": mean standard deviation of the dimensions of l2-normalised embeddings, times sqrt(D): 1 is healthy, 0 a
    constant. "rank": participation ratio of the covariance's eigenvalues, 1 to D. Of 512 training pictures.
    """
    z = model.eval().branch(next(iter(model.views)))(divide().train.first(512).pixels).z.double()
    if not bool(torch.isfinite(z).all()):
        return {"std": 0.0, "rank": 0.0}
    std = F.normalize(z, dim=1).std(0).mean() * z.shape[1] ** 0.5
    values = torch.linalg.svdvals(z - z.mean(0)).square()
    return {"std": float(std), "rank": float(values.sum() ** 2 / values.square().sum().clamp_min(1e-300))}


def run_method(method: Method, schedule: Schedule, seed: int, *, test: bool = True) -> dict[str, float]:
    """Train, then probe. "seconds" are those of one core, training alone."""
    start = time.process_time()
    model = train(method, schedule, seed)
    seconds = time.process_time() - start
    sizes = geometry(model) if method.embed is embed_views and method.represent is represent_pictures else {}
    return {**probe(model, method.represent, test=test), **sizes, "seconds": seconds}


class Runs:
    """Results by name and seed in a file of JSON lines; a run that the file holds is not repeated."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file.is_file() else []
        self.found = {(line["name"], line["seed"]): line for line in map(json.loads, lines)}

    def run(self, jobs: Mapping[tuple[str, int], Callable[[], dict[str, float]]]) -> None:
        """Do the jobs, by (name, seed), that are not done."""
        left = {key: job for key, job in jobs.items() if key not in self.found}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with bar(self.file.stem, len(left)) as advance:
            for (name, seed), job in left.items():
                line = {"name": name, "seed": seed, **{key: round(value, 4) for key, value in job().items()}}
                with self.file.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                self.found[name, seed] = line
                advance(1, f"{name} {line.get('all', line['validation']):.3f}")

    def values(self, name: str, key: str = "all") -> list[float]:
        """One value of every run of that name."""
        return [line[key] for (known, _), line in self.found.items() if known == name]

    def mean(self, name: str, key: str = "all") -> float:
        """The mean over seeds."""
        return fmean(self.values(name, key))


