"""The table of private names of other libraries in docs/architecture.md is whole, and says where each is used."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mmvicreg"
SECTION = (ROOT / "docs/architecture.md").read_text().partition("## Private APIs")[2].partition("\n## ")[0]
PUBLIC = {"_exit", "_replace"}
"""os._exit and a named tuple's _replace, which Python documents under these names."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def used() -> dict[str, set[str]]:
    """{private name of another object or library: files of the package that use it}."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        own |= {
            node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_self(node.value)
        }
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute) and not is_self(node.value):
                names = [node.attr] if node.attr not in own else []
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("mmvicreg"):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
                names = [str(node.args[1].value)] if isinstance(node.args[1], ast.Constant) else []
            for name in filter(private, names):
                found[name].add(str(file.relative_to(PACKAGE)))
    return dict(found)


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def listed() -> dict[str, set[str]]:
    """{private part of a listed name: files listed beside it}."""
    rows = [line.split("|")[1:3] for line in SECTION.splitlines() if line.startswith("| `")]
    return {
        next(part for part in name.strip(" `").split(".") if private(part)): set(
            re.findall(r"`([^`]+)`", files)
        )
        for name, files in rows
    }


def test_every_private_name_in_use_is_listed_with_its_files_and_no_other() -> None:
    assert len(listed()) >= 5
    assert listed() == used()


def test_the_versions_they_were_run_with_are_named() -> None:
    for library in ("torch", "accelerate"):
        assert re.search(rf"\b{library}\s+\d+\.\d+\.\d+", SECTION)
