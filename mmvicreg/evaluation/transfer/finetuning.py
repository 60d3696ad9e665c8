"""Fine-tuning an encoder and a linear classifier on a small fraction of the labels: the semi-supervised protocol.

VICReg (arXiv 2105.04906, appendix; the authors' evaluate.py): 20 epochs of SGD, momentum 0.9, batch 256, no weight
decay, learning rates to 0 by a cosine of the epoch; encoder and classifier begin at 0.03 and 0.08 with 1% of the
labels, 0.01 and 0.1 with 10%. SwAV (arXiv 2006.09882): 0.02 and 5, or 0.01 and 0.2, multiplied by 0.2 after 60% and 80%
of the epochs. Scores are those of the last epoch; the code of both papers reports the best epoch on the test set, which
is a little higher.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.transfer.classification import Classified, score_classes
from mmvicreg.evaluation.transfer.labels import LabelReader
from mmvicreg.plan.plan import Plan
from mmvicreg.progress import bar
from mmvicreg.randomness import generator, seed_random_state
from mmvicreg.runs import checkpoint, tensors
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.evaluation_items import EvaluationItem, evaluation_items
from mmvicreg.stream.reader import Reader
from mmvicreg.stream.stream import Batch, Stream


@dataclass(frozen=True)
class FineTuning:
    """The protocol; the defaults are VICReg's for 1% of the labels."""

    encoder_rate: float = 0.03
    head_rate: float = 0.08
    epochs: int = 20
    batch_size: int = 256
    schedule: Literal["cosine", "step"] = "cosine"
    weight_decay: float = 0.0
    seed: int = 0

    def factor(self, epoch: int) -> float:
        """The factor of both learning rates in an epoch."""
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return 0.2 ** sum(epoch >= part * self.epochs for part in (0.6, 0.8))


def balanced_subset(labels_N: np.ndarray, *, fraction: float, seed: int = 0) -> np.ndarray:
    """Sample numbers of ``fraction`` of every class, at least one of each, ascending.

    ``labels_N``: class numbers, below 0 for none. A smaller fraction with the same seed is part of a larger one. Raises
    ValueError for a fraction outside 0 to 1, or no labels.
    """
    if not 0 < fraction <= 1:
        raise InvalidValueError(
            f"fraction is {fraction}; expected more than 0 and at most 1 (0.01 for 1% of the labels)"
        )
    chosen = []
    for label in np.unique(labels_N[labels_N >= 0]).tolist():
        numbers = np.flatnonzero(labels_N == label)
        order = generator(seed, "subset", label).permutation(len(numbers))
        chosen.append(numbers[order[: max(1, round(fraction * len(numbers)))]])
    if not chosen:
        raise InvalidValueError("no sample has a label; nothing to choose from")
    return np.sort(np.concatenate(chosen))


