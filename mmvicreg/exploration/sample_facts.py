"""What one sample of a shard holds: measured in a thread, small enough to keep for every sample."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

from mmvicreg.exploration.duplicates import item_digest, mean_colour, perceptual_hash
from mmvicreg.modalities.decoding import pixels
from mmvicreg.modalities.decoding.arrays import first_member
from mmvicreg.modalities.decoding.formats import IMAGES, PILLOW_FORMATS, RECORDINGS
from mmvicreg.modalities.decoding.records import captions_of, read_record
from mmvicreg.stream.reader import BadSampleError, Sample

HASHED_SIDE = 64
"""Shorter side to which a large JPEG is decoded for its hash."""


@dataclass(frozen=True)
class ImageFacts:
    """Size in pixels as it is shown, digest of the bytes, perceptual hash (None where it is flat) and mean colour."""

    width: int
    height: int
    digest: int
    hash: int | None
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class SampleFacts:
    """What a sample holds, by modality; ``faults`` says what cannot be used."""

    number: int
    present: frozenset[str]
    image: ImageFacts | None = None
    captions: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    """keys of a map from languages to captions"""
    seconds: float | None = None
    """length of the recording"""
    faults: Mapping[str, str] = field(default_factory=dict)


def measure(sample: Sample, places: tuple[str, ...], others: Mapping[str, tuple[str, ...]]) -> SampleFacts:
    """The facts of a sample. ``places``: where captions are; ``others``: members of further modalities by name."""
    faults: dict[str, str] = {}
    present = {name for name, members in others.items() if set(members) & set(sample.members)}
    image: ImageFacts | None = None
    captions: tuple[str, ...] = ()
    seconds: float | None = None
    try:
        image = _image(sample)
    except BadSampleError as error:
        faults["image"] = str(error)
    try:
        captions = tuple(captions_of(sample.members, places))
    except BadSampleError as error:
        faults["text"] = str(error)
    try:
        seconds = _seconds(sample)
    except BadSampleError as error:
        faults["audio"] = str(error)
    present |= {"image"} if image else set()
    present |= {"text"} if captions else set()
    present |= {"audio"} if seconds is not None else set()
    return SampleFacts(
        sample.number, frozenset(present), image, captions, _languages(sample, places), seconds, faults
    )


def _image(sample: Sample) -> ImageFacts | None:
    found = first_member(sample.members, IMAGES)
    if found is None:
        return None
    data = found[1]
    array = pixels.decode(data, reduce_to=HASHED_SIDE).array
    with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as opened:
        width, height = opened.size
    if (width > height) != (array.shape[1] > array.shape[0]):  # turned by its EXIF orientation
        width, height = height, width
    return ImageFacts(width, height, item_digest(data), perceptual_hash(array), mean_colour(array))


def _languages(sample: Sample, places: tuple[str, ...]) -> tuple[str, ...]:
    for place in places:
        suffix, _, name = place.partition(":")
        if name and suffix in sample.members:
            try:
                value = read_record(sample.members[suffix], suffix).get(name)
            except BadSampleError:
                continue
            if isinstance(value, dict):
                return tuple(str(language) for language in value)
    return ()


def _seconds(sample: Sample) -> float | None:
    found = first_member(sample.members, RECORDINGS)
    if found is None:
        return None
    try:
        import soundfile
    except ModuleNotFoundError:
        raise BadSampleError("recordings are measured by soundfile: pip install 'mmvicreg[audio]'") from None
    try:
        about = soundfile.info(io.BytesIO(found[1]))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise BadSampleError(f"not a recording: {error}") from None
    return float(about.duration)
