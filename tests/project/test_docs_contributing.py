"""What CONTRIBUTING.md tells a contributor to type exists, and CI runs the same script."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_make_target_of_the_page_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", PAGE))
    assert {"install", "test-fast", "test", "test-distributed", "lint", "docs"} <= named
    assert named <= targets


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_understands_its_file_and_finds_the_distributed_tests() -> None:
    done = subprocess.run(
        ["make", "-n", "test-fast", "lint", "docs"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "mkdocs build --strict" in done.stdout and "mypy" in done.stdout
    recipe = subprocess.run(
        ["make", "-n", "test-distributed"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    files = re.search(r"\$\((grep.*)\)", recipe)
    assert files is not None
    found = subprocess.run(["bash", "-c", files[1]], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert {"tests/objectives/test_objectives.py", "tests/training/test_train_processes.py"} <= set(found)


def test_every_path_of_the_page_exists() -> None:
    paths = re.findall(r"`((?:mmvicreg|tests|docs)/[\w./-]*)`", PAGE) + re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(paths) > 15
    placeholders = {path for path in paths if "NAME" in path}
    for path in {*paths} - placeholders:
        assert (ROOT / path).exists(), path
    for path in placeholders:
        assert (ROOT / path).parent.is_dir(), path


def test_continuous_integration_runs_the_script_of_the_repository() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [
        step.get("run", "").partition(" ")[0] for job in workflow["jobs"].values() for step in job["steps"]
    ]
    assert ".ci/run" in steps
    assert (ROOT / ".ci/run").stat().st_mode & 0o100


def test_the_linter_is_pinned_to_one_version_everywhere() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (pin,) = [name for name in extras["test"] if name.startswith("ruff==")]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["additional_dependencies"] for hook in hooks if "ruff" in hook["id"]] == [[pin], [pin]]
    assert "pyproject.toml" in (ROOT / ".ci/run").read_text(), "which reads the pin there"
