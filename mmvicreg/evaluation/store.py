"""Embeddings on disk: computed once per (weights, data), memory-mapped by every metric after that.

A store is a folder:

    VIEW.z.f32, VIEW.h.f32    float32 rows, embeddings and representations
    VIEW.json                 per row its identity and the numbers of the samples it occurs in
    keys.json                 the key of every sample, by number
    store.json                shapes, and the proof that every sample was counted once; written last

A row is a distinct item: a caption shared by several samples is one row that occurs in all of them.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmvicreg.errors import InvalidValueError, MissingFileError, UnknownNameError
from mmvicreg.evaluation.positives import Positives

FORMAT = 1
OUTPUTS = ("z", "h")


@dataclass(frozen=True)
class Proof:
    """Every sample counted once: what each process read, and a digest of what was found.

    ``ranges``: (start, stop) of the sample numbers of each process; together 0..``samples``, nothing twice.
    ``digest``: SHA-256 over (number, key) in order of number; equal for any number of processes.
    ``rejected``: samples per view whose bytes could not be used.
    """

    samples: int
    ranges: tuple[tuple[int, int], ...]
    digest: str
    rejected: Mapping[str, int]


@dataclass(frozen=True)
class EmbeddedItems:
    """The distinct items of one view: ``z`` float32 (M, D), ``h`` float32 (M, E), both memory-mapped.

    ``identities[m]`` is what the item is called (empty: only its sample), ``samples[m]`` the numbers of the
    samples it occurs in.
    """

    z: np.ndarray
    h: np.ndarray
    identities: list[str]
    samples: list[list[int]]


@dataclass(frozen=True)
class Store:
    """An opened store."""

    folder: Path
    views: dict[str, EmbeddedItems]
    keys: list[str]
    proof: Proof

    def items(self, view: str) -> EmbeddedItems:
        """The items of a view; KeyError with the views there are."""
        if view not in self.views:
            raise UnknownNameError(f"no view {view!r} in {self.folder}; it has {', '.join(self.views)}")
        return self.views[view]

    def positives(self, queries: str, items: str) -> Positives:
        """Which items of one view match which rows of another: those that share a sample."""
        return Positives.from_identities(self.items(queries).samples, self.items(items).samples)


@dataclass(frozen=True)
class EmbeddedBlock:
    """What one block of consecutive samples gives; see :func:`write_block`.

    ``items``: view -> (identity, sample numbers) of each distinct item; ``outputs``: view -> output -> float32
    rows of the same length; ``keys``: (number, key) of every sample; ``rejected``: views, once per sample.
    """

    keys: list[tuple[int, str]]
    items: Mapping[str, list[tuple[str, list[int]]]]
    outputs: Mapping[str, Mapping[str, np.ndarray]]
    rejected: list[str]


def check_names(views: Iterable[str]) -> None:
    """Raise ValueError for a name of a view or branch that is no plain file name: files are called after them.

    A run directory may come from a stranger; ``../x`` or ``/tmp/x`` as a branch would write outside the folder.
    """
    for view in views:
        if not view or view.startswith(".") or set(view) & set("/\\\0:") or len(view.encode()) > 100:
            raise InvalidValueError(
                f"branch {view!r}: files are called after branches; expected a name without / \\ : and without a dot "
                "at its start, of at most 100 bytes: rename it in the run's config.json if you trust the run"
            )


def work_folder(target: Path, *, resumed: bool = False) -> Path:
    """A folder beside ``target`` for this process alone; those of this machine's dead processes are removed.

    Two processes that make the same store at once so never write into one file. ``resumed`` takes over what a dead
    process left, of which :func:`resume_part` keeps the finished blocks; else the folder is empty.
    """
    host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{host}-{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    for old in sorted(target.parent.glob(f".{glob.escape(target.name)}.{host}-*")):
        if _is_running(int(old.name.rpartition("-")[2])):
            continue
        if resumed and not work.exists():
            old.rename(work)
        else:
            shutil.rmtree(old, ignore_errors=True)
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


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_block(part: Path, block: EmbeddedBlock) -> None:
    """Append a block to the part of a store that one process writes."""
    part.mkdir(parents=True, exist_ok=True)
    for view, outputs in block.outputs.items():
        for output, rows in outputs.items():
            with open(part / f"{view}.{output}.f32", "ab") as file:
                file.write(np.ascontiguousarray(rows, dtype=np.float32).tobytes())
    widths = {view: {name: rows.shape[1] for name, rows in o.items()} for view, o in block.outputs.items()}
    line = {"keys": block.keys, "items": block.items, "rejected": block.rejected, "widths": widths}
    with open(part / "blocks.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def join(parts: Sequence[Path], folder: Path, *, views: Iterable[str], samples: int) -> None:
    """Make one store of the parts of all processes, in order; it appears whole or not at all. Parts lie in one folder.

    Raises ValueError where a sample is missing or was counted twice.
    """
    partial = parts[0].with_name("joined")
    partial.mkdir(parents=True)
    joined = {view: _JoinedView(partial, view) for view in views}
    keys: list[tuple[int, str]] = []
    rejected: dict[str, int] = {}
    ranges = []
    for part in parts:
        first = len(keys)
        for block, outputs in _blocks(part, joined):
            keys += [(number, key) for number, key in block["keys"]]
            for view, items in block["items"].items():
                joined[view].add(items, outputs[view])
            for view in block["rejected"]:
                rejected[view] = rejected.get(view, 0) + 1
        mine = [number for number, _ in keys[first:]]
        ranges.append((mine[0], mine[-1] + 1) if mine else (0, 0))
    _check_once([number for number, _ in keys], samples)
    proof = Proof(samples, tuple(ranges), _digest(keys), rejected)
    _write(partial / "keys.json", [key for _, key in keys])
    shapes = {view: found.close() for view, found in joined.items()}
    _write(partial / "store.json", {"format": FORMAT, "views": shapes, "proof": asdict(proof)})
    move_folder(partial, folder)


def _check_once(numbers: list[int], samples: int) -> None:
    if numbers != list(range(samples)):
        missing = sorted(set(range(samples)) - set(numbers))
        twice = len(numbers) - len(set(numbers))
        raise InvalidValueError(
            f"{len(missing)} of {samples} samples were not embedded (first: {missing[:3]}), {twice} twice; "
            "did the data change while it was read? Embed again"
        )


def _digest(keys: list[tuple[int, str]]) -> str:
    digest = hashlib.sha256()
    for number, key in keys:
        digest.update(f"{number}\t{key}\n".encode())
    return digest.hexdigest()


def _blocks(part: Path, views: Iterable[str]) -> Iterable[tuple[dict[str, Any], dict[str, dict[str, bytes]]]]:
    if not (part / "blocks.jsonl").is_file():
        return  # this process had no samples
    places: dict[str, int] = {}
    with open(part / "blocks.jsonl", encoding="utf-8") as lines:
        for line in lines:
            block = json.loads(line)
            outputs: dict[str, dict[str, bytes]] = {view: {} for view in views}
            for view, widths in block["widths"].items():
                for output, width in widths.items():
                    name = f"{view}.{output}.f32"
                    size = 4 * width * len(block["items"][view])
                    with open(part / name, "rb") as file:
                        file.seek(places.get(name, 0))
                        outputs[view][output] = file.read(size)
                    places[name] = places.get(name, 0) + size
            yield block, outputs


class _JoinedView:
    """Collects the distinct rows of one view, first come, in order of the blocks."""

    def __init__(self, folder: Path, view: str) -> None:
        self.folder, self.view = folder, view
        self.identities: list[str] = []
        self.samples: list[list[int]] = []
        self.row_of: dict[str, int] = {}
        self.widths: dict[str, int] = {}
        self.files = {output: open(folder / f"{view}.{output}.f32", "wb") for output in OUTPUTS}

    def add(self, items: list[tuple[str, list[int]]], outputs: Mapping[str, bytes]) -> None:
        fresh = []
        for place, (identity, numbers) in enumerate(items):
            row = self.row_of.get(identity) if identity else None
            if row is not None:
                self.samples[row] += numbers
                continue
            if identity:
                self.row_of[identity] = len(self.samples)
            fresh.append(place)
            self.identities.append(identity)
            self.samples.append(list(numbers))
        for output, data in outputs.items():
            width = len(data) // 4 // max(1, len(items))
            self.widths[output] = self.widths.get(output) or width
            rows = np.frombuffer(data, dtype=np.float32).reshape(len(items), width)
            self.files[output].write(rows[fresh].tobytes())

    def close(self) -> dict[str, list[int]]:
        for file in self.files.values():
            file.close()
        _write(self.folder / f"{self.view}.json", {"identities": self.identities, "samples": self.samples})
        return {output: [len(self.samples), self.widths.get(output, 0)] for output in OUTPUTS}


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def open_store(folder: str | Path) -> Store:
    """Open a store; nothing but JSON and float rows is read.

    Raises FileNotFoundError where there is none, ValueError where its files do not fit together.
    """
    folder = Path(folder)
    if not (folder / "store.json").is_file():
        raise MissingFileError(f"{folder} holds no embeddings (no store.json); make them with mmvicreg embed")
    found = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    if found["format"] != FORMAT:
        raise InvalidValueError(
            f"{folder} has format {found['format']}, this version reads {FORMAT}; embed again"
        )
    views = {}
    for view, shapes in found["views"].items():
        arrays = {output: _map(folder / f"{view}.{output}.f32", shapes[output]) for output in OUTPUTS}
        listed = json.loads((folder / f"{view}.json").read_text(encoding="utf-8"))
        views[view] = EmbeddedItems(arrays["z"], arrays["h"], listed["identities"], listed["samples"])
    proof = found["proof"]
    ranges = tuple((start, stop) for start, stop in proof["ranges"])
    keys = json.loads((folder / "keys.json").read_text(encoding="utf-8"))
    return Store(folder, views, keys, Proof(proof["samples"], ranges, proof["digest"], proof["rejected"]))


def _map(path: Path, shape: Sequence[int]) -> np.ndarray:
    expected = 4 * shape[0] * shape[1]
    found = path.stat().st_size
    if found != expected:
        raise InvalidValueError(
            f"{path} has {found} bytes, {expected} expected for shape {tuple(shape)}; embed again"
        )
    if expected == 0:
        return np.zeros(tuple(shape), dtype=np.float32)
    return np.memmap(path, dtype=np.float32, mode="r", shape=tuple(shape))
