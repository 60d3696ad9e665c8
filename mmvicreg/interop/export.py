"""Write a run as a folder for others: safetensors and JSON, loaded without the recipe and without running code.

    config.json          modalities, views, widths
    model.safetensors    all branches
    predictors.safetensors   what the objective learned to predict between branches, where it did
    README.md            model card with the scores of the run
    NAME/                tokenizer and architecture files of modality NAME, where it has some

The folder is a Hugging Face repository as it stands; :mod:`mmvicreg.interop.exported` reads it back.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_model
from torch import Tensor

from mmvicreg.branches import head as heads
from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.files import whole_folder, write_json, write_tensors, write_text, write_with
from mmvicreg.interop.exported import (
    CONFIG,
    FORMAT,
    MODALITIES,
    PREDICTORS,
    TOKENIZER_FILES,
    WEIGHTS,
    read_export,
)
from mmvicreg.interop.hub import download, upload
from mmvicreg.modalities.encoders.pretrained import split
from mmvicreg.modalities.encoders.weights import locate
from mmvicreg.modalities.image import ImageModality
from mmvicreg.objectives import predictors
from mmvicreg.objectives.predictors import Predictors
from mmvicreg.runs.config import CLASS, to_json
from mmvicreg.runs.run import Run


def save_pretrained(run: Run, folder: str | Path) -> Path:
    """Write ``run`` as a folder that :func:`mmvicreg.load` reads without the recipe.

    The folder appears whole or not at all. An existing one is replaced only if it is empty or an earlier export. Raises
    ValueError where a modality is defined outside this package, or another folder is in the way.
    """
    folder = Path(folder) if Path(folder).name else Path(folder).resolve()
    if folder.is_dir() and any(folder.iterdir()) and not _is_export(folder):
        raise InvalidValueError(f"{folder} is not empty and is no export of mmvicreg; choose another folder")
    with whole_folder(folder) as partial:
        _write(run, partial, title=folder.name)
        read_export(partial)  # what is handed on has been loaded once
    return folder


def _write(run: Run, partial: Path, *, title: str) -> None:
    modalities = {name: _portable(name, m, partial) for name, m in run.modalities.items()}
    branches = {name: list(run.model.branches[name].state_dict()) for name in run.modalities}
    described = {name: heads.describe(run.model.branch_named(name).projector) for name in branches}
    config = {
        "library_name": "mmvicreg",
        "format": FORMAT,
        "step": run.step,
        "modalities": modalities,
        "views": run.model.views,
        "tensors": {name: len(found) for name, found in branches.items()},
        "predictors": predictors.describe(run.predictors),
        "objective": run.objective,
        "heads": {name: found for name, found in described.items() if found},
    }
    write_json(partial / CONFIG, config)
    write_with(partial / WEIGHTS, lambda path: save_model(run.model, str(path)))
    if run.predictors:
        write_tensors(partial / PREDICTORS, _predictor_tensors(run.predictors))
    write_text(partial / "README.md", model_card(run, title))


def push_to_hub(run: Run, repository: str, *, private: bool = True) -> str:
    """Export ``run`` to the repository OWNER/NAME of the Hugging Face hub; its address.

    Raises ValueError where the run cannot be exported or the hub refuses it.
    """
    with TemporaryDirectory() as folder:
        title = repository.rpartition("/")[2]
        return upload(save_pretrained(run, Path(folder) / title), repository, private=private)


def _is_export(folder: Path) -> bool:
    """Other models are folders of config.json and model.safetensors too."""
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))["library_name"] == "mmvicreg"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _predictor_tensors(found: Predictors) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": value.contiguous().clone()
        for number, module in enumerate(found.values())
        for name, value in module.state_dict().items()
    }


def _portable(name: str, modality: Any, folder: Path) -> dict[str, Any]:
    """A modality as JSON, with the files it needs copied beside it."""
    saved = to_json(modality)
    if saved[CLASS] not in MODALITIES:
        raise InvalidValueError(
            f"modality {name!r} is {saved[CLASS]}, which is not this package's own: it cannot be loaded without the "
            "code that defines it. Keep the run directory, and load it with mmvicreg.load(run, recipe=...)"
        )
    if isinstance(modality, ImageModality):  # what the weights say, which the export does not name
        prepared = modality.preprocessing()
        saved |= {"resize": prepared.resize, "interpolation": prepared.interpolation}
        saved |= {"mean": list(prepared.mean), "std": list(prepared.std)}
    saved |= {"weights": "", "precomputed_views": 0}
    if saved["encoder"] == "gru":
        (folder / name).mkdir()
        shutil.copyfile(saved["vocabulary"], folder / name / "vocabulary.json")
        saved["vocabulary"] = "vocabulary.json"
    elif split(saved["encoder"])[0] == "transformers":
        source = Path(locate(split(saved["encoder"])[1]))
        if not source.is_dir():
            source = download(split(saved["encoder"])[1], TOKENIZER_FILES)
        (folder / name).mkdir()
        for file in TOKENIZER_FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, folder / name / file)
        saved["encoder"] = "transformers/."
    return saved


def model_card(run: Run, title: str) -> str:
    """README.md of an export: front matter, what it is, its scores beside chance, how to use it."""
    lines = [
        "---",
        "library_name: mmvicreg",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [mmvicreg, retrieval, non-contrastive]",
        "---",
        f"# {title}",
        "",
        f"Encoders of {', '.join(run.modalities)} trained together with mmvicreg, {run.step} steps.",
        "",
        "| branch | encoder | projector |",
        "|---|---|---|",
    ]
    for name, modality in run.modalities.items():
        plain = to_json(modality)
        lines.append(f"| {name} | `{plain.get('encoder', plain[CLASS])}` | {plain.get('projector', '')} |")
    lines += ["", *_score_lines(run.folder), "## Use", "", "```python", "import mmvicreg"]
    lines += [f'run = mmvicreg.load("{title}")', "```", ""]
    return "\n".join(lines)


def _score_lines(folder: Path) -> Iterator[str]:
    file = folder / "summary.json"
    if not file.is_file():
        return
    scores = read_summary(file).scores
    yield from (
        "## Scores",
        "",
        "| split | direction | R@1, % | chance, % | R@5, % | R@10, % |",
        "|---|---|---|---|---|---|",
    )
    for name in scores:
        direction, _, score = name.rpartition(".")
        if score == "recall_at_1":
            keys = ("recall_at_1", "chance_at_1", "recall_at_5", "recall_at_10")
            cells = " | ".join(f"{100 * (scores[f'{direction}.{key}'] or 0):.2f}" for key in keys)
            split, _, ends = direction.rpartition(".")
            yield f"| {split} | {ends.replace('_', ' ')} | {cells} |"
    yield ""