class Classifier(nn.Module):
    """An encoder and a linear layer on its representations."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).float())


def make_classifier(
    encoder: nn.Module, reader: Reader, *, classes: int, seed: int, device: str
) -> Classifier:
    """The encoder, all of it trained, with a fresh linear layer; inputs are those of ``reader``."""
    encoder = encoder.requires_grad_(True).eval().to(device)
    with torch.no_grad():
        width = encoder(torch.zeros((1, *reader.shape), dtype=reader.dtype, device=device)).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(encoder, width, classes).to(device)


def fine_tune(
    model: Classifier,
    index: ShardIndex,
    readers: dict[str, Reader],
    *,
    how: FineTuning,
    folder: Path,
    device: str = "cpu",
    threads: int | None = None,
) -> Classifier:
    """Train on every sample of ``index``, in place. ``readers``: "x" the inputs, "label" a LabelReader.

    A checkpoint after every epoch under ``folder``: called again, it continues, and gives the same weights. Raises
    ValueError where the folder holds another fine-tuning or the loss is not finite.
    """
    how = replace(how, batch_size=min(how.batch_size, len(index)))
    plan = Plan(index.counts, seed=how.seed, global_batch=how.batch_size, order="global")
    optimizer = _optimizer(model, how)
    name = _name(model, index, readers, how)
    first, last = _restore(model, optimizer, folder, name), how.epochs * plan.steps
    batches = Stream(index, plan, readers=readers, start=first, stop=last, threads=threads)
    with bar("fine-tune", last - first, unit="steps") as advance:
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * how.factor(batch.step // plan.steps)
            seed_random_state(how.seed, batch.step, rank=0, part="fine-tune")
            loss = _step(model, optimizer, batch, device)
            advance(1, "")
            if (batch.step + 1) % plan.steps == 0:
                if not math.isfinite(loss.item()):
                    raise InvalidValueError(
                        f"the loss is {loss.item()} at step {batch.step}; lower the learning rates"
                    )
                _save(model, optimizer, folder, batch.step + 1, name)
    return model.eval()


def _optimizer(model: Classifier, how: FineTuning) -> torch.optim.SGD:
    groups = [
        {
            "params": [parameter for _, parameter in part.named_parameters(prefix=prefix)],
            "names": [name for name, _ in part.named_parameters(prefix=prefix)],
            "peak": rate,
        }
        for prefix, part, rate in (
            ("encoder", model.encoder, how.encoder_rate),
            ("head", model.head, how.head_rate),
        )
    ]
    return torch.optim.SGD(groups, lr=how.head_rate, momentum=0.9, weight_decay=how.weight_decay)


def _step(model: Classifier, optimizer: torch.optim.SGD, batch: Batch, device: str) -> Tensor:
    both = batch.present["x"] & batch.present["label"]  # damaged samples are left out
    x, y = batch.inputs["x"][both].to(device), batch.inputs["label"][both].to(device)
    model.train()
    optimizer.zero_grad()
    with torch.enable_grad():
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
    optimizer.step()
    return loss.detach()


def _name(model: Classifier, index: ShardIndex, readers: dict[str, Reader], how: FineTuning) -> str:
    """A digest of the data, the protocol and the initial weights."""
    digest = hashlib.sha256(f"{index.cache_key} {how} {readers}".encode())
    for name, value in tensors.tensors_of(model).items():
        digest.update(name.encode() + value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _save(model: Classifier, optimizer: torch.optim.SGD, folder: Path, step: int, name: str) -> None:
    position = checkpoint.Position(step=step, consumed=0, processes=1, plan=name)
    files = {
        checkpoint.WEIGHTS: tensors.tensors_of(model),
        checkpoint.OPTIMIZER: tensors.optimizer_tensors(optimizer),
    }
    checkpoint.write(folder, checkpoint.Snapshot(position, files))
    checkpoint.remove_old(folder, keep=1)


def _restore(model: Classifier, optimizer: torch.optim.SGD, folder: Path, name: str) -> int:
    """Load the newest checkpoint and give its step, 0 where there is none."""
    path, _ = checkpoint.newest_whole(folder) if folder.is_dir() else (None, [])
    checkpoint.set_aside(folder, path)
    if path is None:
        return 0
    position = checkpoint.read_position(path)
    if position.plan != name:
        raise InvalidValueError(
            f"{folder} holds another fine-tuning (other data, weights, learning rates, ...); choose another folder"
        )
    source = path / checkpoint.WEIGHTS
    tensors.fill(model, checkpoint.read_tensors(path, checkpoint.WEIGHTS), source=source)
    tensors.fill_optimizer(optimizer, checkpoint.read_tensors(path, checkpoint.OPTIMIZER))
    return position.step


@torch.inference_mode()
def score_classifier(
    model: Classifier,
    index: ShardIndex,
    reader: Reader,
    label: LabelReader,
    *,
    device: str = "cpu",
    batch_size: int = 64,
) -> Classified:
    """Accuracy on every labelled item of ``index``. Raises ValueError where no item has a label."""
    model.eval()
    values: list[Tensor] = []
    scores: list[Tensor] = []
    truth: dict[int, int] = {}
    numbers: list[int] = []

    def flush() -> None:
        if values:
            scores.append(model(torch.stack(values).to(device)).cpu())
            values.clear()

    with bar("score", len(index)) as advance:
        done = -1
        for item in evaluation_items(index, {"x": reader, "label": label}):
            if item.number > done:
                advance(item.number - done, "")
                done = item.number
            if not isinstance(item, EvaluationItem):
                continue
            if item.view == "label":
                truth[item.number] = int(item.value)
                continue
            values.append(item.value)
            numbers.append(item.number)
            if len(values) == batch_size:
                flush()
        flush()
    kept = [row for row, number in enumerate(numbers) if number in truth]
    if not kept:
        raise InvalidValueError("no item of the test data has both an input and a label")
    return score_classes(torch.cat(scores)[kept], np.array([truth[numbers[row]] for row in kept]))
