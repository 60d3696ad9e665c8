"""Limits that keep the package readable: sizes of files, functions and folders, private names, docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mmvicreg"
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({file.parent for file in FILES})
SCRIPTS = sorted(
    file for name in ("recipes", "benchmarks", "studies", "data") for file in (ROOT / name).rglob("*.py")
)
LINES, FUNCTION, ENTRIES = 300, 50, 14
"""Most lines of a file, most lines of a function, most files of a folder beside its __init__."""
TABLES = ROOT / "benchmarks" / "published_families"
"""Lists of small configurations, one for each family of models: long, but no path through them is."""


def test_no_file_is_longer_than_300_lines() -> None:
    long = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in FILES + SCRIPTS}
    assert {name: lines for name, lines in long.items() if lines > LINES} == {}


def test_no_function_is_longer_than_50_lines() -> None:
    long = {}
    for file in [file for file in FILES + SCRIPTS if file.parent != TABLES]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION:
                    long[f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"] = lines
    assert long == {}


def test_no_folder_has_more_than_14_files() -> None:
    counts = {
        str(folder.relative_to(ROOT)): len([f for f in folder.glob("*.py") if f.name != "__init__.py"])
        for folder in FOLDERS
    }
    # One file a command: their number is that of the commands, which --help lists.
    counts.pop("mmvicreg/cli")
    assert {name: count for name, count in counts.items() if count > ENTRIES} == {}


def test_no_private_name_is_imported_from_another_folder() -> None:
    wrong = []
    for file in FILES + SCRIPTS:
        here = ".".join(file.parent.relative_to(ROOT).parts)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmvicreg"):
                parts = (node.module or "").split(".")
                names = [alias.name for alias in node.names if alias.name.startswith("_")]
                names += [part for part in parts if part.startswith("_")]
                if ".".join(parts[:-1]) != here and names:
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.module} {names}")
    assert wrong == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_says_what_enters_and_what_leaves(folder: Path) -> None:
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert said and len(said) > 40, (
        f"{folder}/__init__.py has no docstring that says what enters and what leaves"
    )


def test_tests_mirror_the_folders_of_the_package() -> None:
    folders = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()}
    tested = {folder.name for folder in (ROOT / "tests").iterdir() if any(folder.glob("test_*.py"))}
    assert tested - {"project"} <= folders
    # demo holds data, testing is used by the tests of every loss.
    assert folders - tested <= {"demo", "testing"}
