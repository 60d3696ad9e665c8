"""`mmvicreg classify`: zero-shot, nearest neighbours and a linear probe on labelled data, one label or several.

Heavy imports come after the options.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmvicreg.cli.model_options import Model, ModelOptions
from mmvicreg.cli.output import Output
from mmvicreg.errors import InvalidValueError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mmvicreg.evaluation.transfer.classification import LinearProbe
    from mmvicreg.evaluation.transfer.labels import Labelled
    from mmvicreg.runs.run import Run


@dataclass(frozen=True)
class ClassifyConfig(ModelOptions):
    """Zero-shot, nearest-neighbour and linear classification of labelled shards or an image folder.

    Samples with several labels (a JSON list) are scored by mean average precision.
    """

    model: Model
    """run directory, exported folder, hf/OWNER/NAME, open_clip/NAME:WEIGHTS, transformers/NAME"""
    test: str = field(kw_only=True)
    """shards with labels, or an image folder CLASS/PICTURE"""
    train: str = ""
    """the same, for nearest neighbours and the linear probe; empty for zero-shot only"""
    label: str = "cls"
    """where class numbers (or names, with --names) are: a member suffix, or json:FIELD"""
    branch: str = "image"
    """branch whose features are classified"""
    names: str = ""
    """file of class names, one a line or JSON; a folder's own names if empty. Needed for zero-shot"""
    templates: str = ""
    """file of prompt templates with {} for the name; empty for "a photo of a {}." """
    k: int = 20
    """neighbours"""
    solver: Literal["lbfgs", "sgd"] = "lbfgs"
    """linear probe: to convergence, or the VICReg paper's 100 epochs of SGD; what follows is chosen on a fifth of
    the training rows"""
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    """lbfgs: weights of the squared norm to try"""
    learning_rates: tuple[float, ...] = (0.02, 0.1, 0.3, 1.0)
    """sgd: learning rates to try (the paper's is 0.02, on features that are not standardized)"""
    out: str = ""
    """JSON file to write; a confusion picture goes beside it"""


def classify(config: ClassifyConfig) -> Output:
    """Print a line for every classifier there is data for, and write JSON and a confusion picture."""
    from mmvicreg.evaluation.embed import embeddings_folder
    from mmvicreg.evaluation.summary import Summary, flatten, shown
    from mmvicreg.evaluation.transfer.label_files import check_same_classes, open_labelled, read_lines

    run = config.load(config.model)
    cache = embeddings_folder(run)
    names = read_lines(config.names) if config.names else []
    test = open_labelled(config.test, config.label, cache=cache, names=names)
    train = open_labelled(config.train, config.label, cache=cache, names=names) if config.train else None
    if train is not None:
        check_same_classes(train, test)
    task = _Task(config, run, test, train, names or test.names)
    found = task.classifiers()
    summary = Summary("classify", run.folder.name, run.step, flatten({"test": _content(found, task.named())}))
    lines = [
        f"{name}: {', '.join(f'{key} {shown(key, value)}' for key, value in (scores.to_json() | extra).items())}"
        for name, (scores, extra) in found.items()
    ]
    if config.out:
        path = summary.write(config.out)
        _draw(list(found.values())[-1][0], path.with_suffix(".png"), task.named())
        lines.append(f"written: {path}")
    return Output(asdict(summary), tuple(lines))


def _content(found: dict[str, tuple[Any, dict[str, float]]], names: list[str]) -> dict[str, Any]:
    """Every classifier's scores, those of each class included."""
    from mmvicreg.evaluation.transfer.classification import Classified

    content = {}
    for classifier, (scores, extra) in found.items():
        by_class = scores.per_class if isinstance(scores, Classified) else scores.average_precision
        known = dict(zip(names, by_class.tolist(), strict=True))
        content[classifier] = scores.to_json() | extra | {"per_class": known}
    return content


def _draw(last: Any, path: Path, names: list[str]) -> None:
    from mmvicreg.evaluation.report import figures
    from mmvicreg.evaluation.transfer.classification import Classified

    if isinstance(last, Classified):
        figures.save(figures.confusion_figure(last.confusion, names), path)


