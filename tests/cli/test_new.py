"""``mmvicreg new`` writes a recipe that runs as it is written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from scores import numbers
from small_shards import small_shard

import mmvicreg as mm
from mmvicreg.cli.main import main
from mmvicreg.cli.new import NewConfig, recipe_text
from mmvicreg.evaluation.summary import read_summary
from mmvicreg.runs.config import import_recipe

ROOT = Path(__file__).parents[2]
HELD_OUT = str(mm.demo_data() / "style-*.tar")


@pytest.mark.slow
def test_the_recipe_trains_scores_and_reports_as_written(tmp_path: Path) -> None:
    shard = small_shard(tmp_path / "small-000.tar")
    recipe = tmp_path / "mine.py"
    given = [str(recipe), "--train", shard, "--validation", shard, "--image", "webp", "--text", "txt"]
    assert main(["new", *given]) == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "mine.py", "--batch-size", "32", "--epochs", "2", "--cpu"]
    done = forked.run(command, cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = numbers(read_summary(tmp_path / "runs/mine/summary.json"), "validation", "image_to_text")
    assert scores["recall_at_1"] > scores["chance_at_1"]
    page = (tmp_path / "runs/mine/report.html").read_text()
    assert set(re.findall(r"(\d+) steps", page)) == {"4"}  # counted in one way on the whole page
    log = [json.loads(line) for line in (tmp_path / "runs/mine/log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 4


def test_a_recipe_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.py"
    recipe.write_text("mine")
    assert main(["new", str(recipe), "--train", HELD_OUT, "--validation", HELD_OUT, "--image", "webp"]) == 1
    assert "is there already" in capsys.readouterr().err and recipe.read_text() == "mine"


def test_members_that_the_shards_do_not_hold_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"{tmp_path}/mine.py", "--train", HELD_OUT, "--validation", HELD_OUT, "--image", "jpg"]
    assert main(["new", *given]) == 1
    assert "they have json, txt, webp" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_shards_that_are_not_made_yet_are_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        f"{tmp_path}/mine.py",
        "--train",
        f"{tmp_path}/train-*.tar",
        "--validation",
        HELD_OUT,
        "--image",
        "webp",
    ]
    assert main(["new", *given]) == 0
    assert "--train: no shard matches" in capsys.readouterr().out and (tmp_path / "mine.py").is_file()


def test_any_path_becomes_a_string_of_the_recipe_and_nothing_else(tmp_path: Path) -> None:
    odd = 'a"b\\c$d\'{}\n"""+exit(1)#-*.tar'
    path = tmp_path / "odd.py"
    path.write_text(
        recipe_text(NewConfig(str(path), odd, odd, image=("jpg", "png"), text=("json:captions",)))
    )
    config = import_recipe(path).Config()
    assert (config.train, config.validation.data, config.out) == (odd, odd, "runs/odd")
    assert config.image.members == ("jpg", "png") and config.text.members == ("json:captions",)


def test_the_recipe_is_formatted_as_ours_are(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(recipe_text(NewConfig(str(path), "shards/train-*.tar", "shards/validation-*.tar")))
    command = [
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--diff",
        "--config",
        str(ROOT / "pyproject.toml"),
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(path.read_text().splitlines()) < 60


def test_readmes_recipe_is_what_the_command_writes() -> None:
    readme = (ROOT / "README.md").read_text()
    command = (
        "mmvicreg new mine.py --train 'shards/train-*.tar' --validation 'shards/validation-*.tar' --image jpg"
    )
    assert command in readme
    config = NewConfig("mine.py", "shards/train-*.tar", "shards/validation-*.tar", image=("jpg",))
    assert recipe_text(config) in readme
