"""Every recipe runs as a user runs it, at toy size; the demo reaches what it promises.

The commands are those of README.md and docs/first-run.md.
"""

import json
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from demo_run import ROOT, blocks, commands, start
from scores import numbers

from mmvicreg.evaluation.summary import read_summary

TOY = [
    *("--batch-size", "32", "--epochs", "0.1", "--log-every", "1", "--optimizer.warmup-epochs", "0"),
    *("--image.encoder", "timm/test_resnet", "--image.weights", "", "--image.size", "32"),
]

TOY_TEXT = [
    *("--text.encoder", "gru", "--text.weights", "", "--text.vocabulary", "words.json", "--text.no-frozen"),
    *(
        "--image.projector",
        "64",
        "32",
        "--text.projector",
        "64",
        "32",
        "--image.precomputed-views",
        "0",
        "--text.precomputed-views",
        "0",
    ),
    *("--image.no-frozen", "--image.dropout", "0", "--text.dropout", "0", "--text.state-width", "32"),
]


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_demo_reaches_the_scores_of_readme(demo: Path) -> None:
    summary = read_summary(demo / "summary.json")
    row = next(
        line
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("| VICReg per branch")
    )
    ranges = [(float(low), float(high)) for low, high in re.findall(r"\(([\d.]+)–([\d.]+)\)", row)]
    found = [
        100 * numbers(summary, split, direction)["recall_at_1"]
        for split in ("held_out_concepts", "held_out_style")
        for direction in ("image_to_text", "text_to_image")
    ]
    for (low, high), score in zip(ranges, found, strict=True):
        assert low - 1 <= score <= high + 1, (ranges, found)


def test_the_demo_beats_chance_as_promised(demo: Path) -> None:
    summary = read_summary(demo / "summary.json")
    for split, times in (("held_out_concepts", 8), ("held_out_style", 50)):
        for direction in ("image_to_text", "text_to_image"):
            scores = numbers(summary, split, direction)
            assert scores["recall_at_1"] >= times * scores["chance_at_1"], (split, direction, scores)
            assert scores["recall_at_1"] <= scores["recall_at_5"] <= scores["recall_at_10"] <= 1


