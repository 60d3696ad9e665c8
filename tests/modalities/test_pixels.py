"""Pixels: every documented decoding rule on a real file, and open_clip's pixels within 1 of 255."""

import io
import struct
import zlib

import numpy as np
import open_clip
import pytest
import torch
from photographs import crop, encoded, photographs
from PIL import Image, ImageCms, ImageOps, ImageSequence
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from mmvicreg import BadSampleError
from mmvicreg.modalities.decoding.crops import Box, centre_box, random_box, resize_centre, resize_crop
from mmvicreg.modalities.decoding.pixels import decode


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_jpeg_decodes_as_pillow_does(options):
    data = saved(crop(3), "JPEG", **options)
    picture = decode(data)
    assert picture.recovered == "" and picture.array.shape == (48, 60, 3) and picture.array.dtype == np.uint8
    assert (
        np.abs(picture.array.astype(int) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).max() <= 1
    )


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP"])
def test_other_formats_decode_as_pillow_does(format):
    data = saved(crop(4), format)
    assert np.array_equal(decode(data).array, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpeg(mode):
    data = saved(crop(5).convert(mode), "JPEG")
    picture = decode(data)
    assert picture.recovered == ""
    assert (
        np.abs(picture.array.astype(int) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).max() <= 1
    )


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(crop(6), format, exif=exif.tobytes())
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = decode(data).array
    assert picture.shape == (upright.height, upright.width, 3)
    assert np.abs(picture.astype(int) - np.asarray(upright.convert("RGB"))).max() <= 1


def test_sixteen_bits_keep_the_high_byte():
    grey = np.asarray(crop(7).convert("L"))
    data = saved(Image.fromarray(grey.astype(np.uint16) * 256 + 77), "PNG")
    assert np.array_equal(decode(data).array, np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize(
    "format,mode", [("PNG", "RGBA"), ("WEBP", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("GIF", "P")]
)
def test_transparent_pixels_become_white(format, mode):
    picture = crop(8).convert("RGBA")
    alpha = np.full((48, 60), 255, np.uint8)
    alpha[10:30, 10:30] = 0
    picture.putalpha(Image.fromarray(alpha))
    options = {"lossless": True} if format == "WEBP" else {}
    if mode == "P":
        palette = crop(8).quantize(200)
        palette.paste(0, (10, 10, 30, 30))
        data = saved(palette, format, transparency=0)
    else:
        data = saved(picture.convert(mode), format, **options)
    array = decode(data).array
    assert (array[10:30, 10:30] == 255).all() and array[:10].mean() < 250


def deep_png(samples, colour):
    """A PNG of 16 bits a channel; uint16 (H, W, C), colour type 2 (RGB), 4 (grey and alpha) or 6 (RGBA)."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bits_of_colour_and_alpha_keep_the_high_byte():
    rgb = np.asarray(crop(7)).astype(np.uint16)
    opaque = np.full((*rgb.shape[:2], 1), 65535, np.uint16)
    assert np.array_equal(decode(deep_png(rgb * 256 + 77, 2)).array, rgb)
    assert np.array_equal(decode(deep_png(np.concatenate([rgb * 256 + 77, opaque], 2), 6)).array, rgb)
    assert (decode(deep_png(np.concatenate([rgb * 256, 0 * opaque], 2), 6)).array == 255).all()
    grey = rgb[..., :1]
    array = decode(deep_png(np.concatenate([grey * 256 + 77, opaque], 2), 4)).array
    assert np.array_equal(array, np.repeat(grey, 3, 2))


@pytest.mark.parametrize("format", ["WEBP", "PNG", "GIF"])
def test_animation_gives_its_first_frame(format):
    frames = [crop(n).convert("RGB") for n in (1, 20)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(data))))) == 2
    still = saved(frames[0], format, **options)
    assert np.array_equal(decode(data).array, np.asarray(Image.open(io.BytesIO(still)).convert("RGB")))


def test_a_camera_file_of_two_pictures_gives_the_first_and_a_profile_changes_no_pixel():
    two = saved(crop(1), "MPO", save_all=True, append_images=[crop(2)], quality=90)
    assert getattr(Image.open(io.BytesIO(two)), "n_frames") == 2  # noqa: B009
    assert np.array_equal(decode(two).array, decode(saved(crop(1), "JPEG", quality=90)).array)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format in ("PNG", "WEBP", "JPEG"):
        plain, profiled = saved(crop(1), format), saved(crop(1), format, icc_profile=profile)
        assert len(profiled) > len(plain) and np.array_equal(decode(profiled).array, decode(plain).array)


def test_strict_jpeg_damage_is_recovered_or_rejected_never_silent():
    data = bytearray(encoded(9, width=320, height=256))
    hole = data.copy()
    hole[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    assert decode(bytes(hole)).recovered.startswith("damaged JPEG")
    with pytest.raises(BadSampleError, match="damaged picture"):
        decode(bytes(data[: len(data) // 2]))


@pytest.mark.parametrize(
    "data,reason",
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not a picture"),
        (b"\xff\xd8\xff", "not a picture"),
        (encoded(1, format="PNG")[:300], "damaged picture"),
        (encoded(1, format="WEBP", width=320)[:300], "damaged picture"),
        (saved(crop(1), "PPM"), "not a picture"),
        (bytes(70_000_000), "too many bytes"),
    ],
    ids=["empty", "html", "jpeg stub", "cut png", "cut webp", "ppm", "huge"],
)
def test_unusable_bytes_are_rejected_with_the_reason(data, reason):
    with pytest.raises(BadSampleError, match=reason):
        decode(data)


@pytest.mark.parametrize("side", [9_000, 20_000])
def test_a_decompression_bomb_is_rejected_from_its_header(side):
    data = saved(Image.new("1", (side, side)), "PNG")
    assert len(data) < 100_000
    with pytest.raises(BadSampleError, match="too many pixels"):
        decode(data)


@pytest.mark.parametrize("box", [Box(0, 0, 640, 427), Box(13, 7, 501, 400), Box(100, 50, 300, 250)])
@pytest.mark.parametrize("number", [0, 1])
def test_crops_are_open_clips_pixels_within_one(box, number):
    photo = photographs()[number]
    left, top, width, height = box
    theirs = resized_crop(photo, top, left, height, width, [224, 224], InterpolationMode.BICUBIC)
    ours = resize_crop(np.asarray(photo), box, 224)
    assert ours.shape == (3, 224, 224) and ours.dtype == torch.uint8
    assert (ours.permute(1, 2, 0).int() - torch.from_numpy(np.array(theirs)).int()).abs().max() <= 1


@pytest.mark.parametrize("box", [(0, 0, 640, 427), (0, 0, 427, 427), (10, 5, 311, 417), (3, 0, 233, 300)])
@pytest.mark.parametrize("size", [224, 96])
def test_evaluation_pixels_are_open_clips_within_one(box, size):
    left, top, width, height = box
    for photo in photographs():
        picture = photo.crop((left, top, left + width, top + height))
        transform = open_clip.image_transform(size, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
        ours = resize_centre(np.asarray(picture), size)
        assert ours.shape == (3, size, size) and ours.dtype == torch.uint8
        assert (ours / 255 - transform(picture)).abs().max() < 1.5 / 255


def test_evaluation_of_a_picture_of_that_size_and_of_a_strip():
    square = photographs()[0].crop((0, 0, 96, 96))
    assert np.array_equal(resize_centre(np.asarray(square), 96).permute(1, 2, 0), np.asarray(square))
    strip = np.zeros((100_000, 3, 3), np.uint8)
    strip[50_000:] = 255
    cut = resize_centre(strip, 224)
    assert cut.shape == (3, 224, 224) and cut[:, :60].max() < 20 and cut[:, 164:].min() > 235


def test_reduced_decode_stays_close_and_above_the_asked_side():
    data = saved(photographs()[0], "JPEG", quality=95)
    full, reduced = decode(data).array, decode(data, reduce_to=200).array
    assert reduced.shape == (214, 320, 3)
    difference = resize_crop(full, Box(0, 0, 640, 427), 96).float() - resize_crop(
        reduced, Box(0, 0, 320, 214), 96
    )
    assert difference.abs().mean() < 4


def test_random_boxes_are_torchvisions_distribution():
    generator = np.random.default_rng(0)
    boxes = np.array([random_box(generator, 640, 480, scale=(0.2, 0.8)) for _ in range(4000)])
    left, top, width, height = boxes.T
    assert (
        (left >= 0).all() and (left + width <= 640).all() and (top >= 0).all() and (top + height <= 480).all()
    )
    photo = torch.empty(3, 480, 640)
    theirs = [RandomResizedCrop.get_params(photo, [0.2, 0.8], [3 / 4, 4 / 3])[2:] for _ in range(4000)]
    areas = [np.sort(width * height), np.sort([h * w for h, w in theirs])]
    assert np.abs(areas[0] - areas[1]).mean() < 0.02 * areas[1].mean()
    assert (width / height).min() > 0.73 and (width / height).max() < 1.36
    tall = random_box(generator, 10, 1000, scale=(0.9, 1.0))
    assert tall == Box(0, 493, 10, 13) and centre_box(30, 50) == Box(0, 10, 30, 30)
