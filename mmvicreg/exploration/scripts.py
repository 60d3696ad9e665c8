"""Which writing system a caption is in: what can be said of its language without a model."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

MARKS = {
    "HIRAGANA": "Japanese (kana)",
    "KATAKANA": "Japanese (kana)",
    "HANGUL": "Korean (Hangul)",
    "CJK": "Chinese (Han)",
}
"""Scripts that nearly one language alone is written in, in the order in which they decide: a text with kana is Japanese
however many Han characters it has."""
NONE = "no letters"


@lru_cache(maxsize=65_536)
def script_of(character: str) -> str:
    """The first word of a letter's Unicode name, such as LATIN, CYRILLIC or CJK; empty for what is no letter."""
    if not unicodedata.category(character).startswith("L"):
        return ""
    name = unicodedata.name(character, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ")
    first = name.partition(" ")[0]
    return "" if first in ("MODIFIER", "KATAKANA-HIRAGANA") else first


def writing_of(text: str) -> str:
    """The writing system of most letters of ``text``, such as "Latin"; kana, Hangul and Han by their languages."""
    counts = Counter(script for character in text if (script := script_of(character)))
    if not counts:
        return NONE
    for script, language in MARKS.items():
        if counts[script] and sum(counts[each] for each in MARKS) * 2 >= counts.total():
            return language
    return counts.most_common(1)[0][0].capitalize()
