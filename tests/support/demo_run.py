"""The demo, run once for a whole test session, on however many processes pytest has."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]


def start(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment in ``cwd``; its output is shown where it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if forked.can_run(command):
        done = forked.run(command, cwd=cwd, environment=environment, timeout=900)
    else:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def blocks(language: str) -> list[str]:
    """The fenced blocks of README in one language."""
    page = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def commands(language: str) -> list[str]:
    """Every command line of README's blocks, comments left out."""
    lines = [line.partition("  #")[0].strip() for block in blocks(language) for line in block.splitlines()]
    return [line for line in lines if line]


def workplace(folder: Path) -> Path:
    """``folder`` with what a clone of the repository has: recipes and data."""
    for name in ("recipes", "data"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory that the first command of README.md (and of docs/first-run.md) makes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            install, _, command = commands("bash")[0].partition(" && ")
            assert install == 'pip install -e ".[demo]"'
            folder.mkdir()
            try:
                start(*shlex.split(command), cwd=workplace(folder))
            except BaseException:
                shutil.rmtree(folder)
                raise
    return folder / "runs/demo"
