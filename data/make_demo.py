"""Build the embedded demo shards: emoji in four styles with their names in 14 languages.

    pip install -e ".[data]" && python data/make_demo.py --overwrite

Takes about two minutes and downloads 60 MB of npm packages (needs `npm`). Sources, licences and the
members of a sample are described in data/demo/README.md.

Splits: `train`; `concepts` (pictures whose concept no training picture shows, in the training styles);
`style` (concepts seen in training, in a style that training never sees).
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro
from concepts import draw, head_nouns, hold_out
from pictures import on_white
from PIL import Image
from rich.progress import track
from shard_files import refuse_existing, write_shards

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "pl", "pt", "ru", "tr", "zh")
TRAINED_STYLES = ("fluent-3d", "fluent-flat", "fluent-modern")
UNSEEN_STYLE = "noto"
PACKAGES = {
    "fluent-3d": ("@lobehub/fluent-emoji-3d", "1.1.0", "MIT"),
    "fluent-flat": ("@lobehub/fluent-emoji-flat", "1.1.0", "MIT"),
    "fluent-modern": ("@lobehub/fluent-emoji-modern", "1.0.0", "MIT"),
    "noto": ("@iconify-json/noto", "1.2.9", "Apache-2.0"),
    "annotations": ("cldr-annotations-full", "48.2.0", "Unicode-3.0"),
    "annotationsDerived": ("cldr-annotations-derived-full", "48.2.0", "Unicode-3.0"),
}
# Large families of near-identical pictures, which differ by small print only.
LEFT_OUT = re.compile(r"^flag: |^keycap: |^Japanese “|o’clock$|-thirty$")
TAR_BLOCK = 512


@dataclass(frozen=True)
class Config:
    """Build data/demo from npm packages."""

    out: Path = Path("data/demo")
    """Where the shards go."""
    packages: Path = Path(".cache/npm")
    """Where the packages' archives are kept; those already there are not downloaded again."""
    pixels: int = 112
    """Width and height of every picture."""
    picture_bytes: int = 2 * TAR_BLOCK
    """Every picture is coded at the highest quality that fits (at least 20, at most 90)."""
    train_pairs: int = 1850
    held_out_captions: int = 270
    """Names in the held-out concepts."""
    concept_pairs: int = 300
    """Pictures of them: those above the number of captions are second styles."""
    style_pairs: int = 400
    overwrite: bool = False
    """Replace shards that are there."""


@dataclass(frozen=True)
class Emoji:
    """One emoji of the CLDR annotations."""

    code: str
    """Code points in hexadecimal joined by dashes, without variation selectors."""
    concept: str
    captions: dict[str, str]
    """Language to name."""
    keywords: tuple[str, ...]


def download(package: str, directory: Path) -> Path:
    """The npm package's archive, from ``directory`` or the registry."""
    name, version, _ = PACKAGES[package]
    path = directory / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if path.exists():
        return path
    if shutil.which("npm") is None:
        raise FileNotFoundError(f"npm is not on PATH: install Node.js, or put {path.name} into {directory}")
    directory.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", f"{name}@{version}", "--loglevel=error", "--pack-destination", str(directory)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode or not path.exists():
        raise FileNotFoundError(f"`{' '.join(command)}` gave no {path.name}: {result.stderr.strip()[-500:]}")
    return path


def code_of(text: str) -> str:
    """``"❤️‍🔥"`` -> ``"2764-200d-1f525"``."""
    return "-".join(f"{ord(character):04x}" for character in text if character != "\ufe0f")


def read_annotations(directory: Path) -> dict[str, dict[str, dict[str, list[str]]]]:
    """CLDR: code -> language -> {"tts": [name], "default": keywords}; emoji with a name in every language."""
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for package in ("annotations", "annotationsDerived"):
        with tarfile.open(download(package, directory)) as archive:
            for language in LANGUAGES:
                member = archive.extractfile(f"package/{package}/{language}/annotations.json")
                assert member is not None
                for text, entry in json.load(member)[package]["annotations"].items():
                    if "tts" in entry:
                        found.setdefault(code_of(text), {})[language] = entry
    return {code: entries for code, entries in found.items() if len(entries) == len(LANGUAGES)}


def read_style(style: str, directory: Path) -> dict[str, bytes]:
    """Code to the picture's file (SVG or WebP) for one style."""
    with tarfile.open(download(style, directory)) as archive:
        files = {
            member.name.removeprefix("package/"): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive.getmembers()
            if member.isfile()
            and member.name.startswith(("package/assets/", "package/icons", "package/chars"))
        }
    if style != "noto":  # assets/1f36c.webp; a few files of one package lack the dot
        stems = {name: re.sub(r"\.?(svg|webp)$", "", name.removeprefix("assets/")) for name in files}
        return {code_of_file(stem): files[name] for name, stem in stems.items()}
    icons, characters = json.loads(files["icons.json"]), json.loads(files["chars.json"])
    drawn = {code_of_file(code): name for code, name in characters.items() if name in icons["icons"]}
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    size = f'viewBox="0 0 {icons["width"]} {icons["height"]}">'
    return {
        code: (head + size + icons["icons"][name]["body"] + "</svg>").encode() for code, name in drawn.items()
    }


