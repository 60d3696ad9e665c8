"""The public names are typed: mypy and pyright know them after an ordinary and after an editable installation."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

import mmvicreg as mm

ROOT = Path(__file__).parents[2]
RIGHT = """
import mmvicreg as mm

config: mm.TrainConfig = mm.TrainConfig(train="a.tar", batch_size="auto")
regularizer: mm.Regularizer = mm.VICReg(variance=25.0, covariance=1.0)
image: mm.ImageModality = mm.ImageModality(encoder="timm/resnet50", projector=(64, 64))
"""
WRONG = {
    "a name that does not exist": "mm.this_does_not_exist",
    "a field of another type": 'mm.VICReg(variance="much")',
    "a field that does not exist": "mm.ImageModality(pixels=224)",
    "a result of another type": "text: str = mm.TrainConfig()",
}


@pytest.fixture(scope="module", params=["ordinary", "editable"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment that holds this package alone."""
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, with_pip=False)
    interpreter = str(folder / "bin/python")
    hook = "build_editable" if request.param == "editable" else "build_wheel"
    build = f"from hatchling.build import {hook}; print({hook}({str(folder)!r}))"
    wheel = folder / run(sys.executable, "-c", build, cwd=ROOT).splitlines()[-1]
    run(sys.executable, "-m", "pip", "--python", interpreter, "install", "--no-deps", str(wheel), cwd=folder)
    return interpreter


def run(*command: str, cwd: Path) -> str:
    """What a command prints."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def errors(checker: str, file: Path, python: str) -> list[int]:
    """The numbers of the lines that a type checker finds wrong in a user's file."""
    option = {"mypy": "--python-executable", "pyright": "--pythonpath"}[checker]
    command = [sys.executable, "-m", checker, option, python, file.name]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [line.partition(f"{file.name}:")[2] for line in done.stdout.splitlines() if "error" in line]
    return [int(line.split(":")[0]) for line in found if line]


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_users_file_is_checked_against_the_public_names(checker: str, python: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(RIGHT + "\n".join(WRONG.values()) + "\n")
    first = RIGHT.count("\n") + 1
    assert errors(checker, file, python) == list(range(first, first + len(WRONG)))


def test_an_installed_package_brings_the_demonstrations_shards(python: str, tmp_path: Path) -> None:
    folder = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    # The environment has no dependencies: its package is imported by an interpreter that has them.
    code = f"import site, sys; own = list(sys.path); site.addsitedir({folder!r}); "
    code += "sys.path[:] = [path for path in sys.path if path not in own] + own; import mmvicreg as mm"
    find = "print(mm.__file__, mm.demo_data(), sep=chr(10))"
    package, shards = run(sys.executable, "-I", "-c", f"{code}; {find}", cwd=tmp_path).splitlines()
    installed = Path(folder) in Path(package).parents
    assert Path(shards) == (Path(package).parent / "demo/data" if installed else ROOT / "data/demo")
    names = {path.name for path in Path(shards).glob("*.tar")}
    assert names == {path.name for path in (ROOT / "data/demo").glob("*.tar")}


def test_every_public_name_can_be_imported() -> None:
    for name in mm.__all__:
        assert getattr(mm, name) is not None
    with pytest.raises(AttributeError, match="this_does_not_exist"):
        mm.this_does_not_exist  # type: ignore[attr-defined] # noqa: B018


def test_no_public_name_is_that_of_a_module() -> None:
    modules = {path.stem for path in (ROOT / "mmvicreg").iterdir() if not path.name.startswith("_")}
    assert not modules & set(mm.__all__)  # importing mmvicreg.x replaces the attribute x of mmvicreg
