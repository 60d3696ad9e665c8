"""A run read back from its directory: its configuration, its log, and the model with the weights of a checkpoint.

config.json        the configuration with the class of every modality, the views, readers and objective
environment.json   versions, revision, command, machine
log.jsonl          one line of metrics every few steps
events.jsonl       in words: alarms, skipped steps, checkpoints that could not be written
heads.json         of a solved run, or one that started from it: which heads its projectors are
checkpoints/       see mmvicreg.runs.checkpoint
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmvicreg.branches import head as heads
from mmvicreg.branches.model import Model
from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.modalities.modality import Modality, check_names
from mmvicreg.objectives.predictors import Predictors
from mmvicreg.objectives.predictors import read as read_predictors
from mmvicreg.runs import checkpoint
from mmvicreg.runs.config import from_json, import_recipe

if TYPE_CHECKING:
    from torch import Tensor

    from mmvicreg.evaluation.evaluate import SplitScores
    from mmvicreg.interop.open_clip import ImageTransform, OpenClipAdapter, Tokenizer

CONFIG = "config.json"
LOG = "log.jsonl"
EVENTS = "events.jsonl"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Run:
    """A run read back: its model carries the weights of one checkpoint and is in evaluation mode."""

    folder: Path
    config: dict[str, Any]
    """the saved configuration, as JSON values"""
    modalities: dict[str, Modality]
    model: Model
    step: int
    """the step the weights are from"""
    predictors: Predictors = field(default_factory=dict)
    """the predictors that the objective trained, by (from branch, to branch)"""
    objective: dict[str, Any] = field(default_factory=dict)
    """description of the objective, as JSON values (see mmvicreg.objectives.description)"""

    def __repr__(self) -> str:
        """One line, for a notebook: where the run is, its step, and each branch with its encoder."""
        branches = ", ".join(
            f"{name}: {vars(each).get('encoder') or type(each).__name__}"
            for name, each in self.modalities.items()
        )
        return f"Run({str(self.folder)!r}, step {self.step:,}, {branches})"

    def encode(
        self, view: str, items: object, *, normalize: bool = True, batch_size: int = 64, device: str = ""
    ) -> Tensor:
        """Embeddings float32 (n, D) on the CPU of one item or a sequence of n.

        Of an image view, items are PIL images, uint8 arrays (H, W, 3), paths or bytes; of a text view, strings; of
        any view, paths and bytes of what its reader reads, or its own input as a tensor. Rows have unit length unless
        ``normalize`` is False. ``device`` empty takes a GPU where there is one; the branch stays there. Raises
        FileNotFoundError and ValueError for what cannot be read.
        """
        from mmvicreg.interop import encoding

        return encoding.encode(self, view, items, normalize=normalize, batch_size=batch_size, device=device)

    def encode_image(
        self, images: object, *, normalize: bool = True, batch_size: int = 64, device: str = ""
    ) -> Tensor:
        """:meth:`encode` with the run's one view of images."""
        from mmvicreg.interop.encoding import only_view
        from mmvicreg.modalities.image import ImageModality

        view = only_view(self, ImageModality)
        return self.encode(view, images, normalize=normalize, batch_size=batch_size, device=device)

    def encode_text(
        self, texts: object, *, normalize: bool = True, batch_size: int = 64, device: str = ""
    ) -> Tensor:
        """:meth:`encode` with the run's one view of texts."""
        from mmvicreg.interop.encoding import only_view
        from mmvicreg.modalities.text import TextModality

        view = only_view(self, TextModality)
        return self.encode(view, texts, normalize=normalize, batch_size=batch_size, device=device)

    def evaluate(
        self, splits: Mapping[str, str | Sequence[str]], *, device: str = "", threads: int = 2, folds: int = 0
    ) -> dict[str, SplitScores]:
        """Scores of every split, {name: shards}; see :func:`mmvicreg.evaluation.evaluate.score_splits`."""
        from mmvicreg.evaluation.evaluate import score_splits

        return score_splits(self, splits, device=device, threads=threads, folds=folds)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write an export that :func:`mmvicreg.load` reads without the recipe; see :mod:`mmvicreg.interop.export`."""
        from mmvicreg.interop.export import save_pretrained

        return save_pretrained(self, folder)

    def push_to_hub(self, repository: str, *, private: bool = True) -> str:
        """Export to a repository OWNER/NAME of the Hugging Face hub; its address."""
        from mmvicreg.interop.export import push_to_hub

        return push_to_hub(self, repository, private=private)

    def to_open_clip(
        self, *, image: str = "image", text: str = "text", predicted: bool = False
    ) -> tuple[OpenClipAdapter, ImageTransform, Tokenizer]:
        """(model, preprocess, tokenizer) as open_clip has them; see :func:`mmvicreg.interop.open_clip.to_open_clip`."""
        from mmvicreg.interop.open_clip import to_open_clip

        return to_open_clip(self, image=image, text=text, predicted=predicted)


def read_run(
    folder: str | Path,
    *,
    recipe: str | Path | None = None,
    step: int | Literal["best"] | None = None,
    average: bool = False,
) -> Run:
    """Rebuild the model of a run directory, with the newest complete checkpoint or that of ``step``.

    ``step`` "best" is the one with the highest score (see TrainConfig.best_metric); ``average`` takes the moving
    average of the branches' weights that the run kept.
    ``recipe`` names the file that defines modalities which are not this package's; it is executed. Raises
    FileNotFoundError where there is no run or no complete checkpoint, ValueError where files do not fit.
    """
    saved = read_config(Path(folder))
    module = import_recipe(recipe) if recipe is not None else None
    used = set(saved["views"].values())
    modalities: dict[str, Modality] = {
        name: from_json(value, recipe=module) for name, value in saved["config"].items() if name in used
    }
    return rebuild(Path(folder), saved, modalities, step=step, average=average)


def rebuild(
    folder: Path,
    saved: dict[str, Any],
    modalities: dict[str, Modality],
    *,
    step: int | Literal["best"] | None = None,
    average: bool = False,
) -> Run:
    """The run of ``folder`` from what its config.json holds and its modalities; see :func:`read_run`."""
    modalities = {name: _without_weights(modality) for name, modality in modalities.items()}
    path = _checkpoint(folder, step)
    model = Model({name: modality.branch() for name, modality in modalities.items()}, saved["views"])
    place_heads(model, folder, path / checkpoint.WEIGHTS)
    file = checkpoint.AVERAGE if average else checkpoint.WEIGHTS
    checkpoint.verify(path, checkpoint.WEIGHTS, file)
    checkpoint.read_model(path, model, file=file)
    predictors = read_predictors(folder, path / checkpoint.WEIGHTS)
    step_number = checkpoint.read_position(path).step
    objective = saved.get("objective", {})
    return Run(folder, saved["config"], modalities, model.eval(), step_number, predictors, objective)


def start_from(model: Model, folder: Path) -> None:
    """Give ``model`` the weights of the newest checkpoint of the run in ``folder``, and its heads where it was solved.

    Raises FileNotFoundError where there is none, ValueError where its branches do not fit the model's.
    """
    saved = read_config(folder)
    branches = set(saved["views"].values())
    if branches != set(model.branches):
        raise InvalidValueError(
            f"init: {folder} has the branches {sorted(branches)}, this run has {sorted(model.branches)}"
        )
    path = _checkpoint(folder, None)
    place_heads(model, folder, path / checkpoint.WEIGHTS)
    checkpoint.verify(path, checkpoint.WEIGHTS)
    checkpoint.read_model(path, model)


def place_heads(model: Model, folder: Path, weights: Path) -> None:
    """Give ``model`` the solved heads that ``folder`` describes in place of its projectors, without their values, which
    the file ``weights`` holds. Raises ValueError where they cannot be."""
    for name, head in heads.read(folder, stored=weights.stat().st_size).items():
        model.branch_named(name).projector = head


def _without_weights(modality: Any) -> Modality:
    """The weights of a run are in its checkpoint: where they came from at first need not exist any more."""
    if any(item.name == "weights" for item in fields(modality)):
        return replace(modality, weights="")
    return modality


def _checkpoint(folder: Path, step: int | Literal["best"] | None) -> Path:
    found = checkpoint.complete_checkpoints(folder / CHECKPOINTS)
    if not found:
        raise MissingFileError(
            f"{folder}: no complete checkpoint in {folder / CHECKPOINTS}; train it further first"
        )
    if step is None:
        return found[-1]
    if step == "best":
        best = checkpoint.best_checkpoint(folder / CHECKPOINTS)
        if not best:
            raise MissingFileError(
                f"{folder}: no checkpoint has a score; train with --best-metric and --validation.data"
            )
        return best[0]
    wanted = checkpoint.checkpoint_path(folder / CHECKPOINTS, step)
    if wanted not in found:
        steps = ", ".join(str(checkpoint.read_position(path).step) for path in found)
        raise MissingFileError(f"{folder}: no complete checkpoint of step {step}; there are {steps}")
    return wanted


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run directory. Raises FileNotFoundError or ValueError with the next move."""
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such run directory")
    file = folder / CONFIG
    if not file.is_file():
        raise MissingFileError(
            f"{folder} is not a run directory: it has no {CONFIG}; runs are made by recipes"
        )
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(saved, dict) or not {"config", "views"} <= set(saved):
        raise InvalidValueError(f"{file}: expected the keys 'config' and 'views', found {sorted(saved)[:5]}")
    if not isinstance(saved["config"], dict) or not isinstance(saved["views"], dict):
        raise InvalidValueError(f"{file}: expected 'config' and 'views' to be objects")
    check_names([*saved["views"], *saved["views"].values()], where=file)
    return saved


def line_step(line: str) -> float:
    """The step of a line of the log; infinity for a line that was cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut short by a kill


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Every whole line of the log."""
    file = folder / LOG
    if not file.is_file():
        raise MissingFileError(f"{folder}: no {LOG}; has the run taken a step?")
    return [
        json.loads(line)
        for line in file.read_text(encoding="utf-8").splitlines()
        if line_step(line) < float("inf")
    ]
