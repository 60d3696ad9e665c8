"""The package, the recipes and the pages keep the words of the glossary in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs/architecture.md").read_text().partition("## Glossary")[2].partition("\n## ")[0]
CODE = [
    file
    for folder in ("mmvicreg", "recipes", "benchmarks")
    for file in sorted((ROOT / folder).rglob("*"))
    if file.suffix in (".py", ".pyi", ".html", ".css", ".js")
]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    # The log keeps the words of its days; the glossary names the words that it forbids.
    *(f for f in sorted((ROOT / "docs").rglob("*.md")) if f.name not in ("log.md", "architecture.md")),
]


@dataclass(frozen=True)
class Rule:
    """Words that the glossary has another word for."""

    pattern: str
    """finds them in a text whose names are spaced out: ``LossTally`` and ``loss_tally`` are "loss tally" there"""
    instead: str
    caught: str
    """a text that must be caught"""
    left: str = ""
    """a text in plain English that must be left alone"""


RULES = {
    "spool": Rule(r"\bspool\w*", "shard cache", "def _spooled(shard): ..."),
    "tally": Rule(r"\btall(y|ies|ied)\b", "sample counts", "class LossTally:"),
    "account": Rule(r"\baccount(s|ed|ing)?\b(?! for)", "sample counts", "the account of a run", "it accounts for"),
    "reading": Rule(r"\breadings\b|\b(a|one|each|every|own) reading\b(?! of)", "augmented view", "each reading"),
    "look": Rule(r"\b(a|one|each|every|last|next|bad|first) looks?\b|\blooks (in a row|back)", "check, diagnosis",
                 "after three bad looks", "it looks for a file"),
    "share": Rule(r"\bshares? of\b|\b(largest|smallest|its|a|the|each|fair) share\b|\bshare [:*=]", "fraction",
                  "the share of frames", "branches share weights"),
    "subject": Rule(r"\bsubjects?\b(?! to)", "model", "the subject of a test"),
    "face": Rule(r"(?<!hugging )\bfaces?\b", "interface, adapter, export", "its public face", "the Hugging Face hub"),
    "door": Rule(r"\bdoors?\b", "adapter", "open_clip's door"),
    "keeper": Rule(r"\bkeepers?\b", "checkpoint writer", "class Keeper:"),
    "journal": Rule(r"\bjournals?\b", "log, ledger", "write_journal()"),
    "bookkeeping": Rule(r"\bbook ?keeping\b", "sample counts", "bookkeeping of samples"),
    "person on Monday": Rule(r"\bmonday\b", "what it is", "what a person wants to know on Monday"),
    "dress": Rule(r"\bdress(es|ed)?\b", "label", "dress(axes)"),
    "columns": Rule(r"\bcolumns module\b|\bparallel columns\b|\bby columns\b", "column parallel", "parallel columns"),
}  # fmt: skip
IMAGE_FOLDERS = ("modalities", "branches", "objectives", "stream", "interop", "shards", "plan")
"""Where pixels are a modality; elsewhere a picture is a file of the user, or what a command draws."""


def words(text: str) -> str:
    """``text`` with the parts of names spaced out, in lower case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", text).lower()


def found(rule: Rule, text: str) -> list[str]:
    """Lines that break a rule."""
    lines = words(text).splitlines()
    return [
        f"{number}: {line.strip()[:100]}"
        for number, line in enumerate(lines, 1)
        if re.search(rule.pattern, line)
    ]


@pytest.mark.parametrize("name", RULES)
def test_a_rule_finds_its_word_and_leaves_plain_english_alone(name: str) -> None:
    assert found(RULES[name], RULES[name].caught)
    assert not RULES[name].left or not found(RULES[name], RULES[name].left)


@pytest.mark.parametrize("name", RULES)
def test_the_words_that_the_glossary_replaces_are_not_used(name: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in CODE + PAGES
        for line in found(RULES[name], file.read_text())
    ]
    assert not wrong, f"say {RULES[name].instead}:\n" + "\n".join(wrong)


def test_every_word_that_the_glossary_replaces_has_a_rule() -> None:
    named = set(re.findall(r"not \*(\w+)\*", GLOSSARY))
    assert named and named <= {*RULES, "picture"}  # pictures have a test of their own


def test_names_of_code_say_image_where_pixels_are_a_modality() -> None:
    wrong = []
    for file in (f for name in IMAGE_FOLDERS for f in (ROOT / "mmvicreg" / name).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(node, "id", None) or getattr(node, "name", None) or getattr(node, "arg", None)
            if isinstance(name, str) and "picture" in name.lower():
                wrong.append(f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {name}")
    assert not wrong