def test_the_demo_leaves_pictures_and_a_report_that_fetches_nothing(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    assert page.count("<svg") >= 3
    assert "data:image/webp;base64," in page
    assert 'src="http' not in page and "src='http" not in page and "@import" not in page
    names = {path.name for path in (demo / "pictures").iterdir()}
    assert {"loss.png", "held_out_style-image_to_text.png", "held_out_concepts-spectrum.png"} <= names


def test_a_run_is_evaluated_again_with_the_same_numbers(demo: Path) -> None:
    shards = f"held_out_style={ROOT / 'data/demo'}/style-*.tar"
    command = (sys.executable, "-m", "mmvicreg.cli.main", "evaluate", "runs/demo", "--data", shards)
    done = start(*command, cwd=demo.parent.parent)
    assert "R@10" in done.stdout
    again, first = (read_summary(demo / name) for name in ("evaluation.json", "summary.json"))
    assert again.split("held_out_style") == first.split("held_out_style") != {}


def test_readmes_other_commands_run(demo: Path) -> None:
    folder = demo.parent.parent
    toy = [*TOY, *TOY_TEXT]
    (folder / "words.json").write_text(json.dumps(["face", "cat", "red", "with"]))
    ran = []
    for command in commands("bash")[2:]:
        words = shlex.split(command)
        training = "recipes/demo.py" in words and "--help" not in words
        start(*words, *(toy if training else ()), cwd=folder)
        ran.append(words[0])
    assert {"python", "mmvicreg", "accelerate"} <= set(ran)


def test_the_second_command_of_the_readme_is_what_ci_runs() -> None:
    assert commands("bash")[1] == 'pip install -e ".[test]" && pytest'
    script = (ROOT / ".ci/run").read_text()
    install, run = script.rstrip().splitlines()[-3::2]
    assert install.endswith('-e ".[test]"') and run.startswith("pytest ")


def test_readmes_recipe_is_a_recipe() -> None:
    recipe = types.ModuleType("readme_recipe")
    sys.modules["readme_recipe"] = recipe
    exec(compile(blocks("python")[0], "README.md", "exec"), recipe.__dict__)
    objective = recipe.objective(recipe.Config())
    assert set(objective.regularizers) == {"image", "text"}


def toy_demo(
    out: str, *options: str, launcher: tuple[str, ...] = (sys.executable,), cwd: Path
) -> list[dict[str, Any]]:
    recipe = (str(ROOT / "recipes/demo.py"), "--out", out, *TOY, *TOY_TEXT)
    (cwd / "words.json").write_text(json.dumps(["face", "cat", "red", "with"]))
    start(*launcher, *recipe, *options, cwd=cwd)
    return log(cwd / out)


@pytest.mark.nightly
def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    one = toy_demo("one", cwd=tmp_path)
    launcher = ("accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")  # fmt: skip
    two = toy_demo("two", launcher=launcher, cwd=tmp_path)
    assert len(one) == len(two) >= 5
    states = [path.read_text() for path in (tmp_path / "two").glob("checkpoints/*/state.json")]
    assert states and all(json.loads(state)["processes"] == 2 for state in states)
    for a, b in zip(one, two, strict=True):
        assert a["step"] == b["step"]
        for name, value in a["terms"].items():
            # Sums of halves round otherwise: 1e-6 at first, and Adam makes it grow.
            near = 2e-5 if a["step"] <= 3 else 2e-3
            assert b["terms"][name] == pytest.approx(value, rel=near, abs=1e-5), (a["step"], name)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-4 if a["step"] <= 3 else 2e-2)


@pytest.mark.slow
def test_the_baseline_runs(tmp_path: Path) -> None:
    lines = toy_demo("infonce", "--alignment", "infonce", "--epochs", "0.05", cwd=tmp_path)
    assert "image-text/infonce" in " ".join(lines[-1]["terms"]).lower().replace("_", "")


@pytest.mark.slow
def test_coco_runs_at_toy_size(tmp_path: Path) -> None:
    options = (*TOY, "--train", f"{ROOT / 'data/demo'}/train-000000.tar", "--precision", "fp32", "--text.members",
               "txt",
               "--text.vocabulary", "words.json", "--image.projector", "32", "16", "--text.projector", "32", "16",
               "--text.state-width", "16", "--out", "run", "--threads", "1")  # fmt: skip
    start(sys.executable, str(ROOT / "recipes/coco_vicreg.py"), *options, cwd=tmp_path)
    assert json.loads((tmp_path / "words.json").read_text())
    assert log(tmp_path / "run")[-1]["terms"]["text/variance"] > 0


@pytest.mark.nightly
def test_processes_that_start_together_make_one_vocabulary(tmp_path: Path) -> None:
    launcher = ("accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")  # fmt: skip
    options = (*TOY, "--train", f"{ROOT / 'data/demo'}/train-000000.tar", "--precision", "fp32", "--text.members",
               "txt", "--text.vocabulary", "words.json", "--image.projector", "32", "16", "--text.projector", "32",
               "16", "--text.state-width", "16", "--out", "run", "--threads", "1", "--cpu")  # fmt: skip
    done = start(*launcher, str(ROOT / "recipes/coco_vicreg.py"), *options, cwd=tmp_path)
    made = [
        line for line in done.stderr.replace("\r", "\n").splitlines() if "read captions: 500 of 500" in line
    ]
    assert len(made) == 1, done.stderr
    assert len(json.loads((tmp_path / "words.json").read_text())) > 10
    assert json.loads(next((tmp_path / "run").glob("checkpoints/*/state.json")).read_text())["processes"] == 2
    assert not list(tmp_path.glob(".*partial"))
