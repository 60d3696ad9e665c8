"""Read an exported folder: everything in it is checked before anything is built.

Only modalities of this package, only names of architectures (no paths, no downloads of weights), only files inside the
folder, nothing pickled, and nothing that would take more memory than the weights that are there to fill it.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model

from mmvicreg.branches import head as heads
from mmvicreg.branches.model import Model
from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.interop.architecture_limits import LARGEST_CONFIG, LARGEST_SIDE, MOST_LAYERS, check_architecture
from mmvicreg.interop.hub import download
from mmvicreg.modalities.image import ImageModality
from mmvicreg.modalities.modality import Modality, check_names
from mmvicreg.objectives import predictors
from mmvicreg.objectives.predictors import Predictors
from mmvicreg.runs.config import CLASS, from_json, to_json
from mmvicreg.runs.run import Run

FORMAT = 1
CONFIG, WEIGHTS, PREDICTORS = "config.json", "model.safetensors", "predictors.safetensors"
TOKENIZER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
)
MODALITIES = ("mmvicreg.modalities.image:ImageModality", "mmvicreg.modalities.text:TextModality")
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
ARCHITECTURE = re.compile(r"(timm|open_clip)/[A-Za-z0-9][A-Za-z0-9_.-]*")


def read_export(name: str | Path) -> Run:
    """Load an exported folder, or a Hugging Face repository of one (``hf/OWNER/NAME``, downloaded).

    Raises FileNotFoundError or ValueError, with what is wrong, for a folder that is broken or unsafe.
    """
    folder = _folder(name)
    config = _read_config(folder)
    modalities = {key: _modality(key, value, folder) for key, value in config["modalities"].items()}
    model = Model({key: modality.branch() for key, modality in modalities.items()}, config["views"])
    _place_heads(model, config, folder)
    try:
        load_model(model, str(folder / WEIGHTS), strict=True)
    except (RuntimeError, SafetensorError, ValueError) as error:
        raise InvalidValueError(
            f"{folder / WEIGHTS} does not fit {CONFIG}, or is no safetensors file: {error}"
        ) from None
    plain = {key: to_json(modality) for key, modality in modalities.items()}
    predicted = _read_predictors(config, folder)
    return Run(
        folder, plain, modalities, model.eval(), int(config["step"]), predicted, config.get("objective", {})
    )


def _place_heads(model: Model, config: dict[str, Any], folder: Path) -> None:
    description = config.get("heads", {})
    if not isinstance(description, dict) or not set(description) <= set(config["modalities"]):
        raise InvalidValueError(f"{folder / CONFIG}: expected heads by branch, found {description!r:.80}")
    stored = (folder / WEIGHTS).stat().st_size
    for name, parts in description.items():
        model.branch_named(name).projector = heads.build(parts, source=folder / CONFIG, stored=stored)


def _read_predictors(config: dict[str, Any], folder: Path) -> Predictors:
    file = folder / PREDICTORS
    stored = file.stat().st_size if file.is_file() else 0
    made = predictors.build(config.get("predictors", []), source=folder / CONFIG, stored=stored)
    unknown = sorted({end for pair in made for end in pair} - set(config["modalities"]))
    if unknown:
        raise InvalidValueError(
            f"{folder / CONFIG}: predictors name the branches {unknown}, which are not there"
        )
    if not made:
        return made
    if not file.is_file():
        raise MissingFileError(
            f"{folder} has no {PREDICTORS}, which its {CONFIG} describes: an incomplete export"
        )
    try:
        tensors = load_file(file)
    except (SafetensorError, ValueError) as error:
        raise InvalidValueError(f"{file} is no safetensors file: {error}") from None
    for number, module in enumerate(made.values()):
        predictors.fill(module, tensors, prefix=f"{number}.", source=file)
    return made


def _folder(name: str | Path) -> Path:
    if str(name).startswith("hf/"):
        beside = [f"*/{file}" for file in (*TOKENIZER_FILES, "vocabulary.json")]
        patterns = [CONFIG, WEIGHTS, PREDICTORS, "README.md", *beside]
        return download(str(name).removeprefix("hf/"), patterns)
    folder = Path(name)
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder")
    for file in folder.rglob("*"):
        if file.is_symlink() and not str(name).startswith("hf/"):
            raise InvalidValueError(f"{file} is a link; an export holds plain files")
        if file.suffix in PICKLED:
            raise InvalidValueError(
                f"{file} may hold pickled code, which is never loaded; remove it from the export"
            )
    for needed in (CONFIG, WEIGHTS):
        if not (folder / needed).is_file():
            raise MissingFileError(
                f"{folder} has no {needed}: it is no export of mmvicreg, or an incomplete one"
            )
    return folder


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if file.stat().st_size > LARGEST_CONFIG:
        raise InvalidValueError(f"{file} has {file.stat().st_size} bytes; a configuration has a few thousand")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{file} is not JSON: {error}") from None
    wanted = {"format": int, "modalities": dict, "views": dict, "step": int}
    for key, kind in wanted.items():
        if not isinstance(config, dict) or not isinstance(config.get(key), kind):
            raise InvalidValueError(
                f"{file}: expected {key!r} to be of type {kind.__name__}; is it an mmvicreg export?"
            )
    if config["format"] != FORMAT:
        raise InvalidValueError(f"{file} has format {config['format']}, this reads {FORMAT}; update mmvicreg")
    check_names([*config["modalities"], *config["views"]], where=file)
    for view, branch in config["views"].items():
        if branch not in config["modalities"]:
            raise InvalidValueError(f"{file}: view {view!r} names the branch {branch!r}, which is not there")
    return config


def _modality(name: str, saved: Any, folder: Path) -> Modality:
    """A modality from a stranger's JSON; every string that could name a file or a download is checked."""
    where = f"{folder / CONFIG}, modality {name!r}"
    if not isinstance(saved, dict) or saved.get(CLASS) not in MODALITIES:
        found = saved.get(CLASS) if isinstance(saved, dict) else saved
        raise InvalidValueError(f"{where}: expected one of {', '.join(MODALITIES)}, found {found!r}")
    if saved.get("weights"):
        raise InvalidValueError(
            f"{where}: weights {saved['weights']!r} lie outside the export, which is refused"
        )
    modality: Any = from_json(saved)
    _check_types(modality, where)
    _check_size(modality, where)
    found = _inside(modality, name, folder, where)
    architecture = folder / name if modality.encoder == "transformers/." else None
    check_architecture(found, where=where, stored=(folder / WEIGHTS).stat().st_size, folder=architecture)
    return found


