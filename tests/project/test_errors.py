"""An error that names its next move is printed alone; a bug keeps its traceback."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

import mmvicreg as mm
from mmvicreg.errors import UnknownNameError, UserError, show_messages_alone
from mmvicreg.runs.checkpoint import read_position

NOTHING: dict[str, Any] = {}


def raised(function: Callable[[], Any]) -> BaseException:
    """What a call raises."""
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_refusals_are_told_from_bugs(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"step": 1}))
    config = toy.Config(train=toy.write_shards(tmp_path / "data"), out=str(tmp_path / "run"))
    cases: list[tuple[Callable[[], Any], bool]] = [
        (lambda: mm.open_index("/no/such.tar"), True),
        (lambda: mm.train(mm.TrainConfig(), lambda config: mm.Objective(mm.Invariance(), {})), True),
        (lambda: mm.train(config, lambda config: NOTHING["a user's bug"]), False),
        (lambda: read_position(tmp_path), False),  # a KeyError that nobody wrote a message for
        (lambda: (_ for _ in ()).throw(ValueError("elsewhere")), False),
    ]
    for function, expected in cases:
        error = raised(function)
        assert isinstance(error, UserError) == expected, repr(error)
    assert str(UnknownNameError("no view 'a'; choose b")) == "no view 'a'; choose b"


@pytest.mark.slow
def test_a_recipe_with_a_bad_argument_ends_with_the_message_alone(tmp_path: Path) -> None:
    command = [sys.executable, toy.__file__, "--train", "/no/such.tar", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "MissingFileError: " in done.stderr and "/no/such.tar" in done.stderr


def test_whoever_asks_for_tracebacks_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setenv("MMVICREG_TRACEBACK", "1")
    show_messages_alone()
    assert sys.excepthook is sys.__excepthook__
    monkeypatch.setenv("MMVICREG_TRACEBACK", "")
    show_messages_alone()
    assert sys.excepthook is not sys.__excepthook__
