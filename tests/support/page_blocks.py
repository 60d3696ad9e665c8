"""Runs the code of a documentation page as a reader would, from top to bottom, and compares the outputs it shows.

    python tests/support/page_blocks.py docs/own-loop.md          (in the folder to work in)

A fenced block is

- ``python``: run, in one namespace for the page; with ``title="x.py"`` it is written to that file instead
- ``bash``: run by bash, stopping at the first command that fails
- ``console``: lines that begin with ``$`` are run; the other lines are the output they must print
- ``text`` directly after a python or bash block: the output that block must print
- anything else: shown only

Plain ``mmvicreg`` and ``python SCRIPT`` commands run in forks of a process that has imported the package (forked.py);
every other command is started by bash.

A comment before a block changes that: ``<!-- not run: REASON -->``, or ``<!-- run by tests/... -->`` where another test
runs it. A python block that imports a library of OPTIONAL that is not installed is skipped.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import forked

OPTIONAL = {
    "lightning",
    "pytorch_lightning",
    "stable_pretraining",
    "sentence_transformers",
    "lightly",
    "clip_benchmark",
}
FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<head>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?")
MACHINE = re.compile(r"\d[\d.,]* ?(?:ms|s|min|minutes|seconds|samples/s|MB|GB|images/s|it/s)\b")
"""Times, rates and sizes: they depend on the machine."""


@dataclass(frozen=True)
class Block:
    """One fenced block: where it begins, its language and title, and the comment before it."""

    line: int
    language: str
    title: str
    mark: str
    body: str

    @property
    def runs(self) -> bool:
        """Whether this module runs it; a mark says who does otherwise."""
        return not self.mark.startswith(("not run: ", "run by "))


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    for found in FENCE.finditer(text):
        language, _, rest = found["head"].strip().partition(" ")
        title = re.search(r'title="([^"]*)"', rest)
        line = text.count("\n", 0, found.start("head")) + 1
        yield Block(line, language, title[1] if title else "", found["mark"] or "", found["body"])


def missing(code: str) -> set[str]:
    """Libraries of OPTIONAL that ``code`` imports and that are not installed."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return {name for name in names & OPTIONAL if util.find_spec(name) is None}


def difference(expected: str, found: str, *, tolerance: float = 0.1) -> str:
    """What is wrong with an output, or nothing. ``...`` stands for anything, blank lines and repeated spaces do not
    count, numbers may differ by ``tolerance`` (relative) or their last digit; times, rates and sizes by any factor."""
    shown = [" ".join(line.split()) for line in expected.splitlines() if line.strip()]
    printed = [" ".join(line.split()) for line in found.splitlines() if line.strip()]
    at = 0
    for number, line in enumerate(shown):
        skips = number > 0 and shown[number - 1] == "..."
        if line == "...":
            continue
        while at < len(printed) and skips and not _alike(line, printed[at], tolerance):
            at += 1
        if at >= len(printed) or not _alike(line, printed[at], tolerance):
            got = printed[at] if at < len(printed) else "the end of the output"
            return f"expected {line!r}, found {got!r}"
        at += 1
    ended = at == len(printed) or (shown and shown[-1] == "...")
    return "" if ended else f"expected the end of the output, found {printed[at]!r}"


def _alike(shown: str, printed: str, tolerance: float) -> bool:
    shown, printed = (MACHINE.sub("TIME", line) for line in (shown, printed))
    pieces = [re.escape(NUMBER.sub("#", piece)) for piece in shown.split("...")]
    if not re.fullmatch(".*".join(pieces), NUMBER.sub("#", printed)):
        return False
    if "..." in shown:
        return True  # which number is which is not known
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(_near(*pair, tolerance) for pair in pairs)


def _near(shown: str, printed: str, tolerance: float) -> bool:
    a, b = (float(value.replace(",", "")) for value in (shown, printed))
    decimals = len(shown.partition(".")[2]) if "." in shown else None
    last_digit = 0.0 if decimals is None else 1.01 * 10.0**-decimals
    return abs(a - b) <= max(tolerance * max(abs(a), abs(b)), last_digit)


class Page:
    """A page while it is run: the namespace of its python blocks and what the last block printed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.namespace: dict[str, Any] = {"__name__": "page"}
        self.printed: str | None = None

    def run(self) -> None:
        """Every block in order; raises AssertionError or what a block raises, with the line of the page."""
        for block in blocks(self.path.read_text(encoding="utf-8")):
            try:
                self._block(block)
            except BaseException as error:
                error.add_note(f"{self.path.name}, the block of line {block.line}")
                raise

    def _block(self, block: Block) -> None:
        printed, self.printed = self.printed, None
        if not block.runs:
            return
        if block.language == "python" and block.title:
            Path(block.title).write_text(block.body, encoding="utf-8")
        elif block.language == "python":
            self.printed = self._python(block)
        elif block.language == "bash":
            self.printed = shell(block.body)
        elif block.language == "console":
            console(block.body)
        elif block.language == "text" and printed is not None:
            wrong = difference(block.body, printed)
            assert not wrong, f"{wrong}\nall of it:\n{printed}"

    def _python(self, block: Block) -> str | None:
        absent = missing(block.body)
        if absent:
            print(f"line {block.line}: skipped without {', '.join(sorted(absent))}")
            return None
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile("\n" * block.line + block.body, self.path.name, "exec"), self.namespace)
        return output.getvalue()


PLAIN = re.compile(r"""(mmvicreg|python [\w./-]+\.py)( +('[^']*'|"[^"$`\\\\]*"|[\w./=:+,-]+))*( +\#.*)?""")
"""A command in which bash expands nothing."""
LIMIT = 550
"""seconds of a command"""


def shell(command: str) -> str:
    """What a command prints; AssertionError if it fails."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"NO_COLOR": "1", "COLUMNS": "120"}
    lines = [line.strip() for line in command.replace("\\\n", " ").splitlines() if line.strip()]
    if not all(PLAIN.fullmatch(line) for line in lines):
        return _printed(
            subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                env=environment,
                capture_output=True,
                text=True,
                timeout=LIMIT,
            )
        )
    printed = ""
    for line in lines:
        words = shlex.split(line, comments=True)
        printed += _printed(forked.run(words, cwd=Path.cwd(), environment=environment, timeout=LIMIT))
    return printed


def _printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}\nstatus {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def console(body: str) -> None:
    """Run each ``$ command`` of a console block and compare the lines that follow it with what it prints."""
    for step in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        lines = step.splitlines(keepends=True)
        end = next((n for n, line in enumerate(lines) if not line.rstrip().endswith("\\")), len(lines) - 1)
        command, expected = "".join(lines[: end + 1]), "".join(lines[end + 1 :])
        wrong = difference(expected, printed := shell(command)) if expected.strip() else ""
        assert not wrong, f"$ {command}{wrong}\nall of it:\n{printed}"


if __name__ == "__main__":
    Page(Path(sys.argv[1])).run()
