"""The folder that a store, or a file of features, is written in before it is whole: kept where a process is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mmvicreg.files import is_running


def work_folder(target: Path, *, resumed: bool = False) -> Path:
    """A folder beside ``target`` for this process alone; those of this machine's dead processes are removed.

    Two processes that make the same store at once so never write into one file. ``resumed`` takes over what a dead
    process left, of which :func:`resume_part` keeps the finished blocks; else the folder is empty.
    """
    host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())
    target.parent.mkdir(parents=True, exist_ok=True)
    start = f".{target.name}.{host}-"
    work = target.with_name(f"{start}{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    for name in sorted(os.listdir(target.parent)):
        # The whole name is compared: the folders of a host "node-1" are not those of a host "node".
        found = re.fullmatch(re.escape(start) + r"(\d{1,9})", name)
        if found is None or is_running(int(found[1])):
            continue
        if resumed and not work.exists():
            with suppress(FileNotFoundError):  # another process has taken it over meanwhile
                os.rename(target.with_name(name), work)
        else:
            shutil.rmtree(target.with_name(name), ignore_errors=True)
    work.mkdir(exist_ok=True)
    return work


def keep_parts(work: Path, parts: Sequence[Path]) -> None:
    """Remove from a folder that was taken over what another number of processes wrote, and an unfinished store."""
    for found in work.iterdir():
        if found not in parts:
            shutil.rmtree(found, ignore_errors=True)


def resume_part(part: Path) -> int:
    """The number of finished blocks in a part that was taken over; what was written after them is cut off."""
    lines = part / "blocks.jsonl"
    if not lines.is_file():
        shutil.rmtree(part, ignore_errors=True)
        return 0
    whole = lines.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    os.truncate(lines, len(whole))
    blocks = [json.loads(line) for line in whole.splitlines()]
    sizes: dict[str, int] = {}
    for block in blocks:
        for view, widths in block["widths"].items():
            for output, width in widths.items():
                name = f"{view}.{output}.f32"
                sizes[name] = sizes.get(name, 0) + 4 * width * len(block["items"][view])
    for file in part.glob("*.f32"):
        os.truncate(file, sizes.get(file.name, 0))
    return len(blocks)


def move_folder(work: Path, target: Path) -> None:
    """Put a finished folder in place, whole; where another process has made the same one meanwhile, that one stays."""
    try:
        os.replace(work, target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(work, ignore_errors=True)
