"""The command line of every recipe: help in groups, every field, wrong values refused; only public names are used."""

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import forked
import pytest
import tyro

import mmvicreg as mm
from mmvicreg.cli.main import COMMANDS
from mmvicreg.runs.command_line import GROUPS
from mmvicreg.runs.config import import_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
SCREEN = 64
"""Lines of a tall terminal window."""
TOWERS = {
    "EfficientNet": "efficientnet",
    "ResNet": "resnet",
    "MiniLM": "minilm",
    "Whisper": "whisper",
    "sentence encoder": "usem3",
}
"""How a tower is called in prose, and in the encoder of a modality."""


@cache
def help_of(recipe: str) -> str:
    """What ``python recipes/RECIPE.py --help`` prints on a terminal of 120 columns."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "PYTHONUTF8": "1"}
    done = forked.run(["python", f"recipes/{recipe}.py", "--help"], cwd=ROOT, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def options(value: object, prefix: str = "") -> list[str]:
    """The option of every field, nested ones included."""
    found = []
    for item in fields(value):  # type: ignore[arg-type]
        name, inner = f"{prefix}{item.name.replace('_', '-')}", getattr(value, item.name)
        if is_dataclass(inner):
            found += options(inner, f"{name}.")
        elif inner != {} or item.name != "features":  # feature maps are given in Python
            found.append(f"--{name}")
    return found


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.slow
def test_help_shows_every_field_in_groups_of_a_screen(recipe: str) -> None:
    shown = help_of(recipe)
    groups = re.findall(r"^╭─ (\w+) options ─", shown, flags=re.MULTILINE)
    assert {"recipe", "run", "reading", "hardware", "checkpoints", "image"} <= set(groups)
    for box in re.split(r"^(?=╭─)", shown, flags=re.MULTILINE):
        assert box.count("\n") <= SCREEN, box
    named = set(re.findall(r"--[\w.-]+", shown))
    missing = [
        name for name in options(import_recipe(ROOT / f"recipes/{recipe}.py").Config()) if name not in named
    ]
    # Options of the solver are behind its own --help: solver:cca --help.
    assert [name for name in missing if not name.startswith("--solver.")] == []
    assert f"recipes/{recipe}.py" in shown.partition("Examples:")[2].partition("╭─")[0]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.slow
def test_help_names_no_tower_that_the_recipe_does_not_use(recipe: str) -> None:
    about = help_of(recipe).partition("╭─")[0]
    config = import_recipe(ROOT / f"recipes/{recipe}.py").Config()
    encoders = " ".join(str(vars(vars(config)[item.name]).get("encoder", "")) for item in fields(config)
                        if isinstance(vars(config)[item.name], mm.Modality))  # fmt: skip
    for name, encoder in TOWERS.items():
        assert name.lower() not in about.lower() or encoder in encoders, name


def test_every_plain_field_of_the_base_configurations_is_in_one_group() -> None:
    listed = [name for group in GROUPS for name in group.fields]
    assert len(listed) == len(set(listed))
    for config in (mm.TrainConfig(), mm.SolveConfig()):
        plain = {item.name for item in fields(config) if not is_dataclass(getattr(config, item.name))}
        assert plain - {"features"} <= set(listed)


@pytest.mark.parametrize(
    ("recipe", "arguments", "words"),
    [
        ("slip_like", ["--ssl", "30"], ["30", "0 to below 25"]),
        ("slip_like", ["--ssl", "25"], ["25", "0 to below 25"]),
        ("slip_like", ["--ssl=-1"], ["-1", "0 to below 25"]),
        ("coco_vicreg", ["--precision", "fp7"], ["fp7", "fp32", "bf16"]),
        ("demo", ["--batch-size", "many"], ["many", "auto"]),
        ("demo", ["--no-such-field", "1"], ["--no-such-field"]),
    ],
)
def test_wrong_values_end_with_status_2(
    recipe: str, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = import_recipe(ROOT / f"recipes/{recipe}.py").Config
    with pytest.raises(SystemExit, match="2"):
        mm.parse_command_line(config, args=arguments)
    captured = capsys.readouterr()
    assert all(word in captured.err for word in words) and "Traceback" not in captured.err


def test_a_wrong_weight_ends_the_process_before_anything_is_made(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "recipes/slip_like.py"), "--ssl", "30"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr and not list(tmp_path.iterdir())
    assert (
        done.stderr
        == "slip_like.py: ssl is 30; expected 0 to below 25: pictures and names get the rest of 25\n"
    )


def test_values_from_the_command_line_reach_their_fields() -> None:
    config = import_recipe(ROOT / "recipes/demo.py").Config
    given = ["--batch-size", "64", "--epochs", "2", "--image.size", "96", "--optimizer.name", "lars", "--cpu",
             "--style", "held.tar", "--text.members", "txt", "json:name"]  # fmt: skip
    found = mm.parse_command_line(config, args=given)
    assert (found.batch_size, found.epochs, found.image.size, found.optimizer.name) == (64, 2.0, 96, "lars")
    assert found.cpu and found.style == "held.tar" and found.text.members == ("txt", "json:name")
    assert mm.parse_command_line(config, args=[]) == config()


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_use_public_names_only(recipe: str) -> None:
    tree = ast.parse((ROOT / f"recipes/{recipe}.py").read_text())
    inner = [
        n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and "mmvicreg" in (n.module or "")
    ]
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "mm"}
    assert inner == [] and used <= set(mm.__all__)


def header(recipe: str) -> list[list[str]]:
    """The commands at the head of a recipe, in words, comments left out."""
    text = ast.get_docstring(ast.parse((ROOT / f"recipes/{recipe}.py").read_text())) or ""
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return [
        shlex.split(line, comments=True)
        for line in lines
        if line.startswith(("python ", "accelerate ", "mmvicreg "))
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_command_of_a_header_parses(recipe: str) -> None:
    commands = header(recipe)
    assert any(f"recipes/{recipe}.py" in words for words in commands)
    for words in commands:
        script = next((word for word in words if word.endswith(".py")), "")
        given = words[words.index(script) + 1 :] if script else words[2:]
        if script.startswith("recipes/"):
            mm.parse_command_line(import_recipe(ROOT / script).Config, args=given)
        elif script:
            done = subprocess.run(
                [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True
            )
            assert all(word in done.stdout for word in given if word.startswith("--")), words
        else:
            command = COMMANDS[words[1]]
            tyro.cli(vars(import_module(command.module))[command.config], args=given)
