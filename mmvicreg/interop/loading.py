"""Load whatever can embed: a run directory, an exported folder, a repository of the hub, or a published model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mmvicreg.branches.model import Model
from mmvicreg.errors import InvalidValueError
from mmvicreg.interop import exported, published_open_clip, published_transformers
from mmvicreg.modalities.modality import Modality
from mmvicreg.runs.config import to_json
from mmvicreg.runs.run import Run, read_run
from mmvicreg.shards.locations import cache_folder


def load(
    source: str | Path,
    *,
    recipe: str | Path | None = None,
    step: int | Literal["best"] | None = None,
    average: bool = False,
) -> Run:
    """The model of ``source``, in evaluation mode, with what is known of how to read its inputs.

    ``source`` is a run directory, an exported folder, ``hf/OWNER/NAME`` (an export on the Hugging Face hub),
    ``open_clip/NAME`` or ``open_clip/NAME:WEIGHTS`` (a tag or a file; without, the weights are random: a baseline at
    chance), or ``transformers/NAME-or-folder``. Published models get their own preprocessing and tokenizer.

    For run directories: ``step`` chooses a checkpoint, "best" the one with the highest score (see
    TrainConfig.best_metric), None the newest; ``average`` takes the moving average of the weights; ``recipe`` is the
    file that defines the run's own modalities, and is executed. Raises FileNotFoundError or ValueError with what was
    looked for.
    """
    name, folder = str(source), Path(source).expanduser()
    run = _without_checkpoints(name, folder)
    if run is None:
        return read_run(folder, recipe=recipe, step=step, average=average)
    if step is not None or average:
        raise InvalidValueError(
            f"{name} has one set of weights; step and average choose among the checkpoints of a run directory"
        )
    return run


def _without_checkpoints(name: str, folder: Path) -> Run | None:
    """The export or published model ``name``; None where it is a run directory."""
    library, _, rest = name.partition("/")
    if library == "hf":
        return exported.read_export(name)
    if exported.is_export(folder):
        return exported.read_export(folder)
    if folder.is_dir() or not rest:
        return None
    if library == "open_clip":
        return _published(name, published_open_clip.modalities_of(rest))
    if library == "transformers":
        return _published(name, published_transformers.modalities_of(rest))
    return None


def _published(name: str, modalities: dict[str, Modality]) -> Run:
    model = Model(
        {view: modality.branch() for view, modality in modalities.items()},
        {view: view for view in modalities},
    )
    config = {view: to_json(modality) for view, modality in modalities.items()}
    folder = Path(cache_folder()) / "baselines" / name.replace("/", "--").replace(":", "--")
    return Run(folder, config, modalities, model.eval(), 0)
