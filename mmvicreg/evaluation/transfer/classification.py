"""Classification from fixed features: nearest neighbours, linear probe, class prompts, several labels.

Functions of matrices only; the features come from a store. Shapes: N training rows, M test rows, D
dimensions, C classes. Labels are int64 class numbers, or for several labels a bool matrix (rows, C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.unit_rows import require_finite

BATCH = 1024
"""Test rows compared with all training rows at once."""


@dataclass(frozen=True)
class Classified:
    """Accuracy of one classifier, as fractions.

    ``per_class``: recall of each class (nan where it has no test row); ``confusion[t, p]``: test rows of
    class t called p, int64 (C, C). ``top5`` counts the five best classes (all of them where C < 5).
    """

    top1: float
    top5: float
    mean_per_class: float
    per_class: np.ndarray
    confusion: np.ndarray
    classes: int
    rows: int

    def to_json(self) -> dict[str, float | int]:
        """The scalars, and chance."""
        names = ("top1", "top5", "mean_per_class", "classes", "rows")
        return {name: vars(self)[name] for name in names} | {"chance": 1 / self.classes}


def score_classes(scores_MC: Tensor | np.ndarray, labels_M: np.ndarray) -> Classified:
    """Accuracy of scores. Equal scores share their place, so constant scores give chance.

    Raises ValueError where a label is no class or the rows differ in number.
    """
    require_finite(scores_MC, "scores")
    scores = torch.as_tensor(scores_MC).double()
    labels_M = np.asarray(labels_M, dtype=np.int64)
    rows, classes = scores.shape
    if len(labels_M) != rows or not rows:
        raise InvalidValueError(f"{rows} rows of scores and {len(labels_M)} labels")
    if labels_M.min() < 0 or labels_M.max() >= classes:
        raise InvalidValueError(f"labels are {labels_M.min()}..{labels_M.max()}, there are {classes} classes")
    labels = torch.from_numpy(labels_M)
    own_M1 = scores.gather(1, labels[:, None])
    above = (scores > own_M1).sum(1)
    tied = (scores == own_M1).sum(1)
    top = {k: ((k - above).clamp(0).double() / tied).clamp(max=1.0) for k in (1, min(5, classes))}
    size = torch.bincount(labels, minlength=classes)
    right = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, top[1])
    per_class = (right / size).numpy()
    called = labels * classes + scores.argmax(1)
    confusion = torch.bincount(called, minlength=classes**2).reshape(classes, classes).numpy()
    return Classified(
        top1=float(top[1].mean()),
        top5=float(top[min(5, classes)].mean()),
        mean_per_class=float(np.nanmean(per_class)),
        per_class=per_class,
        confusion=confusion,
        classes=classes,
        rows=rows,
    )


def knn_scores(
    train_ND: Tensor | np.ndarray,
    targets_N: np.ndarray,
    test_MD: Tensor | np.ndarray,
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    leave_one_out: bool = False,
) -> Tensor:
    """Votes (M, C) of the k nearest training rows by cosine, each exp(cosine / temperature).

    The weighted protocol of Wu et al. 2018 (arXiv 1805.01978), as DINO and VICReg report it (k 20, 0.07);
    ``temperature`` inf counts every neighbour once. ``targets_N``: class numbers, or bool (N, C) for several
    labels. ``leave_one_out``: the test rows are the training rows, and none is its own neighbour. Memory is bounded by
    the batch of test rows. Raises ValueError for rows that are not finite, and for a ``k`` that is not between 1 and
    the number of neighbours there are.
    """
    require_finite(train_ND, "training features")
    require_finite(test_MD, "test features")
    train = _unit(train_ND)
    if not 1 <= k <= len(train) - leave_one_out:
        raise InvalidValueError(f"k is {k}; there are {len(train) - leave_one_out} training rows")
    targets = torch.as_tensor(np.asarray(targets_N))
    votes = []
    for start in range(0, len(test_MD), BATCH):
        cosine = _unit(test_MD[start : start + BATCH]) @ train.T
        if leave_one_out:
            cosine.diagonal(start).fill_(-torch.inf)
        cosine, nearest = cosine.topk(k, dim=1)
        weight = torch.exp((cosine - 1.0) / temperature)
        if targets.ndim == 2:
            votes.append(torch.einsum("mk,mkc->mc", weight, targets[nearest].float()))
        else:
            empty = torch.zeros(len(cosine), classes)
            votes.append(empty.scatter_add_(1, targets[nearest].long(), weight))
    return torch.cat(votes)


def _unit(rows: Tensor | np.ndarray) -> Tensor:
    tensor = rows if isinstance(rows, Tensor) else torch.tensor(np.asarray(rows))
    return torch.nn.functional.normalize(tensor.float(), dim=1)


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier on standardized features: scores = ((x - mean) / std) weight' + bias."""

    mean_D: Tensor
    std_D: Tensor
    weight_CD: Tensor
    bias_C: Tensor
    learning_rate: float
    penalty: float

    def __call__(self, rows_MD: Tensor | np.ndarray) -> Tensor:
        """Scores (M, C). Raises ValueError for rows that are not finite."""
        require_finite(rows_MD, "test features")
        rows = torch.as_tensor(np.asarray(rows_MD), dtype=torch.float32)
        return (rows - self.mean_D) / self.std_D @ self.weight_CD.T + self.bias_C