def code_of_file(stem: str) -> str:
    return "-".join(part for part in re.split("[-_]", stem) if part != "fe0f")


def without_variants(code: str) -> str:
    """The code without skin tone, gender, direction and family members: equal for near-duplicates."""
    parts = [part for part in code.split("-") if not re.fullmatch("1f3f[b-f]", part)]
    if "200d" not in parts:
        return "-".join(parts)
    neutral = {"1f468": "1f9d1", "1f469": "1f9d1", "1f466": "1f9d2", "1f467": "1f9d2"}
    joined = "-".join(neutral.get(part, part) for part in parts)
    return re.sub("-200d-(2640|2642|27a1)", "", joined)


def read_emoji(directory: Path, drawn: set[str]) -> list[Emoji]:
    """The annotated emoji among the codes ``drawn``, near-duplicates once, ordered by code."""
    annotations = read_annotations(directory)
    kept: dict[str, str] = {}
    for code in sorted(drawn & annotations.keys(), key=lambda code: (without_variants(code) != code, code)):
        kept.setdefault(without_variants(code), code)
    named = {code: annotations[code]["en"]["tts"][0] for code in sorted(kept.values())}
    named = {code: name for code, name in named.items() if not LEFT_OUT.search(name)}
    concepts = head_nouns(set(named.values()))
    return [
        Emoji(
            code=code,
            concept=concepts[name],
            captions={language: annotations[code][language]["tts"][0] for language in LANGUAGES},
            keywords=tuple(annotations[code]["en"].get("default", [])),
        )
        for code, name in named.items()
    ]


def pairs(emoji: list[Emoji], styles: dict[str, dict[str, bytes]], count: int) -> list[tuple[Emoji, str]]:
    """``count`` pictures: every emoji once, in any of the styles, before any is drawn a second time."""
    rounds: list[tuple[int, str, Emoji, str]] = []
    for one in emoji:
        available = [style for style in styles if one.code in styles[style]]
        for turn, style in enumerate(sorted(available, key=lambda style: draw(one.code + style))):
            rounds.append((turn, draw(style + one.code), one, style))
    chosen = sorted(rounds, key=lambda entry: entry[:2])[:count]
    if len(chosen) < count:
        raise ValueError(f"{count} pairs were asked for, but there are {len(chosen)} pictures: ask for fewer")
    return [(one, style) for _, _, one, style in sorted(chosen, key=lambda entry: entry[1])]


def largest_fitting(picture: Image.Image, limit: int) -> bytes:
    """WebP at the highest of the qualities 20, 25 ... 90 that fits, found by bisection; 20 if none does."""
    best, low, high = b"", 4, 18
    while low <= high:
        middle = (low + high) // 2
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=5 * middle, method=4)
        if buffer.tell() <= limit or middle == 4:
            best, low = buffer.getvalue(), middle + 1
        else:
            high = middle - 1
    return best


def sample(one: Emoji, style: str, split: str, picture: bytes) -> dict[str, str | bytes]:
    """The webdataset sample: key.webp, key.txt, key.json."""
    record = {
        "source": style,
        "concept": one.concept,
        "name": one.captions["en"],
        "keywords": one.keywords,
        "captions": one.captions,
        "split": split,
        "license": PACKAGES[style][2],
    }
    return {
        "__key__": f"{style}-{one.code}",
        "webp": picture,
        "txt": one.captions["en"].encode(),
        "json": json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(),
    }


def main(config: Config) -> None:
    splits = ("train", "concepts", "style")
    for split in splits:
        refuse_existing(config.out, f"{split}-%06d.tar", overwrite=config.overwrite)
    styles = {style: read_style(style, config.packages) for style in (*TRAINED_STYLES, UNSEEN_STYLE)}
    trained = {style: styles[style] for style in TRAINED_STYLES}
    emoji = read_emoji(config.packages, set().union(*trained.values()))
    held = hold_out({e.captions["en"]: e.concept for e in emoji}, config.held_out_captions, largest=4)
    seen, unseen = [e for e in emoji if e.concept not in held], [e for e in emoji if e.concept in held]
    chosen = {
        "train": pairs(seen, trained, config.train_pairs),
        "concepts": pairs(unseen, trained, config.concept_pairs),
        "style": pairs(seen, {UNSEEN_STYLE: styles[UNSEEN_STYLE]}, config.style_pairs),
    }

    def samples(split: str) -> Iterator[dict[str, str | bytes]]:
        for one, style in track(chosen[split], description=f"{split:9}"):
            picture = on_white(styles[style][one.code], config.pixels, square=True)
            yield sample(one, style, split, largest_fitting(picture, config.picture_bytes))

    for split in splits:
        paths = write_shards(config.out, f"{split}-%06d.tar", samples(split), per_shard=500)
        captions = len({one.code for one, _ in chosen[split]})
        size = sum(path.stat().st_size for path in paths) / 1e6
        print(f"{split}: {len(chosen[split])} pairs, {captions} captions, {len(paths)} shards, {size:.2f} MB")


if __name__ == "__main__":
    main(tyro.cli(Config))