@dataclass
class _Task:
    """One call of the tool: what is classified, and by which features."""

    config: ClassifyConfig
    run: Run
    test: Labelled
    train: Labelled | None
    names: list[str]

    def __post_init__(self) -> None:
        known = [each for data in (self.test, self.train) if data is not None for each in data.labels]
        self.several = any(len(each) > 1 for each in known)
        self.classes = max(len(self.names), 1 + max(max(each) for each in known if each))
        if self.names and self.classes > len(self.names):
            raise InvalidValueError(
                f"a label is {self.classes - 1}, and there are {len(self.names)} class names"
            )
        if self.several and self.config.solver == "sgd":
            raise InvalidValueError(
                "samples have several labels, which --solver sgd does not take; use lbfgs"
            )

    def named(self) -> list[str]:
        return self.names or [str(number) for number in range(self.classes)]

    def features(self, data: Labelled, output: str = "h") -> tuple[np.ndarray, np.ndarray]:
        """Features of the labelled rows, and their class numbers, or bool (M, C) where there are several."""
        import numpy as np

        from mmvicreg.evaluation.embed import embed_split
        from mmvicreg.evaluation.transfer.labels import features_with_labels, label_matrix

        store = embed_split(self.run, data.index, self.config.branch, device=self.config.device)
        rows, labels = features_with_labels(store.items(self.config.branch), data.labels, output=output)
        if self.several:
            return rows, label_matrix(labels, self.classes)
        return rows, np.array([each[0] for each in labels], dtype=np.int64)

    def score(self, scores_MC: Tensor, truth: np.ndarray) -> Any:
        """Classified, or MultiLabelled."""
        from mmvicreg.evaluation.transfer.classification import score_classes
        from mmvicreg.evaluation.transfer.multi_label import score_labels

        return (score_labels if self.several else score_classes)(scores_MC, truth)

    def classifiers(self) -> dict[str, tuple[Any, dict[str, float]]]:
        """Scores of each classifier there is data for, and what was chosen for it."""
        from mmvicreg.evaluation.transfer.classification import knn_scores
        from mmvicreg.evaluation.transfer.prompts import text_branches

        found: dict[str, tuple[Any, dict[str, float]]] = {}
        texts = text_branches(self.run) if self.names else []
        for text in texts:
            name = "zero_shot" if len(texts) == 1 else f"zero_shot_{text}"
            scores = self.zero_shot(text)
            if scores is not None:
                found[name] = (scores, {})
            if (self.config.branch, text) in self.run.predictors:
                found[f"{name}_by_predictor"] = (self.zero_shot(text, predicted=True), {})
        if self.train is not None:
            rows, truth = self.features(self.test)
            fit, targets = self.features(self.train)
            k = min(self.config.k, len(fit))
            votes = knn_scores(fit, targets, rows, classes=self.classes, k=k)
            found[f"knn_{k}"] = (self.score(votes, truth), {})
            probe = self.probe(fit, targets)
            chosen = "penalty" if self.config.solver == "lbfgs" else "learning_rate"
            found["linear"] = (self.score(probe(rows), truth), {chosen: float(vars(probe)[chosen])})
        if not found:
            raise InvalidValueError(
                "nothing to do: give --train for kNN and a linear probe, or --names for zero-shot"
            )
        return found

    def zero_shot(self, text: str, *, predicted: bool = False) -> Any:
        """By the cosine with the classes' prompts, embedded by the branch ``text``, of z or of what it predicts of that
        branch. None where the widths of the two branches differ."""
        import torch

        from mmvicreg.evaluation.transfer.label_files import read_lines
        from mmvicreg.evaluation.transfer.prompts import TEMPLATES, zero_shot_weights
        from mmvicreg.objectives.predictors import predict

        templates = read_lines(self.config.templates) if self.config.templates else list(TEMPLATES)
        rows, truth = self.features(self.test, output="z")
        if predicted:
            rows = predict(self.run.predictors[self.config.branch, text], rows)
        branch = self.run.model.branch_named(text)
        device = next((value.device for value in branch.state_dict().values()), torch.device("cpu"))
        reader = self.run.modalities[text].reader()
        weights_CD = zero_shot_weights(branch, reader, self.names, templates=templates, device=device)
        if weights_CD.shape[1] != rows.shape[1]:
            return None
        return self.score(torch.nn.functional.normalize(torch.tensor(rows), dim=1) @ weights_CD.T, truth)

    def probe(self, rows: np.ndarray, targets: np.ndarray) -> LinearProbe:
        """The best of the sweep on a fifth of the rows, fitted again on all of them."""
        import numpy as np

        from mmvicreg.evaluation.transfer.classification import linear_probe, sgd_probe, sweep

        def make(number: float, part: np.ndarray) -> LinearProbe:
            x, y = rows[part], targets[part]
            if self.config.solver == "sgd":
                return sgd_probe(x, y, classes=self.classes, learning_rate=number)
            return linear_probe(x, y, penalty=number, classes=self.classes, multi_label=self.several)

        settings = self.config.penalties if self.config.solver == "lbfgs" else self.config.learning_rates
        order = np.random.default_rng(0).permutation(len(rows))
        fit, held = order[len(order) // 5 :], order[: len(order) // 5]
        if len(settings) == 1 or not len(held):
            return make(settings[0], order)
        _, found = sweep(
            lambda number: make(number, fit), settings, rows[held], targets[held], score=self.headline
        )
        return make(max(found, key=lambda number: found[number]), order)

    def headline(self, scores_MC: Tensor, truth: np.ndarray) -> float:
        """The number a sweep chooses by."""
        found = self.score(scores_MC, truth)
        return float(found.mean_average_precision if self.several else found.top1)
