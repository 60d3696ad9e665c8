"""Options and names that the documentation mentions exist, in this package and in the libraries it compares with."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import mmvicreg as mm
from mmvicreg.cli.main import COMMANDS
from mmvicreg.runs.config import import_recipe

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COMING_FROM = (DOCS / "coming-from.md").read_text()
OTHERS = {
    "--multi_gpu",
    "--num_processes",
    "--mixed_precision",
    "--dynamo_backend",
    "--no_amp",
    "--strategy",
    "--help",
    "--full",
    "--logdir",
}
"""Options of launchers and other libraries that pages mention."""


def fields(cls: Any, prefix: str = "") -> Iterator[str]:
    """Every field of a configuration as its option, without the dashes in front."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = prefix + field.name.replace("_", "-")
        yield name
        for part in (hints[field.name], *get_args(hints[field.name])):
            if dataclasses.is_dataclass(part):
                yield from fields(part, name + ".")


def options() -> set[str]:
    """Every option of the demo's recipe, of text towers and of every command."""
    recipe = import_recipe(ROOT / "recipes/demo.py")
    found = set(fields(recipe.Config)) | {f"text.{name}" for name in fields(mm.TextModality)}
    for command in COMMANDS.values():
        found |= set(fields(getattr(import_module(command.module), command.config)))
    return found | {"json"}


OPTIONS = options()


def mentioned(text: str) -> set[str]:
    """Every option in inline code."""
    code = " ".join(
        re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    )
    return {option.rstrip(".") for option in re.findall(r"(?<![\w-])--[a-zA-Z][\w.-]*", code)} - OTHERS


@pytest.mark.parametrize("name", ["troubleshooting", "own-folder", "own-loop", "first-run", "launching"])
def test_every_option_that_a_page_mentions_exists(name: str) -> None:
    found = mentioned((DOCS / f"{name}.md").read_text())
    launcher = {"--cpu", "--out", "--signal", "--requeue"}
    assert {option[2:] for option in found - launcher} <= OPTIONS


def test_every_public_name_that_a_page_mentions_exists() -> None:
    for page in DOCS.glob("*.md"):
        for name in set(re.findall(r"`mm\.(\w+)", page.read_text())) - {"NAME"}:
            assert name in mm.__all__, f"{page.name} mentions mm.{name}"


def rows(section: str) -> list[tuple[str, str]]:
    """The first two cells of each row of a section's table, without back quotes."""
    text = COMING_FROM.partition(f"## {section}\n")[2].partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.split("|")[1:3]]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    assert len(cells) >= 6
    return [(theirs.strip("`"), ours.strip("`")) for theirs, ours in cells]


SECTIONS = {
    "open_clip": "open_clip_train.params",
    "lightly": "lightly.loss",
    "stable-pretraining": "stable_pretraining",
    "sentence-transformers": "sentence_transformers",
    "CLIP_benchmark": "clip_benchmark.cli",
}


@pytest.mark.parametrize("section", SECTIONS)
def test_our_side_of_each_table_exists(section: str) -> None:
    for _, ours in rows(section):
        if ours.startswith("--"):
            assert ours[2:] in OPTIONS, ours
        elif ours.startswith("mm."):
            found: Any = mm
            for part in ours.split(".")[1:]:
                found = getattr(found, part)
        elif ours:
            assert ours.removeprefix("mmvicreg ") in COMMANDS, ours


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.filterwarnings("ignore")  # of their own imports
def test_their_side_of_each_table_exists(section: str) -> None:
    library = pytest.importorskip(SECTIONS[section])
    source = inspect.getsource(library)
    for theirs, _ in rows(section):
        if theirs.startswith("--"):
            assert re.search(rf"""['"]{theirs}['"]""", source), theirs
        else:
            assert exists(SECTIONS[section].partition(".")[0], theirs), theirs


PLACES = {
    "lightly": ("lightly.loss", "lightly.models.modules", "lightly.models.utils", "lightly.loss.visreg_loss"),
    "sentence_transformers": (
        "sentence_transformers", "sentence_transformers.losses", "sentence_transformers.evaluation",
    ),
    "stable_pretraining": ("stable_pretraining.losses", "stable_pretraining.callbacks"),
}  # fmt: skip


def exists(library: str, name: str) -> bool:
    """Whether one of a library's modules has a class or function, or a method of a class."""
    first, *rest = name.split(".")
    for place in PLACES[library]:
        found: Any = getattr(import_module(place), first, None) if place_exists(place) else None
        for part in rest:
            found = getattr(found, part, None)
        if found is not None:
            return True
    return False


def place_exists(place: str) -> bool:
    """Whether a module can be imported."""
    try:
        import_module(place)
    except ImportError:
        return False
    return True
