"""Completion in a shell: commands, and the options of each."""

import subprocess
from pathlib import Path

import pytest

from mmvicreg.cli.main import main

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
$(complete -p mmvicreg | sed 's/.*-F \\([^ ]*\\).*/\\1/')
echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is written for bash."""
    path = tmp_path_factory.mktemp("completion") / "mmvicreg.bash"
    with pytest.MonkeyPatch.context() as patch, path.open("w") as file:
        patch.setattr("sys.stdout", file)
        assert main(["--completion", "bash"]) == 0
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("mmvicreg", "ev"), "evaluate"),
        (("mmvicreg", "evaluate", "--dat"), "--data"),
        (("mmvicreg", "search", "--int"), "--interactive"),
        (("mmvicreg", "pack", "--divide.v"), "--divide.validation"),
    ],
)
def test_bash_completes_commands_and_their_options(
    script: Path, words: tuple[str, ...], expected: str
) -> None:
    command = ["bash", "-c", COMPLETE, "bash", str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected], done.stderr


def test_the_script_for_zsh_has_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--completion", "zsh"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("check", "pack", "evaluate", "solve", "explore", "export"))


def test_an_unknown_shell_is_named_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, found in ((["fish"], "fish"), ([], "")):
        assert main(["--completion", *arguments]) == 2
        assert f"--completion is {found!r}; expected one of bash, zsh" in capsys.readouterr().err
