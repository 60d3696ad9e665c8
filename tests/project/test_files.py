"""Files appear whole or not at all, and a folder has one owner at a time."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmvicreg.files import LOCK, LockedError, lock, write_json, write_tensors, write_text, write_with


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def fail(partial: Path) -> None:
        partial.write_text("half", encoding="utf-8")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_with(file, fail)
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_modes_are_those_of_the_umask_for_safetensors_too(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)}, metadata={"a": "b"})
        write_json(tmp_path / "a.json", {"é": 1})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [1, 1]
    assert json.loads((tmp_path / "a.json").read_text()) == {"é": 1}


def test_a_held_lock_is_refused_with_its_owner_and_freed_at_the_end(tmp_path: Path) -> None:
    with lock(tmp_path, purpose="train"):
        with (
            pytest.raises(LockedError, match=f"process {os.getpid()} on .* \\(train\\)"),
            lock(tmp_path, purpose="b"),
        ):
            pass
        assert (tmp_path / LOCK).is_file()
    assert os.listdir(tmp_path) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from mmvicreg.files import lock
with lock(Path({str(tmp_path)!r}), purpose="train"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == -9 and (tmp_path / LOCK).is_file()
    with lock(tmp_path, purpose="train"):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_the_lock_of_another_host_and_foreign_files_stay(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"pid": 1, "host": "not-" + socket.gethostname(), "time": 0}))
    with pytest.raises(LockedError, match="not-"), lock(tmp_path, purpose="train"):
        pass
    (tmp_path / LOCK).write_text("something else")
    with pytest.raises(LockedError, match="no lock file"), lock(tmp_path, purpose="train"):
        pass
    (tmp_path / LOCK).unlink()
    (tmp_path / "target").write_text("precious")
    (tmp_path / LOCK).symlink_to(tmp_path / "target")
    with pytest.raises(LockedError, match="symbolic link"), lock(tmp_path, purpose="train"):
        pass
    assert (tmp_path / "target").read_text() == "precious"


WHOLE_FOLDER = """
import os, signal, sys
from pathlib import Path
from mmvicreg.files import whole_folder

left = int(sys.argv[2])

def hook(event, arguments):
    global left
    if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or event == "open" and "w" in str(arguments[1]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
with whole_folder(Path(sys.argv[1])) as partial:
    for name in ("a", "b"):
        (partial / name).write_text("new")
"""


def test_a_folder_is_the_old_one_the_new_one_or_none_whenever_its_process_is_killed(tmp_path: Path) -> None:
    target, states, status = tmp_path / "export", [], -9
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for kill_at in range(1, 99):
        target.mkdir(exist_ok=True)
        for name in "ab":
            (target / name).write_text("old")
        command = [sys.executable, "-c", WHOLE_FOLDER, str(target), str(kill_at)]
        status = subprocess.run(command, env=environment).returncode
        states.append(
            "".join(path.read_text() for path in sorted(target.iterdir())) if target.is_dir() else "none"
        )
        if status == 0:
            break
    assert status == 0 and len(states) > 5 and set(states) == {"oldold", "none", "newnew"}
    assert [path.name for path in tmp_path.iterdir()] == ["export"]  # what the killed ones left is removed
