"""One shard of a packing: its plan, its writing, and the file that says what was left out of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from mmvicreg.errors import InvalidValueError
from mmvicreg.files import write_json
from mmvicreg.modalities.decoding.formats import is_image
from mmvicreg.preparation.records import Content, LeftOut, Record, image_format


@dataclass(frozen=True)
class Encoding:
    """How pictures are stored: the options ``resize``, ``encode`` and ``quality`` of the command."""

    resize: int = 0
    encode: str = "keep"
    quality: int = 90


@dataclass(frozen=True)
class ShardJob:
    """One shard to write: where, its records with their keys, and the file beside that keeps its state."""

    path: str
    state: Path
    keys: tuple[str, ...]
    records: tuple[Record, ...]
    encoding: Encoding

    def digest(self) -> str:
        """Hash of everything the shard is made from: keys, captions, fields, and size and time of every file."""
        found = hashlib.sha256()
        for key, record in zip(self.keys, self.records, strict=True):
            described = {name: value for name, value in vars(record).items() if name != "members"}
            found.update(repr((key, sorted(described.items()))).encode("utf-8", "surrogateescape"))
            for suffix, content in record.members.items():
                found.update(f"{suffix} {_stamp(content)}".encode())
        return found.hexdigest()

    def done(self) -> bool:
        """Whether the shard is there, made from the same, with nothing left out."""
        state = _read_state(self.state)
        return os.path.exists(self.path) and state == {"digest": self.digest(), "left_out": []}


def _stamp(content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    status = content.stat() if content.exists() else None
    return f"{status.st_size} {status.st_mtime_ns}" if status else "missing"


def _read_state(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def state_folder(output: str, prefix: str) -> Path:
    """The hidden folder beside the shards that keeps the options of a packing and what was left out of each shard."""
    return Path(output) / f".{prefix}-packing"


def left_out_of(job: ShardJob) -> list[LeftOut]:
    """What was left out of a shard that is written, in order."""
    found = _read_state(job.state).get("left_out", [])
    assert isinstance(found, list)
    return [LeftOut(**each) for each in found]


def plan_shards(
    parts: Mapping[str, Iterable[Record]],
    output: str,
    prefix: str,
    *,
    samples: int,
    megabytes: float,
    encoding: Encoding,
) -> list[ShardJob]:
    """The shards of every part. Keys are PART_NAME; of names that give the same key the later ones get a number."""
    jobs = []
    for part, records in parts.items():
        for number, (keys, held) in enumerate(_cut(part, records, samples, megabytes)):
            name = f"{part}-{number:06d}"
            state = state_folder(output, prefix) / f"{name}.json"
            jobs.append(
                ShardJob(os.path.join(output, f"{name}.tar"), state, tuple(keys), tuple(held), encoding)
            )
    return jobs


def _cut(
    part: str, records: Iterable[Record], samples: int, megabytes: float
) -> Iterator[tuple[list[str], list[Record]]]:
    limit = megabytes * 1e6 or float("inf")
    used = set[str]()
    keys, held, size = list[str](), list[Record](), 0
    for record in records:
        bytes_ = sum(_size(content) for content in record.members.values())
        if held and (len(held) >= samples or size + bytes_ > limit):
            yield keys, held
            keys, held, size = [], [], 0
        keys.append(_key(part, record.name, used))
        held.append(record)
        size += bytes_
    if held:
        yield keys, held


def _key(part: str, name: str, used: set[str]) -> str:
    plain = (
        "".join(c if c.isprintable() else "_" for c in f"{part}_{name}")
        .replace(os.sep, "_")
        .replace(".", "_")
    )
    key, number = plain, 1
    while key in used:
        number += 1
        key = f"{plain}_{number}"
    used.add(key)
    return key


def _size(content: Content) -> int:
    if isinstance(content, bytes):
        return len(content)
    return os.path.getsize(content) if content.exists() else 0


def write_shard(job: ShardJob) -> None:
    """Write one shard and rename it when whole; what is left out is saved before."""
    from webdataset import TarWriter

    left_out = list[LeftOut]()
    digest = job.digest()  # before the files are read: a later change is seen by the next run
    temporary = f"{job.path}.{os.getpid()}.part"
    try:
        with open(temporary, "wb") as file, TarWriter(file) as writer:
            for key, record in zip(job.keys, job.records, strict=True):
                try:
                    members = dict(_member(s, c, job.encoding) for s, c in record.members.items())
                except (OSError, ValueError, Image.DecompressionBombError) as error:
                    left_out.append(LeftOut(record.file, str(error), record.rows[0] if record.rows else None))
                    continue
                writer.write({"__key__": key, **members, **_described(record)})
        Path(job.path).unlink(missing_ok=True)  # an older one must never stand beside the new state
        write_json(job.state, {"digest": digest, "left_out": [asdict(each) for each in left_out]})
        os.replace(temporary, job.path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _described(record: Record) -> dict[str, bytes]:
    """The members txt (first caption), cls (class number, or a list) and json (everything else)."""
    about: dict[str, object] = {"file": record.file} if record.file else {}
    if record.rows:
        about |= {"row": record.rows[0]} if len(record.rows) == 1 else {"rows": list(record.rows)}
    about |= {"captions": list(record.captions)} if len(record.captions) > 1 else {}
    about |= {name: value for name, value in record.about.items() if name not in about}
    members = {"json": json.dumps(about, ensure_ascii=False, default=str).encode("utf-8", "surrogateescape")}
    if record.captions:
        members["txt"] = record.captions[0].encode("utf-8", "surrogateescape")
    if record.labels:
        numbers = [int(label) for label in record.labels]
        members["cls"] = json.dumps(numbers if len(numbers) > 1 else numbers[0]).encode()
    return members


def _member(suffix: str, content: Content, encoding: Encoding) -> tuple[str, bytes]:
    data = content if isinstance(content, bytes) else content.read_bytes()
    if not is_image(suffix):
        return suffix, data
    if not data:
        raise InvalidValueError("an empty picture")
    try:
        image_format(data)
    except (OSError, ValueError, SyntaxError):
        raise InvalidValueError(f"not a picture: its bytes begin {data[:12]!r}") from None
    if encoding.encode == "keep" and not encoding.resize:
        return suffix, data
    return _encode(suffix, data, encoding)


def _encode(suffix: str, data: bytes, encoding: Encoding) -> tuple[str, bytes]:
    """Decode by the documented rules, shrink, encode; untouched where neither is needed."""
    from mmvicreg.modalities.decoding.pixels import decode

    own = {"jpeg": "jpg", "tif": "tiff"}.get(suffix, suffix)
    target = encoding.encode if encoding.encode != "keep" else own
    image = Image.fromarray(decode(data).array)
    shorter = min(image.size)
    if encoding.resize and shorter > encoding.resize:
        width, height = (max(1, round(side * encoding.resize / shorter)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    elif target == own:
        return suffix, data
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "JPEG"}.get(target, target.upper()), quality=encoding.quality)
    return target, buffer.getvalue()
