"""Every command takes ~, a folder called dir[1] and a path with =, and writes files with the modes of the umask."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest
from photographs import crop
from pictured_run import SHARDS

from mmvicreg.cli.main import COMMANDS, main
from mmvicreg.cli.model_options import named_splits

ODD = "~/dir[1]/a=b"
RUN, DATA, OUT = f"{ODD}/run", f"{ODD}/shards/concepts-000000.tar", f"{ODD}/out"
LABELLED = ["--train", f"{ODD}/pictures", "--test", f"{ODD}/pictures"]
CPU = ["--device", "cpu"]
QUICK = {
    "check": [DATA, "--report", f"{OUT}/check.json", "--processes", "1"],
    "pack": [f"{ODD}/pictures", f"{OUT}/packed", "--processes", "1"],
    "look": [DATA, "--out", f"{OUT}/look.html", "--run", RUN],
    "new": [f"{OUT}/recipe.py", "--train", DATA, "--validation", DATA, "--image", "webp"],
    "evaluate": [RUN, "--data", f"held={DATA}", "--out", f"{OUT}/scores.json", *CPU],
    "compare": [RUN, f"{ODD}/run-again", "--out", f"{OUT}/curves.png"],
    "embed": [RUN, DATA, f"{OUT}/rows.safetensors", *CPU],
    "search": [RUN, DATA, "red", *CPU],
}
SLOW = {
    "solve": [RUN, f"{OUT}/solved", "--train", DATA, "--validation", DATA, "--width", "4", *CPU],
    "diagnose": [RUN, "--data", DATA, "--out", f"{OUT}/diagnosis.png", "--permutations", "2", *CPU],
    "report": [RUN, "--data", DATA, "--out", f"{OUT}/report.html", *CPU],
    "classify": [RUN, *LABELLED, "--k", "1", "--out", f"{OUT}/classes.json", *CPU],
    "finetune": [RUN, f"{OUT}/tuned", *LABELLED, "--epochs", "1", "--fraction", "1", *CPU],
    "export": [RUN, f"{OUT}/exported", *CPU],
}
ELSEWHERE = {"segment": "needs masks", "explore": "serves until it is ended"}


@pytest.fixture(scope="module")
def home(pictured_run, tmp_path_factory):
    """A home folder with a run, a run beside it, a shard of 26 samples and pictures of two classes."""
    home = tmp_path_factory.mktemp("home")
    odd = home / "dir[1]" / "a=b"
    for name in ("run", "run-again"):
        shutil.copytree(pictured_run.folder, odd / name, ignore=shutil.ignore_patterns("embeddings"))
    (odd / "shards").mkdir()
    (odd / "out").mkdir()
    with tarfile.open(SHARDS.replace("*", "000000")) as source:
        with tarfile.open(odd / "shards/concepts-000000.tar", "w") as target:
            for member in [found for _, found in zip(range(78), source, strict=False)]:
                target.addfile(member, source.extractfile(member))
    for number, name in enumerate(("bird", "boat")):
        (odd / "pictures" / name).mkdir(parents=True)
        for place in range(3):
            crop(2 * place + number, width=64, height=64).save(odd / "pictures" / name / f"{place}.png")
    return home


def modes(folder: Path) -> dict[Path, int]:
    ours = [folder / "dir[1]", folder / "cache"]
    return {path: path.stat().st_mode & 0o777 for each in ours for path in each.rglob("*")}


def test_every_command_is_here():
    assert {*QUICK, *SLOW, *ELSEWHERE} == set(COMMANDS)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.nightly) for name in SLOW)])
def test_odd_paths_work_and_files_have_the_modes_that_the_umask_gives(name, home, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MMVICREG_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    before, umask = modes(home), os.umask(0o022)
    try:
        status = main([name, *({**QUICK, **SLOW}[name])])
    finally:
        os.umask(umask)
    captured = capsys.readouterr()
    assert status == 0, captured.err
    shown = [path.name for path in home.iterdir() if not path.name.startswith(".") and path.name != "cache"]
    assert shown == ["dir[1]"]  # no folder called ~
    fresh = {path: mode for path, mode in modes(home).items() if path not in before}
    wrong = {
        str(path): oct(mode) for path, mode in fresh.items() if mode != (0o755 if path.is_dir() else 0o644)
    }
    assert wrong == {}
    assert fresh or name == "search", captured.out


def test_a_file_with_an_equals_sign_in_its_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named_splits(("held=out.tar",)) == {"held": "out.tar"}
    (tmp_path / "held=out.tar").touch()
    assert named_splits(("held=out.tar",)) == {"held=out": "held=out.tar"}
