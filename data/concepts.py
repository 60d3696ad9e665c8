"""Which pictures are held out together: the head nouns of their names."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Set

PREPOSITIONS = "with|without|of|in|on|at|from|behind|to|under|and|or|for|showing|tilted|pointing|holding"


def words(name: str) -> list[str]:
    """The words of a name, lower case: "T-Rex" is two."""
    return re.findall(r"[^\W\d_]+", name.lower())


def head_nouns(names: Set[str]) -> dict[str, str]:
    """Name to head noun: "smiling cat with heart-eyes" and "cat face" are cats, "winking face" a face.

    The noun is the last word before a preposition; a generic last word is dropped where the rest is itself
    a name, and a plural s where the singular occurs in some name.
    """
    vocabulary = {word for name in names for word in words(name)}

    def head(name: str) -> str:
        phrase = re.split(rf"[:(,]|\b(?:{PREPOSITIONS})\b", name)[0].strip() or name
        bare = re.sub(" (face|button|sign|symbol)$", "", phrase)
        last = (words(bare if bare in names else phrase) or [name.lower()])[-1]
        return last[:-1] if last.endswith("s") and last[:-1] in vocabulary else last

    return {name: "face" if name.startswith("face ") else head(name) for name in names}


def draw(text: str) -> str:
    """A sort key in a fixed pseudo-random order: the same everywhere, little moved by an added name."""
    return hashlib.sha256(text.encode()).hexdigest()


def hold_out(concepts: Mapping[str, str], count: int, *, largest: int) -> set[str]:
    """Concepts of ``concepts`` (name to concept), drawn until they hold at least ``count`` names.

    A concept is eligible if no other concept's name contains its word (no "fish cake" in training while
    "fish" is held out), and if it has at most ``largest`` names, so that many concepts are held out rather
    than one with a hundred faces.
    """
    sizes = Counter(concepts.values())
    mentioned: set[str] = set()
    for name, concept in concepts.items():
        spoken = {form for word in words(name) for form in (word, word.removesuffix("s"))}
        mentioned |= spoken - {concept}
    held: set[str] = set()
    for concept in sorted(sizes, key=draw):
        if sizes[concept] <= largest and concept not in mentioned and count > 0:
            held.add(concept)
            count -= sizes[concept]
    return held
