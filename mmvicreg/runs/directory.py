"""The run directory as training writes it: what the run is, whether it may be continued, its configuration and log."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

from mmvicreg.errors import InvalidValueError
from mmvicreg.files import lock, write_json, write_text
from mmvicreg.modalities.modality import modalities_of
from mmvicreg.runs.checkpoint import complete_checkpoints
from mmvicreg.runs.config import TrainConfig, differences, to_json
from mmvicreg.runs.run import CHECKPOINTS, CONFIG, LOG, line_step, read_config
from mmvicreg.shards.locations import redact

PACKAGES = tuple("torch torchvision timm transformers open_clip_torch accelerate numpy mmvicreg".split())


@dataclass(frozen=True)
class RunDescription:
    """Everything that decides what a run computes; config.json holds it."""

    config: dict[str, Any]
    """the configuration, as JSON values"""
    views: dict[str, str]
    """the branch of each view"""
    readers: dict[str, str]
    """the modality that reads each view"""
    objective: dict[str, Any]
    """see :func:`mmvicreg.objectives.description.describe_objective`"""
    sources: dict[str, str]
    """hash of the source of every class that is not this package's, by name"""

    def to_json(self) -> dict[str, Any]:
        """The content of config.json."""
        return dict(vars(self))


def describe_run(
    config: TrainConfig, objective: dict[str, Any], *, classes: Iterable[type] = ()
) -> RunDescription:
    """``objective``: its description; ``classes``: those it is made of, whose source is hashed if it is a user's."""
    used = (type(config), *(type(modality) for modality in modalities_of(config).values()), *classes)
    sources = {each.__qualname__: _source_hash(each) for each in used if not _is_own(each)}
    return RunDescription(to_json(config), config.views(), config.readers(), objective, sources)


def _is_own(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("mmvicreg", "torch")


def _source_hash(cls: type) -> str:
    try:
        return hashlib.sha256(inspect.getsource(cls).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""  # defined in an interactive session


class Destination(Protocol):
    """The fields of a configuration that say where its run goes."""

    @property
    def out(self) -> str: ...
    @property
    def resume(self) -> Literal["auto", "never", "restart"]: ...
    @property
    def allow_change(self) -> tuple[str, ...]: ...


def check_folder(config: Destination, *, given: dict[str, Any] | None = None) -> None:
    """Raise ValueError if the run directory of ``config`` holds something else, or a run that may not be continued
    with this configuration (``given``: as JSON values, where it is more than the fields of ``config``). Changes
    nothing."""
    folder = Path(config.out)
    if folder.exists() and not folder.is_dir():
        raise InvalidValueError(f"--out {str(folder)!r} is a file; choose another --out")
    if not (folder / CONFIG).is_file():
        # A run that was killed before it wrote its configuration leaves hidden files only.
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise InvalidValueError(f"{folder} is not empty and holds no run; choose another --out")
    elif config.resume == "never":
        raise InvalidValueError(
            f"{folder} holds a run; choose another --out, or --resume auto to continue it"
        )
    elif is_continued(config):
        _refuse(
            folder,
            differences(read_config(folder)["config"], given or to_json(config), allowed=config.allow_change),
        )


def is_continued(config: Destination) -> bool:
    """Whether the run directory holds a checkpoint that this start continues."""
    folder = Path(config.out)
    found = (folder / CONFIG).is_file() and complete_checkpoints(folder / CHECKPOINTS)
    return bool(found) and config.resume == "auto"


def check_continuation(folder: Path, description: RunDescription, *, allowed: Iterable[str]) -> list[str]:
    """Raise ValueError if the run in ``folder`` has another objective, other views or other readers; changes nothing.

    Returns a warning for each class of the user's whose source changed: its fields are equal, what it computes may
    not be.
    """
    saved = read_config(folder)
    given = description.to_json()
    parts = {"objective": "objective", "views": "views()", "readers": "readers()"}
    before = {label: saved.get(name, {}) for name, label in parts.items()}
    _refuse(
        folder, differences(before, {label: given[name] for name, label in parts.items()}, allowed=allowed)
    )
    return [
        f"the source of {name} changed since the run was started: check that it still computes the same"
        for name, digest in saved.get("sources", {}).items()
        if description.sources.get(name, digest) != digest
    ]


def _refuse(folder: Path, found: list[str]) -> None:
    if found:
        listed = "\n  ".join(found)
        raise InvalidValueError(
            f"{folder} holds a run of another configuration (saved -> given):\n  {listed}\n"
            "choose another --out, set these fields back to continue it, --allow-change FIELD to continue all the "
            "same, or --resume restart to move it aside"
        )


def move_aside(config: Destination) -> None:
    """Rename the run directory if it holds a run and ``config.resume`` is "restart"."""
    folder = Path(config.out)
    if config.resume == "restart" and (folder / CONFIG).is_file():
        with lock(folder, purpose="moving the run aside"):
            pass  # nobody trains there
        folder.rename(folder.with_name(f"{folder.name}-before-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"))


def begin(folder: Path, description: RunDescription) -> None:
    """Write config.json and environment.json."""
    write_description(folder, description)
    write_json(folder / "environment.json", environment())


def write_description(folder: Path, description: RunDescription) -> None:
    """Write config.json."""
    write_json(folder / CONFIG, description.to_json())


def cut_log(folder: Path, step: int) -> None:
    """Drop log lines of steps after ``step``: a continued run writes them again."""
    file = folder / LOG
    if not file.is_file():
        return
    kept = [line for line in file.read_text(encoding="utf-8").splitlines() if line_step(line) <= step]
    write_text(file, "".join(line + "\n" for line in kept))


def environment() -> dict[str, Any]:
    """Versions, revision, command and machine that a run was made with."""
    import torch

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *map(redact, sys.argv[1:])],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _revision(),
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        "cpus": os.cpu_count(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def saved_batch_size(folder: Path) -> int | None:
    """The batch size that "auto" was resolved to in the run of ``folder``; None if there is no run."""
    if not (folder / CONFIG).is_file():
        return None
    found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["config"].get("batch_size")
    return found if isinstance(found, int) else None
