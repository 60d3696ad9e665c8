"""Write files so that a reader sees the old content or the new, never a part; and lock a folder.

Content is written to a hidden file beside the target and renamed over it. Files get the mode that the umask gives.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmvicreg.errors import InvalidValueError, UserError

if TYPE_CHECKING:
    from torch import Tensor

LOCK = ".lock"


class LockedError(UserError, OSError):
    """Another process works on the same folder."""


def file_name(text: str) -> str:
    """``text`` as a file name of this machine: in UTF-8, also where the locale has another encoding or none."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def typed_text(text: str) -> str:
    """``text`` of a command line or a terminal, whose bytes are UTF-8, also where the locale is not.

    Raises InvalidValueError for bytes that are no UTF-8 (lone surrogates).
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise InvalidValueError(f"{text!r} is not UTF-8; expected text without lone surrogates") from None


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; bytes that were no UTF-8 when read come out as they were."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON with a line break at the end, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content``, atomically."""
    write_with(path, lambda partial: _write_synced(partial, content))


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, atomically, with the mode that the umask gives (safetensors alone gives 0600)."""
    from safetensors.torch import save_file

    write_with(path, lambda partial: save_file(dict(tensors), partial, metadata=metadata))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a hidden file beside ``path``, then put it in place; an error leaves ``path`` as it was."""
    partial = partial_beside(path)
    try:
        write(partial)
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside ``path`` to fill, which takes its place when the block ends without an error.

    ``path`` is then replaced with all that is in it: whether it may be is the caller's to check.
    """
    partial = partial_beside(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(old := path.with_name(f".{path.name}.old"), ignore_errors=True)
        if path.is_dir():
            path.rename(old)
        partial.rename(path)
        shutil.rmtree(old, ignore_errors=True)  # what was there before goes when the new one is there
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_beside(path: Path) -> Path:
    """The hidden name beside ``path`` under which this process writes it; what killed processes left is removed.

    The name holds host and process: processes of other hosts may be writing the same file, and are left alone.
    """
    host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())
    start = f".{path.name}.{host}-"
    with suppress(OSError):  # no folder yet: writing says so
        for entry in os.scandir(path.parent):
            found = re.fullmatch(re.escape(start) + r"(\d{1,9})\.partial", entry.name)
            if found and not is_running(int(found[1])):
                remove = shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.unlink
                remove(entry.path)
    return path.with_name(f"{start}{os.getpid()}.partial")


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # after a power cut the name must not point to an empty file


def _umask() -> int:
    """The process's umask, from the kernel: reading it with os.umask would change it for other threads."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8", errors="replace").splitlines() if status.exists() else ():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


@contextmanager
def lock(folder: Path, *, purpose: str) -> Iterator[None]:
    """Hold the lock file of ``folder`` while the block runs.

    The file names its owner: process, host and time. A lock whose process is gone on this host is taken over. Raises
    LockedError naming the owner of a lock that is held; a lock file that is a symbolic link is refused.
    """
    path = folder / LOCK
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time(), "purpose": purpose}
    while not _take(path, owner):
        held = _owner(path)
        if held is None:
            continue  # it was released in the meantime
        if held.get("host") == owner["host"] and not is_running(int(held.get("pid", 0))):
            path.unlink(missing_ok=True)
            continue
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(held.get("time", 0))))
        raise LockedError(
            f"{folder} is in use: process {held.get('pid')} on {held.get('host')} has been at work there since {since} "
            f"({held.get('purpose')}); wait for it, choose another folder, or delete {path} if that process is gone"
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take(path: Path, owner: Mapping[str, Any]) -> bool:
    """Create the lock file whole or not at all: a link to a finished file fails where there is one."""
    made = path.with_name(f"{LOCK}.{os.getpid()}.{time.monotonic_ns()}")
    made.write_text(json.dumps(owner))
    try:
        os.link(made, path)
    except FileExistsError:
        return False
    finally:
        made.unlink(missing_ok=True)
    return True


def _owner(path: Path) -> dict[str, Any] | None:
    if path.is_symlink():
        raise LockedError(f"{path} is a symbolic link; a lock is an ordinary file: delete it")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LockedError(
            f"{path} is no lock file of this program; delete it if nothing works on {path.parent}"
        )
    return found


def is_running(pid: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
