"""Duplicates are found whatever re-encoding did to them, and different images of one shape are not."""

import io

import numpy as np
import pytest
from PIL import Image

from mmvicreg.exploration.duplicates import (
    DISTANCE,
    caption_digest,
    find_duplicates,
    item_digest,
    mean_colour,
    perceptual_hash,
)


def photograph(seed):
    """Smooth random colours, uint8 (180, 240, 3)."""
    rough = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(rough).resize((240, 180), Image.Resampling.BICUBIC))


def encoded(image, *, side, quality):
    small = Image.fromarray(image)
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def measured(images):
    exact = np.array([item_digest(image.tobytes()) for image in images], np.uint64)
    near = np.array([perceptual_hash(image) or 0 for image in images], np.uint64)
    return exact, near, np.array([mean_colour(image) for image in images])


def test_a_smaller_or_coarser_copy_is_a_near_duplicate_and_another_photograph_is_not():
    originals = [photograph(seed) for seed in range(40)]
    copies = [encoded(each, side=180 + seed, quality=75) for seed, each in enumerate(originals)]
    for original, copy in zip(originals, copies, strict=True):
        one, other = perceptual_hash(original), perceptual_hash(copy)
        assert one is not None and other is not None and (one ^ other).bit_count() <= DISTANCE
    exact, near, colour = measured([*originals, *copies, originals[0]])
    found = find_duplicates(exact, near, colour_N3=colour)
    assert found.exact == 1 and found.near == 40
    assert found.groups[0] == (0, 40, 80) and all(len(group) == 2 for group in found.groups[1:])


@pytest.mark.parametrize("colour", [(250, 40, 40), (40, 200, 90)])
def test_one_shape_in_two_colours_is_two_images(colour):
    y, x = np.mgrid[:96, :96]
    disc = (y - 48) ** 2 + (x - 48) ** 2 < 900
    draw = lambda ink: np.where(disc[..., None], np.array(ink, np.uint8), np.uint8(255))  # noqa: E731
    exact, near, mean = measured([draw((40, 80, 250)), draw(colour)])
    assert (int(near[0]) ^ int(near[1])).bit_count() <= DISTANCE  # the hash alone would call them duplicates
    assert find_duplicates(exact, near, colour_N3=mean).near == 0


def test_flat_images_have_no_hash_and_are_no_near_duplicates():
    flat = [np.full((50, 50, 3), value, np.uint8) for value in (10, 11)]
    assert perceptual_hash(flat[0]) is None
    exact, near, colour = measured(flat)
    assert find_duplicates(exact, near, colour_N3=colour).groups == ()


def test_captions_with_the_same_words_are_near_duplicates():
    captions = ["A red bird.", "a red  bird", "A red bird.", "a bird, red", "!!", "??", "Ａ red bird"]
    exact = np.array([item_digest(text.encode()) for text in captions], np.uint64)
    near = np.array([caption_digest(text) for text in captions], np.uint64)
    found = find_duplicates(exact, near)
    assert (found.exact, found.near) == (1, 2) and found.groups == ((0, 1, 2, 6),)


def test_groups_are_those_of_comparing_every_pair():
    generator = np.random.default_rng(0)
    base = generator.integers(1, 2**63, 60, dtype=np.uint64)
    flips = np.array(
        [sum(1 << int(bit) for bit in generator.choice(64, DISTANCE, replace=False)) for _ in base], np.uint64
    )
    near = np.concatenate([base, base ^ flips, generator.integers(1, 2**63, 60, dtype=np.uint64)])
    found = find_duplicates(np.arange(180, dtype=np.uint64), near, colour_N3=np.ones((180, 3)), groups=1000)
    close = np.bitwise_count(near[:, None] ^ near[None]) <= DISTANCE
    assert len(found.groups) == 60 == found.near
    assert all(close[a, b] for a, b in found.groups)
