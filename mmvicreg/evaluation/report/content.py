"""What a person sees or hears of an item, and where it comes from: its file, row and caption.

A reader may say how its items are shown (:meth:`mmvicreg.stream.reader.Reader.show`). Otherwise an item is shown as the
image or the recording of its sample, where its reader reads one, and else as its identity, which is a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.evaluation.store import Store
from mmvicreg.modalities import audio
from mmvicreg.modalities.decoding import pixels
from mmvicreg.modalities.decoding.arrays import first_member
from mmvicreg.modalities.decoding.formats import IMAGES, RECORDINGS
from mmvicreg.modalities.decoding.records import captions_of, read_record, read_text
from mmvicreg.modalities.text import TextReader
from mmvicreg.shards.index import ShardIndex
from mmvicreg.stream.fetcher import Fetcher
from mmvicreg.stream.reader import BadSampleError, Reader, Recording, Sample

SECONDS = 10.0
"""A longer recording is shown by its middle."""


@dataclass(frozen=True)
class Shown:
    """An item as a person meets it."""

    content: str | np.ndarray | Recording
    """a text, an image uint8 (H, W, 3), or a recording"""
    source: str = ""
    """file that the sample was packed from, with its table row, or else the sample's key"""
    caption: str = ""
    """first caption of the sample; empty for texts"""

    @property
    def name(self) -> str:
        """One line that says what this is, for a screen reader: the caption, or else the source."""
        return self.caption or self.source or "item without a name"


class SampleContent:
    """Items of samples, read when they are asked for."""

    def __init__(self, readers: Mapping[str, Reader], index: ShardIndex) -> None:
        self._readers, self._index, self._fetch = readers, index, Fetcher(index)
        self._places = _caption_places(readers.values())
        self._beside = {"json", *(place.partition(":")[0] for place in self._places)}

    def sample(self, view: str, number: int) -> Sample:
        """The sample with the members of the view's reader, its captions and its json."""
        members = {*self._readers[view].members, *self._beside}
        return self._fetch(*self._index.place(number), members)

    def show(self, view: str, number: int, identity: str) -> Shown:
        """The item ``identity`` of sample ``number``."""
        sample = self.sample(view, number)
        content = _content(self._readers[view], sample, identity)
        caption = "" if isinstance(content, str) else self.caption(sample)
        return Shown(content, source_of(sample), caption)

    def items(self, number: int) -> list[Shown]:
        """The first item of every view that the sample has; of a rejected one, the reason."""
        found = []
        for view, reader in self._readers.items():
            sample = self.sample(view, number)
            try:
                items = reader.items(sample)
            except BadSampleError as error:
                found.append(Shown(f"rejected: {error}", source_of(sample)))
                continue
            if items:
                found.append(self.show(view, number, items[0].identity))
        return found

    def describe(self, view: str, number: int, identity: str) -> tuple[str, str]:
        """(source, text) of the item ``identity`` of sample ``number`` without decoding it: of a text the text itself,
        of others the caption of their sample."""
        sample = self.sample(view, number)
        is_text = isinstance(self._readers[view], TextReader)
        return source_of(sample), identity if is_text else self.caption(sample) or identity

    def label(self, number: int, name: str) -> str:
        """The field ``name`` of the json member of a sample, or its cls member where ``name`` is empty; empty if it has
        none."""
        sample = self._fetch(*self._index.place(number), ("json", "cls"))
        try:
            if name:
                return str(read_record(sample.members.get("json", b"{}"), "json").get(name, ""))
            return read_text(sample.members.get("cls", b""), "cls").strip()
        except BadSampleError:
            return ""

    def caption(self, sample: Sample) -> str:
        """The first caption of a sample, or empty."""
        try:
            return next(iter(captions_of(sample.members, self._places)), "")
        except BadSampleError:
            return ""


class Content:
    """What a person sees of a row of a store."""

    def __init__(self, store: Store, readers: Mapping[str, Reader], index: ShardIndex) -> None:
        self._store, self._samples = store, SampleContent(readers, index)

    def __call__(self, view: str, row: int) -> Shown:
        """The item of a view's row, shown from the first sample that it occurs in."""
        found = self._store.items(view)
        return self._samples.show(view, found.samples[row][0], found.identities[row])


def source_of(sample: Sample) -> str:
    """``cats/tom.jpg`` or ``pets.csv row 7`` where the sample's json remembers it (``mmvicreg pack`` writes that),
    else the key."""
    try:
        about = read_record(sample.members["json"], "json")
    except (KeyError, BadSampleError):
        return sample.key
    file, row = about.get("file"), about.get("row", about.get("rows"))
    parts = [str(file)] if isinstance(file, str) and file else []
    if isinstance(row, int):
        parts.append(f"row {row}")
    elif isinstance(row, list) and row:
        parts.append(f"rows {', '.join(str(each) for each in row[:5])}{', ...' if len(row) > 5 else ''}")
    return " ".join(parts) or sample.key


def _caption_places(readers: Iterable[Reader]) -> tuple[str, ...]:
    places = [place for reader in readers if isinstance(reader, TextReader) for place in reader.places]
    return tuple(dict.fromkeys([*places, "txt"]))


def _content(reader: Reader, sample: Sample, identity: str) -> str | np.ndarray | Recording:
    shown = reader.show(sample, identity)
    if shown is not None:
        return _checked(shown, reader)
    own = {suffix: data for suffix, data in sample.members.items() if suffix in reader.members}
    try:
        image = first_member(own, IMAGES)
        if image is not None:
            return pixels.decode(image[1], max_pixels=100_000_000).array
        recording = first_member(own, RECORDINGS)
        if recording is not None:
            wave, rate, _ = audio.decode(recording[1], seconds=SECONDS, place=0.5)
            return Recording(wave, rate)
    except BadSampleError as error:
        return f"cannot be shown: {error}"
    except ModuleNotFoundError:  # a reader of recordings that does not need soundfile itself
        pass
    return identity or sample.key


def _checked(shown: object, reader: Reader) -> str | np.ndarray | Recording:
    if isinstance(shown, np.ndarray) and shown.dtype == np.uint8 and shown.ndim == 3 and shown.shape[2] == 3:
        return shown
    if isinstance(shown, Recording) and shown.wave.ndim == 1 and shown.rate > 0:
        return shown
    if isinstance(shown, str):
        return shown
    found = f"{shown.dtype} {shown.shape}" if isinstance(shown, np.ndarray) else type(shown).__name__
    raise InvalidValueError(
        f"{type(reader).__name__}.show gave {found}; expected a text, an image uint8 (H, W, 3), a Recording of one "
        "channel, or None"
    )