def linear_probe(
    train_ND: Tensor | np.ndarray,
    targets_N: np.ndarray,
    *,
    penalty: float = 1e-4,
    multi_label: bool = False,
    classes: int | None = None,
    iterations: int = 300,
) -> LinearProbe:
    """Multinomial logistic regression (or one binary one per class) by L-BFGS, to convergence.

    Minimizes mean cross-entropy + penalty / 2 ||weight||^2 on standardized features, the bias free: the
    same problem as scikit-learn's LogisticRegression(C=1 / (N penalty)). ``targets_N``: class numbers, or
    bool (N, C) for ``multi_label``. Raises ValueError for features that are not finite.
    """
    require_finite(train_ND, "training features")
    x = torch.as_tensor(np.asarray(train_ND), dtype=torch.float32)
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    x = (x - mean) / std
    targets = torch.as_tensor(np.asarray(targets_N))
    count = targets.shape[1] if multi_label else classes or int(targets.max()) + 1
    weight = torch.zeros(count, x.shape[1], requires_grad=True)
    bias = torch.zeros(count, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-6,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(x @ weight.T + bias, targets, multi_label) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return LinearProbe(mean, std, weight.detach(), bias.detach(), float("nan"), penalty)


def _loss(scores: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
    if multi_label:
        found = torch.nn.functional.binary_cross_entropy_with_logits(
            scores, targets.float(), reduction="none"
        )
        return found.sum(1).mean()
    return torch.nn.functional.cross_entropy(scores, targets.long())


def sgd_probe(
    train_ND: Tensor | np.ndarray,
    labels_N: np.ndarray,
    *,
    classes: int,
    learning_rate: float = 0.02,
    weight_decay: float = 1e-6,
    batch_size: int = 256,
    epochs: int = 100,
    seed: int = 0,
) -> LinearProbe:
    """The VICReg paper's linear protocol on fixed features: SGD with momentum .9, cosine to 0.

    Defaults are the paper's (section 4.1 of its appendix): lr .02, weight decay 1e-6, batch 256, 100 epochs. Raises
    ValueError for features that are not finite.
    """
    require_finite(train_ND, "training features")
    x = torch.as_tensor(np.asarray(train_ND), dtype=torch.float32)
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    x = (x - mean) / std
    labels = torch.as_tensor(np.asarray(labels_N, dtype=np.int64))
    layer = torch.nn.Linear(x.shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.randperm(len(x), generator=generator).split(batch_size):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(layer(x[rows]), labels[rows]).backward()
                optimizer.step()
                schedule.step()
    return LinearProbe(mean, std, layer.weight.detach(), layer.bias.detach(), learning_rate, weight_decay)


def sweep(
    make: Callable[[float], LinearProbe],
    settings: Sequence[float],
    validation_MD: Tensor | np.ndarray,
    labels_M: np.ndarray,
    *,
    score: Callable[[Tensor, np.ndarray], float] | None = None,
) -> tuple[LinearProbe, dict[float, float]]:
    """The probe with the best validation score, and every setting's. ``make`` takes one setting.

    ``score`` of (scores, labels) is top-1 unless given. Choose on validation rows, then score the test rows
    once.
    """
    if not settings:
        raise InvalidValueError("no settings to sweep")
    rate = score or (lambda scores, labels: score_classes(scores, labels).top1)
    probes = {setting: make(setting) for setting in settings}
    found = {setting: rate(probe(validation_MD), labels_M) for setting, probe in probes.items()}
    return probes[max(found, key=lambda setting: found[setting])], found


def class_weights(prompts: Sequence[Tensor | np.ndarray]) -> Tensor:
    """One unit row per class (C, D) from the embeddings of its prompts: CLIP's ensemble.

    Each prompt is normalized, averaged, and normalized again (Radford et al. 2021, section 3.1.4). Raises ValueError
    for prompts that are not finite.
    """
    for rows in prompts:
        require_finite(rows, "embedded class prompts")
    return torch.nn.functional.normalize(torch.stack([_unit(rows).mean(0) for rows in prompts]), dim=1)