def _inside(modality: Any, name: str, folder: Path, where: str) -> Modality:
    """The modality with its files found inside the export, or its architecture known by name."""
    if modality.encoder == "gru":
        if modality.vocabulary != "vocabulary.json":
            raise InvalidValueError(
                f"{where}: vocabulary {modality.vocabulary!r} lies outside the export, refused"
            )
        return replace(modality, vocabulary=str(folder / name / "vocabulary.json"))
    if modality.encoder == "transformers/.":
        return replace(modality, encoder=f"transformers/{folder.resolve() / name}")
    if not ARCHITECTURE.fullmatch(modality.encoder):
        raise InvalidValueError(
            f"{where}: encoder {modality.encoder!r} is no plain timm/NAME or open_clip/NAME; refused"
        )
    return modality


def _check_types(modality: Any, where: str) -> None:
    default = type(modality)()
    for item in fields(modality):
        value, expected = vars(modality)[item.name], vars(default)[item.name]
        kinds = (type(expected), int) if isinstance(expected, float) else (type(expected),)
        if expected is not None and not isinstance(value, kinds):
            raise InvalidValueError(f"{where}: {item.name} is {value!r}; expected {type(expected).__name__}")


def _check_size(modality: Any, where: str) -> None:
    widths = modality.projector
    if len(widths) > MOST_LAYERS or not all(type(width) is int and width > 0 for width in widths):
        raise InvalidValueError(
            f"{where}: projector is {str(widths)[:80]}; expected at most {MOST_LAYERS:,} widths above 0"
        )
    size = modality.size if isinstance(modality, ImageModality) else modality.length
    if not 0 < size <= LARGEST_SIDE:
        raise InvalidValueError(f"{where}: inputs of {size:,}; at most {LARGEST_SIDE:,} are built; refused")


def is_export(folder: Path) -> bool:
    """Whether a folder has the two files of an export."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()
