"""Build image + text + speech (+ sound effect) shards from Tux Paint's stamps.

    pip install -e ".[data]" && python data/make_speech.py

Downloads the Debian package tuxpaint-stamps-default (160 MB) with `apt-get download` and unpacks it into
`--packages` without installing it; with `--stamps /usr/share/tuxpaint/stamps` an installed copy is used.
The stamps are GPL-2.0-or-later, so these shards are not part of the repository.

A sample is `key.webp` (on white), `key.txt` (English), `key.ogg` (the French text, spoken), `key.json` and,
for one sample in six, `key.effect.ogg` (what the thing sounds like). `val` and `test` hold concepts that
training never shows.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro
from concepts import draw, head_nouns, hold_out
from pictures import on_white
from rich.progress import track
from shard_files import refuse_existing, write_shards

PACKAGE = "tuxpaint-stamps-default"
# Letters, digits and signs are drawn in dozens of outlines; their pictures show no thing.
LEFT_OUT = "symbols"


@dataclass(frozen=True)
class Config:
    """Build image + text + speech (+ sound effect) shards from Tux Paint's stamps."""

    out: Path = Path("data/speech")
    """Where the shards go."""
    packages: Path = Path(".cache/debian")
    """Where the package is kept and unpacked; one that is there is not downloaded again."""
    stamps: Path | None = None
    """Folder of stamps to use instead of the package."""
    longest: int = 192
    """Longest side of a picture, in pixels; smaller ones are kept as they are."""
    held_out: int = 75
    """Samples in each of val and test, at least, if there are as many eligible concepts."""
    overwrite: bool = False
    """Replace shards that are there."""


@dataclass(frozen=True)
class Stamp:
    """One stamp's files and texts."""

    name: str
    picture: Path
    speech: Path
    effect: Path | None
    captions: dict[str, str]
    keywords: tuple[str, ...]


def unpack(packages: Path) -> Path:
    """Downloads and unpacks the package where needed; the folder of stamps."""
    stamps = packages / PACKAGE / "usr/share/tuxpaint/stamps"
    if stamps.is_dir():
        return stamps
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise FileNotFoundError(
                f"{program} is not on PATH: this needs Debian's tools, or --stamps FOLDER"
            )
    packages.mkdir(parents=True, exist_ok=True)
    if not list(packages.glob(f"{PACKAGE}_*.deb")):
        run("apt-get", "download", PACKAGE, cwd=packages, hint="run `apt-get update` first")
    archive = sorted(packages.glob(f"{PACKAGE}_*.deb"))[-1].name
    run("dpkg-deb", "-x", archive, PACKAGE, cwd=packages, hint=f"delete {packages / archive} and try again")
    return stamps


def run(*command: str, cwd: Path, hint: str) -> None:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode:
        raise FileNotFoundError(f"`{' '.join(command)}` failed: {result.stderr.strip()[-500:]}; {hint}")


def read_stamp(speech: Path, root: Path) -> Stamp | None:
    """The stamp that ``cat_desc_fr.ogg`` speaks of; None without a picture or without both texts."""
    base = speech.name.removesuffix("_desc_fr.ogg")
    pictures = [speech.with_name(base + suffix) for suffix in (".png", ".svg")]
    picture = next((path for path in pictures if path.is_file()), None)
    text, effect = speech.with_name(base + ".txt"), speech.with_name(base + ".ogg")
    if picture is None or not text.is_file():
        return None
    english, *lines = text.read_text(encoding="utf-8").strip().splitlines() or [""]
    translations = dict(line.split("=", 1) for line in lines if "=" in line)
    captions = {"en": english.strip(), "fr": translations.get("fr.utf8", "").strip()}
    if not all(captions.values()):
        return None
    folders = speech.relative_to(root).parts[:-1]
    name = "-".join((*folders, base)).replace(".", "_")
    return Stamp(name, picture, speech, effect if effect.is_file() else None, captions, folders)


def read_stamps(root: Path) -> list[Stamp]:
    """Every stamp spoken in French, in a fixed random order; ValueError where there are none."""
    spoken = [path for path in root.rglob("*_desc_fr.ogg") if path.relative_to(root).parts[0] != LEFT_OUT]
    stamps = [stamp for path in spoken if (stamp := read_stamp(path, root)) is not None]
    if not stamps:
        raise ValueError(
            f"{root} holds {len(spoken)} files *_desc_fr.ogg, none with a picture (.png, .svg) and a .txt "
            "with an English first line and a line fr.utf8=...; expected Tux Paint's folder of stamps"
        )
    return sorted(stamps, key=lambda stamp: draw(stamp.name))


def sample(stamp: Stamp, concept: str, split: str, longest: int) -> dict[str, str | bytes]:
    """The webdataset sample."""
    picture = io.BytesIO()
    on_white(stamp.picture.read_bytes(), longest, square=False).save(picture, "WEBP", quality=85, method=4)
    record = {
        "source": "tuxpaint",
        "concept": concept,
        "name": stamp.captions["en"],
        "keywords": stamp.keywords,
        "captions": stamp.captions,
        "speech_language": "fr",
        "split": split,
        "license": "GPL-2.0-or-later",
    }
    members: dict[str, str | bytes] = {
        "__key__": stamp.name,
        "webp": picture.getvalue(),
        "txt": stamp.captions["en"].encode(),
        "ogg": stamp.speech.read_bytes(),
        "json": json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(),
    }
    if stamp.effect is not None:
        members["effect.ogg"] = stamp.effect.read_bytes()
    return members


def main(config: Config) -> None:
    for split in ("train", "val", "test"):
        refuse_existing(config.out, f"{split}-%06d.tar", overwrite=config.overwrite)
    stamps = read_stamps(config.stamps or unpack(config.packages))
    concepts = head_nouns({stamp.captions["en"] for stamp in stamps})
    test = hold_out(concepts, config.held_out, largest=20)
    rest = {name: concept for name, concept in concepts.items() if concept not in test}
    val = hold_out(rest, config.held_out, largest=20)
    splits: dict[str, list[Stamp]] = {"train": [], "val": [], "test": []}
    for stamp in stamps:
        concept = concepts[stamp.captions["en"]]
        splits["test" if concept in test else "val" if concept in val else "train"].append(stamp)

    def samples(split: str) -> Iterator[dict[str, str | bytes]]:
        for stamp in track(splits[split], description=f"{split:5}"):
            yield sample(stamp, concepts[stamp.captions["en"]], split, config.longest)

    for split, members in splits.items():
        paths = write_shards(config.out, f"{split}-%06d.tar", samples(split), per_shard=250)
        effects = sum(stamp.effect is not None for stamp in members)
        size = sum(path.stat().st_size for path in paths) / 1e6
        print(f"{split}: {len(members)} samples, {effects} with a sound effect, {size:.1f} MB")


if __name__ == "__main__":
    main(tyro.cli(Config))
