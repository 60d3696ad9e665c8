"""A run as a folder for others: safetensors and JSON, loaded without the recipe and without running code.

    config.json          modalities, views, widths
    model.safetensors    all branches
    predictors.safetensors   what the objective learned to predict between branches, where it did
    README.md            model card with the run's scores
    NAME/                tokenizer and architecture files of modality NAME, where it has some

The folder is a Hugging Face repository as it stands. What comes back is checked before anything is built:
only this package's modalities, only names of architectures (no paths, no downloads of weights), only files
inside the folder, and nothing that is pickled.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor, nn

from mmvicreg.branches import head as heads
from mmvicreg.branches.model import Model
from mmvicreg.errors import InvalidValueError, MissingFileError
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.files import write_json, write_tensors
from mmvicreg.modalities.encoders.pretrained import locate, split
from mmvicreg.modalities.image import ImageModality
from mmvicreg.modalities.modality import Modality
from mmvicreg.modalities.text import TextModality
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
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
ARCHITECTURE = re.compile(r"(timm|open_clip)/[A-Za-z0-9][A-Za-z0-9_.-]*")
LARGEST_CONFIG = 1_000_000
LARGEST_SIDE = 8192


def save_pretrained(run: Run, folder: str | Path) -> Path:
    """Write ``run`` as a folder. Raises ValueError where it cannot be loaded without the recipe.

    An existing folder is replaced only if it is empty or an earlier export.
    """
    folder = Path(folder) if Path(folder).name else Path(folder).resolve()
    if folder.is_dir() and any(folder.iterdir()) and not _is_export(folder):
        raise InvalidValueError(f"{folder} is not empty and is no export of mmvicreg; choose another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    modalities = {name: _portable(name, m, partial) for name, m in run.modalities.items()}
    branches = {name: list(run.model.branches[name].state_dict()) for name in run.modalities}
    config = {
        "library_name": "mmvicreg",
        "format": FORMAT,
        "step": run.step,
        "modalities": modalities,
        "views": run.model.views,
        "tensors": {name: len(found) for name, found in branches.items()},
        "predictors": predictors.describe(run.predictors),
        "heads": {name: found for name in branches if (found := heads.describe(_projector(run, name)))},
    }
    write_json(partial / CONFIG, config)
    save_model(run.model, str(partial / WEIGHTS))
    if run.predictors:
        write_tensors(partial / PREDICTORS, _predictor_tensors(run.predictors))
    (partial / "README.md").write_text(model_card(run, folder.name), encoding="utf-8")
    from_pretrained(partial)  # what is handed on has been loaded once
    _put_in_place(partial, folder)
    return folder


def _projector(run: Run, name: str) -> nn.Module:
    return run.model.branch_named(name).projector


def _put_in_place(partial: Path, folder: Path) -> None:
    """The export that was there before goes when the new one is there."""
    shutil.rmtree(old := folder.with_name(f".{folder.name}.old"), ignore_errors=True)
    if folder.is_dir():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


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
            f"modality {name!r} is {saved[CLASS]}, defined outside this package: it cannot be loaded without "
            "its recipe. Keep the run directory, and load it with mmvicreg.load(run, recipe=...)"
        )
    saved |= {"weights": "", "precomputed_views": 0}
    if saved["encoder"] == "gru":
        (folder / name).mkdir()
        shutil.copyfile(saved["vocabulary"], folder / name / "vocabulary.json")
        saved["vocabulary"] = "vocabulary.json"
    elif split(saved["encoder"])[0] == "transformers":
        source = Path(locate(split(saved["encoder"])[1]))
        if not source.is_dir():
            source = Path(_download(split(saved["encoder"])[1], TOKENIZER_FILES))
        (folder / name).mkdir()
        for file in TOKENIZER_FILES:
            if (source / file).is_file():
                shutil.copyfile(source / file, folder / name / file)
        saved["encoder"] = "transformers/."
    return saved


def _download(repository: str, patterns: Iterable[str]) -> str:
    """The folder of a Hugging Face repository's files. Raises FileNotFoundError where it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        return snapshot_download(repository, allow_patterns=list(patterns))
    except (HTTPError, OSError) as error:  # of its HTTP library: no connection; of its own: refused
        raise MissingFileError(
            f"hf/{repository} cannot be downloaded: {str(error).splitlines()[0]} Check its name, the network, "
            "and for a private repository your login (hf auth login)"
        ) from None


def from_pretrained(name: str | Path) -> Run:
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
    return Run(folder, plain, modalities, model.eval(), int(config["step"]), predicted)


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
        return Path(_download(str(name).removeprefix("hf/"), patterns))
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
    for view, branch in config["views"].items():
        if branch not in config["modalities"]:
            raise InvalidValueError(f"{file}: view {view!r} names the branch {branch!r}, which is not there")
    return config


def _modality(name: str, saved: Any, folder: Path) -> Modality:
    """A modality from a stranger's JSON; every string that could name a file or a download is checked."""
    where = f"{folder / CONFIG}, modality {name!r}"
    if not NAME.fullmatch(name):
        raise InvalidValueError(f"{where}: a name has letters, digits, - and _ only")
    if not isinstance(saved, dict) or saved.get(CLASS) not in MODALITIES:
        found = saved.get(CLASS) if isinstance(saved, dict) else saved
        raise InvalidValueError(f"{where}: expected one of {', '.join(MODALITIES)}, found {found!r}")
    if saved.get("weights"):
        raise InvalidValueError(
            f"{where}: weights {saved['weights']!r} lie outside the export, which is refused"
        )
    modality: Any = from_json(saved)
    _check_types(modality, where)
    _check_size(modality, where, stored=(folder / WEIGHTS).stat().st_size)
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


def _check_size(modality: Any, where: str, *, stored: int) -> None:
    """Nothing is built that is larger than the weights that are there to fill it."""
    widths = modality.projector
    if not all(type(width) is int and width > 0 for width in widths):
        raise InvalidValueError(f"{where}: projector is {widths!r}; expected widths above 0")
    weights = sum(a * b for a, b in pairwise(widths))
    if isinstance(modality, TextModality) and modality.encoder == "gru":
        weights += 3 * modality.state_width * (modality.state_width + modality.word_width)
    sizes = [modality.size] if isinstance(modality, ImageModality) else [modality.length]
    if weights > max(stored, predictors.FREE) or not all(0 < size <= LARGEST_SIDE for size in sizes):
        raise InvalidValueError(
            f"{where}: it describes more than {weights:,} weights of inputs of {sizes[0]:,}, the file of weights has "
            f"{stored:,} bytes; refused"
        )


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
    lines += [f'run = mmvicreg.from_pretrained("{title}")', "```", ""]
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


def push_to_hub(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Upload an export to the Hugging Face hub; its address. Raises ValueError where the hub does not take it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    _folder(folder)
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=str(folder)))
    except (HTTPError, OSError) as error:  # of its HTTP library: no connection; of its own: refused
        raise InvalidValueError(
            f"{folder} was not pushed to {repository}: {str(error).splitlines()[0]} Pushing needs the network and "
            "a login that may write there (hf auth login)"
        ) from None
