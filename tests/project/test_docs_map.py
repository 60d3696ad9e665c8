"""docs/architecture.md is a map of the package: what it names exists, and no folder is left out."""

import re
from importlib import import_module, util
from pathlib import Path

import pytest

import mmvicreg

PACKAGE = Path(mmvicreg.__file__).parent
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
CODE = re.findall(r"`([^`\n]+)`", PAGE)
PATHS = sorted({code for code in CODE if re.fullmatch(r"[\w.-]+(/[\w.-]+)*(/|\.py|\.md)", code)})
FILES = {"json", "jsonl", "html", "safetensors", "md", "py"}
"""last parts that make a word with dots a file name"""


def names() -> list[str]:
    """Every dotted name on the page."""
    dotted = {code for code in CODE if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", code)}
    return sorted(code for code in dotted if code.rpartition(".")[2] not in FILES)


def resolve(name: str) -> object:
    """What a dotted name of the package, of ``mm`` or of another library stands for; AttributeError if nothing."""
    first, *rest = name.split(".")
    inside = util.find_spec(f"mmvicreg.{first}") is not None
    path = "mmvicreg" if first == "mm" else f"mmvicreg.{first}" if inside else first
    try:
        found: object = import_module(path)
    except ModuleNotFoundError:
        public = {"DistributedDataParallel": "torch.nn.parallel", "AcceleratorState": "accelerate.state"}
        found = getattr(import_module(public[first]), first)
    for part in rest:
        path += f".{part}"
        try:
            found = getattr(found, part)
        except AttributeError:
            found = import_module(path)
    return found


def test_every_path_on_the_page_exists() -> None:
    assert len(PATHS) > 80
    missing = [path for path in PATHS if not ((PACKAGE / path).exists() or (ROOT / path).exists())]
    assert not missing


@pytest.mark.parametrize("name", names())
def test_every_dotted_name_on_the_page_exists(name: str) -> None:
    resolve(name)


def test_a_name_that_does_not_exist_is_noticed() -> None:
    for name in ("training.loop.Loop.no_such", "training.no_such", "mm.no_such"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            resolve(name)


def test_every_folder_of_the_package_has_a_line() -> None:
    lines = re.findall(r"^\| `([\w/]+/)` \| .*`", PAGE.partition("## Where to look")[2], flags=re.MULTILINE)
    folders = {f"{file.parent.relative_to(PACKAGE)}/" for file in PACKAGE.rglob("__init__.py")} - {"./"}
    assert folders == set(lines)


def test_every_file_beside_the_folders_has_a_line() -> None:
    files = {file.name for file in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert files <= set(PATHS)
