"""Every command and every snippet of README and docs/ runs as it is printed, and prints what is shown under it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import page_blocks
import pytest
from demo_run import workplace

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LANGUAGES = {"python", "bash", "console", "text", "json", "toml", "mermaid"}


def found(page: Path) -> list[page_blocks.Block]:
    """The blocks of a page."""
    return list(page_blocks.blocks(page.read_text(encoding="utf-8")))


RUN = [
    page for page in PAGES if any(b.runs and b.language in ("python", "bash", "console") for b in found(page))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    workplace(tmp_path)
    if any("runs/demo" in block.body for block in found(page) if block.runs):
        demo = request.getfixturevalue("demo")
        shutil.copytree(demo, tmp_path / "runs/demo", ignore=shutil.ignore_patterns("features"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["MMVICREG_CACHE"] = str(tmp_path / "cache")
    command = [sys.executable, str(ROOT / "tests/support/page_blocks.py"), str(page)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_what_it_is_and_who_runs_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(found(page)), "a fence is not closed, or stands in a list"
    for block in found(page):
        assert block.language in LANGUAGES, f"line {block.line}: the language is {block.language!r}"
        if block.mark.startswith("run by "):
            test = (ROOT / block.mark.removeprefix("run by ")).read_text()
            commands = re.findall(r"^mmvicreg (\w+)|-m mmvicreg\S*\.(\w+)", block.body, flags=re.MULTILINE)
            assert page.name in test or (commands and all((a or b) in test for a, b in commands))
    outside = page_blocks.FENCE.sub("", text)
    hidden = re.findall(r"^ {4,}(?:mmvicreg|python|accelerate|pip) .*", outside, flags=re.MULTILINE)
    assert not hidden, "commands stand in a bash or console block, where a test finds them"


SHOWN = "step 3: loss 1.00\n...\n| recall | 12.5 |\nin 3.2 s, 120 samples/s\n"


@pytest.mark.parametrize(
    ("printed", "right"),
    [
        ("step 3: loss 1.04\nmore\nlines\n| recall |  12.5 |\nin 99 s, 1 samples/s\n", True),
        ("step 3: loss 1.5\nmore\n| recall | 12.5 |\nin 3.2 s, 120 samples/s\n", False),
        ("step 3: gain 1.00\n| recall | 12.5 |\nin 3.2 s, 120 samples/s\n", False),
        ("step 3: loss 1.00\n| recall | 12.5 |\n", False),
        ("step 3: loss 1.00\n| recall | 12.5 |\nin 3.2 s, 120 samples/s\nand more\n", False),
    ],
)
def test_an_output_that_is_not_the_one_shown_is_noticed(printed: str, right: bool) -> None:
    assert (page_blocks.difference(SHOWN, printed) == "") == right


@pytest.mark.parametrize(
    "body",
    [
        "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n",
        "```bash\ntrue\nfalse\ntrue\n```\n",
        "```console\n$ echo one\ntwo\n```\n",
        "```python\nraise ValueError\n```\n",
    ],
)
def test_a_page_that_is_wrong_fails(body: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(body)
    with pytest.raises((AssertionError, ValueError)):
        page_blocks.Page(tmp_path / "page.md").run()
