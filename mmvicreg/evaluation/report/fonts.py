"""Text in figures: line breaks for any script, and installed fonts that can draw every character."""

from __future__ import annotations

import unicodedata
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font


def wrap(text: str, *, width: int = 18, lines: int = 5) -> str:
    """Break at spaces, and inside words longer than a line (scripts without spaces); end in an ellipsis."""
    out = [""]
    for word in text.split():
        if out[-1] and _columns(f"{out[-1]} {word}") > width:
            out.append("")
        out[-1] += " " * bool(out[-1])
        for character in word:
            if _columns(out[-1] + character) > width:
                out.append("")
            out[-1] += character
    return "\n".join(out if len(out) <= lines else [*out[: lines - 1], out[lines - 1][:-1] + "…"])


def _columns(text: str) -> int:
    """Width in Latin letters: Chinese, Japanese and Korean characters count double, accents nothing."""
    return sum(
        2 if unicodedata.east_asian_width(c) in "WF" else int(unicodedata.combining(c) == 0) for c in text
    )


def legible(text: str) -> tuple[str, list[str]]:
    """The text, and installed font families that between them draw it.

    matplotlib's own DejaVu Sans comes first; characters that no installed font has become "□", so that no
    machine warns or draws an empty box of unknown meaning.
    """
    families = ["DejaVu Sans"]
    missing = {ord(c) for c in text if not c.isspace()} - _covered(font_manager.findfont("DejaVu Sans"))
    while missing:
        best = max(_installed(), key=lambda font: len(missing & _covered(font[1])), default=None)
        if best is None or not missing & _covered(best[1]):
            break
        families.append(best[0])
        missing -= _covered(best[1])
    return "".join("□" if ord(c) in missing else c for c in text), families


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """(family, file) of the upright regular fonts, those for screens first."""
    upright = {
        (entry.name, entry.fname)
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in (400, "normal", "regular")
        # Emoji fonts are bitmaps; the "Last Resort" font draws a box for every character there is.
        and not {"Emoji", "Last"} & set(entry.name.split())
    }
    return tuple(sorted(upright, key=lambda font: ("Sans" not in font[0], font)))


@cache
def _covered(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):  # bitmap fonts and damaged files: not usable, not our business
        return frozenset()
