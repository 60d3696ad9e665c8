"""Members that break in every way known to us, built in memory, each with the verdict that its reader must give.

``CORPUS``: modality -> name -> (suffix of the member, builder, verdict). A verdict is ``USED``, ``ABSENT`` (the sample
lacks the modality), or the beginning of the reason with which the sample is recovered or rejected.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import soundfile
from photographs import crop, encoded
from PIL import Image, ImageCms
from safetensors.numpy import save

import mmvicreg as mm

USED, ABSENT = "used", "absent"
Case = tuple[str, Callable[[], bytes], str]

MODALITIES: dict[str, mm.Modality] = {
    "image": mm.ImageModality(size=16, max_pixels=1_000_000),
    "raster": mm.RasterModality(size=16, members=("npy", "png"), max_pixels=1_000_000),
    "vector": mm.VectorModality(width=4),
    "series": mm.SeriesModality(length=8),
    "audio": mm.AudioModality(encoder="wave", seconds=0.1),
    "text": mm.TextModality(members=("txt", "json:caption")),
    "table": mm.TableModality(numbers=("x",), categories=("c",), members=("json", "csv")),
}


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    """The bytes of a picture in a format."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk with a right checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, before: bytes = b"") -> bytes:
    """A PNG that declares these sides and holds one row of zeros; ``before``: chunks before the pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(min(width, 1000) * 3 + 1)))
    return b"\x89PNG\r\n\x1a\n" + head + before + data + chunk(b"IEND", b"")


def with_exif(format: str, exif: bytes) -> bytes:
    """A sound picture whose EXIF block is ``exif``."""
    if format == "PNG":
        whole = encoded(2, format="PNG")
        return whole[:33] + chunk(b"eXIf", exif) + whole[33:]
    return saved(crop(2), format, exif=b"Exif\0\0" + exif)


def webp(width: int, height: int) -> bytes:
    """A WebP of some 50 bytes whose canvas has these sides."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sides
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(width: int, height: int) -> bytes:
    """A GIF of 35 bytes whose screen has these sides."""
    frame = b"," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02D\x01\0;"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + frame


def tiff(tags: dict[int, int]) -> bytes:
    """A grey TIFF of 16 x 16 with some tags more."""
    data = zlib.compress(bytes(1000))
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 273: 8, 279: len(data), 278: 16} | tags
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (
        b"II*\0"
        + struct.pack("<IH", 8 + len(data), len(tags))[:4]
        + data
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def cut(data: bytes, part: float) -> bytes:
    """The beginning of some bytes."""
    return data[: int(len(data) * part)]


def flipped(data: bytes, at: int, *, bit: int = 0) -> bytes:
    """Bytes with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def npy(array: np.ndarray) -> bytes:
    """An npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_with(header: str, *, version: bytes = b"\1\0", data: bytes = bytes(16)) -> bytes:
    """An npy file with any header at all."""
    size = 2 if version == b"\1\0" else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(size, "little") + header.encode("latin-1") + data


def header(shape: object, descr: object = "<f4") -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n"


def wav(samples: np.ndarray, *, rate: int = 16_000, subtype: str = "FLOAT") -> bytes:
    """A recording."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


def tensors(header: object, data: bytes = bytes(16)) -> bytes:
    """A safetensors file with any header at all."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


JPEG, PNG, WEBP = encoded(1), encoded(1, format="PNG"), encoded(1, format="WEBP")
PAGE = b"<html><body>404 Not Found</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SOUND = np.sin(np.arange(1600) / 20).astype(np.float32)
VECTOR = npy(np.ones(4, np.float32))
EXIF_FAULTS = {
    "no TIFF": b"garbage" * 9,
    "endless": b"II*\0\x08\0\0\0\xff\xff" + bytes(20),
    "offset beyond": b"MM\0*\xff\xff\xff\xff",
    "cut": b"II*\0\x08\0\0\0\1\0\x12\x01",
}

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def wide_tiff(most: int) -> Image.Image:
    """A picture of 32-bit integers up to ``most``."""
    return Image.fromarray(np.linspace(0, most, 81).reshape(9, 9).astype(np.int32))


IMAGES: dict[str, Case] = {
    "sound jpg": ("jpg", lambda: JPEG, USED),
    "sound png": ("png", lambda: PNG, USED),
    "sound webp": ("webp", lambda: WEBP, USED),
    "png named jpg": ("jpg", lambda: PNG, USED),
    "jpg named webp": ("webp", lambda: JPEG, USED),
    "no bytes": ("jpg", lambda: b"", "empty"),
    "one byte": ("jpg", lambda: b"\xff", "not a picture"),
    "web page": ("jpg", lambda: PAGE, "not a picture"),
    "LFS pointer": ("png", lambda: POINTER, "not a picture"),
    "SVG": ("png", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "PDF": ("jpg", lambda: b"%PDF-1.7\n" + bytes(200), "not a picture"),
    "EPS": ("jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "zeros": ("png", lambda: bytes(5000), "not a picture"),
    "start of jpg alone": ("jpg", lambda: b"\xff\xd8\xff\xe0", "not a picture"),
    "jpg without end": ("jpg", lambda: JPEG[:-2], "damaged"),
    "half a jpg": ("jpg", lambda: cut(JPEG, 0.5), "damaged"),
    "half a png": ("png", lambda: cut(PNG, 0.5), "damaged"),
    "half a webp": ("webp", lambda: cut(WEBP, 0.5), "damaged"),
    "half a gif": ("gif", lambda: cut(saved(crop(1), "GIF"), 0.5), "damaged"),
    "half a tiff": ("tif", lambda: cut(saved(crop(1), "TIFF", compression="tiff_lzw"), 0.5), "not a picture"),
    "half an avif": ("avif", lambda: cut(saved(crop(1), "AVIF"), 0.5), "not a picture"),
    "hole in a jpg": ("jpg", lambda: JPEG[:900] + bytes(200) + JPEG[1100:], "damaged"),
    "png with a wrong checksum": ("png", lambda: flipped(PNG, 60), "damaged"),
    "png of 0 pixels": ("png", lambda: png(0, 10), "not a picture"),
    "png of 4 billion pixels a side": ("png", lambda: png(2**31 - 1, 2**31 - 1), "too many pixels"),
    "png of a million pixels a row": ("png", lambda: png(2_000_000, 1), "too many pixels"),
    "png whose rows end early, which Pillow fills with zeros": ("png", lambda: png(900, 900), USED),
    "png of depth 3": ("png", lambda: png(9, 9, depth=3), "not a picture"),
    "png of colour type 5": ("png", lambda: png(9, 9, colour=5), "not a picture"),
    "png with a text bomb": (
        "png",
        lambda: png(9, 9, before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000)))),
        "damaged",
    ),
    "webp canvas of 268 million pixels": ("webp", lambda: webp(16_384, 16_383), "too many pixels"),
    "webp canvas above half the limit": ("webp", lambda: webp(1000, 501), "too many pixels"),
    "gif screen of 4 billion pixels": ("gif", lambda: gif(65_535, 65_535), "too many pixels"),
    "tiff with one tile of 900 million pixels": (
        "tif",
        lambda: tiff({322: 30_000, 323: 30_000, 324: 8, 325: 10}),
        "too many pixels",
    ),
    "tiff of a billion samples a pixel": ("tif", lambda: tiff({277: 1_000_000_000}), "not a picture"),
    "tiff whose pixels lie beyond the file": ("tif", lambda: tiff({273: 2**31, 279: 99}), "damaged"),
    "tiff directory that is its own next": ("tif", lambda: saved(crop(1), "TIFF")[:-4] + struct.pack("<I", 8), USED),
    "bmp of minus 2 billion rows": (
        "bmp",
        lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 9, -(2**31), 1, 24, 0, 0, 1, 1, 0, 0),
        "too many pixels",
    ),
    "strip of 1 x 20,000": ("png", lambda: saved(Image.new("RGB", (1, 20_000)), "PNG"), USED),
    "palette without colours": ("png", lambda: png(9, 9, colour=3), "damaged"),
    "cmyk": ("jpg", lambda: saved(crop(1).convert("CMYK"), "JPEG"), USED),
    "one bit": ("png", lambda: saved(crop(1).convert("1"), "PNG"), USED),
    "float tiff": ("tif", lambda: saved(crop(1).convert("F"), "TIFF"), "unknown range: pixels are floats"),
    "integers of 32 bits": ("tif", lambda: saved(wide_tiff(70_000), "TIFF"), "unknown range: pixels are integers"),
    "integers of 32 bits that fit 16": ("tif", lambda: saved(wide_tiff(65_535), "TIFF"), USED),
    "sound profile": ("jpg", lambda: saved(crop(1), "JPEG", icc_profile=SRGB), USED),
    "two pictures of a camera": ("jpg", lambda: saved(crop(1), "MPO", save_all=True, append_images=[crop(2)]), USED),
    "palette with alpha": ("png", lambda: saved(crop(1).convert("RGBA").quantize(9), "PNG"), USED),
    "cmyk with a profile": ("jpg", lambda: saved(crop(1).convert("CMYK"), "JPEG", icc_profile=b"none"), USED),
    "lab tiff": ("tif", lambda: saved(crop(1).convert("LAB"), "TIFF"), USED),
    "profile that is none": ("png", lambda: saved(crop(1), "PNG", icc_profile=b"no profile"), USED),
    **{
        f"{format} with an EXIF block: {fault}": (
            format.lower(),
            partial(with_exif, format, exif),
            "" if fault == "cut" else "unreadable EXIF" if fault == "no TIFF" and format != "JPEG" else USED,
        )
        for format in ("JPEG", "PNG", "WEBP")
        for fault, exif in EXIF_FAULTS.items()
    },
}  # fmt: skip

ARRAYS: dict[str, Case] = {
    "sound": ("npy", lambda: VECTOR, USED),
    "fp16": ("npy", lambda: npy(np.ones(4, np.float16)), USED),
    "big-endian int64": ("npy", lambda: npy(np.ones(4, ">i8")), USED),
    "bool": ("npy", lambda: npy(np.ones(4, bool)), USED),
    "in Fortran's order": ("npy", lambda: npy(np.asfortranarray(np.ones((3, 4), np.float32))), USED),
    "bytes after the array": ("npy", lambda: VECTOR + b"more", USED),
    "no rows": ("npy", lambda: npy(np.ones((0, 4), np.float32)), ABSENT),
    "no bytes": ("npy", lambda: b"", "not an npy array"),
    "web page": ("npy", lambda: PAGE, "not an npy array"),
    "LFS pointer": ("npy", lambda: POINTER, "not an npy array"),
    "magic alone": ("npy", lambda: VECTOR[:8], "not an npy array"),
    "cut header": ("npy", lambda: VECTOR[:40], "not an npy array"),
    "cut numbers": ("npy", lambda: VECTOR[:-3], "cut npy array"),
    "version 3": ("npy", lambda: npy_with(header((4,)), version=b"\3\0"), "npy version"),
    "version 9": ("npy", lambda: npy_with(header((4,)), version=b"\x09\0"), "npy version"),
    "header of 4 GB": ("npy", lambda: b"\x93NUMPY\2\0\xff\xff\xff\xff" + b"{" * 99, "not an npy array"),
    "header of 60,000 brackets": ("npy", lambda: npy_with("(" * 60_000), "not an npy array"),
    "header nested 3,000 deep": ("npy", lambda: npy_with("(" * 3_000 + ")" * 3_000), "not an npy array"),
    "header that is code": ("npy", lambda: npy_with("__import__('os').abort()\n"), "not an npy array"),
    "header with an open string": ("npy", lambda: npy_with("{'descr': '<f4"), "not an npy array"),
    "header with a zero byte": ("npy", lambda: npy_with("{'descr\0': 1}\n"), "not an npy array"),
    "header indented wrongly": ("npy", lambda: npy_with("  {\n {\n}\n"), "not an npy array"),
    "header with a key twice": ("npy", lambda: npy_with("{'shape': (4,), 'shape': (4,)}\n"), "not an npy array"),
    "shape of minus one": ("npy", lambda: npy_with(header((-1, 4))), "cut npy array"),
    "shape of minus one squared": ("npy", lambda: npy_with(header((-2, -2))), "cut npy array"),
    "shape of 2**62": ("npy", lambda: npy_with(header((2**62,))), "too many elements"),
    "shape of 5,000 digits": ("npy", lambda: npy_with(header((4,)).replace("4", "9" * 5000, 1)), "not an npy array"),
    "shape of True": ("npy", lambda: npy_with(header((True, 4))), "not an npy array"),
    "shape of a float": ("npy", lambda: npy_with(header((4.0,))), "not an npy array"),
    "shape of 40 axes": ("npy", lambda: npy_with(header((1,) * 40 + (4,))), "wrong shape"),
    "shape of 99 axes": ("npy", lambda: npy_with(header((1,) * 99 + (4,))), "not an npy array"),
    "dtype of a gigabyte": ("npy", lambda: npy_with(header((), "|V1000000000")), "not numbers"),
    "dtype of objects": ("npy", lambda: npy(np.array([None, {}], object)), "not numbers"),
    "dtype of text": ("npy", lambda: npy(np.array(["a", "b"])), "not numbers"),
    "dtype of times": ("npy", lambda: npy(np.zeros(4, "M8[s]")), "not numbers"),
    "dtype of complex numbers": ("npy", lambda: npy(np.ones(4, np.complex64)), "not numbers"),
    "dtype of records": ("npy", lambda: npy(np.zeros(4, [("a", "f4")])), "not numbers"),
    "dtype of nothing known": ("npy", lambda: npy_with(header((4,), "<q9")), "not an npy array"),
    "npz": ("npy", lambda: b"PK\3\4" + bytes(99), "not an npy array"),
    "pickle": ("npy", lambda: b"\x80\x04\x95" + bytes(99), "not an npy array"),
    "another width": ("npy", lambda: npy(np.ones(5, np.float32)), "wrong shape"),
    "no axis": ("npy", lambda: npy(np.array(1, np.float32)), "wrong shape"),
    "NaN": ("npy", lambda: npy(np.array([1, 2, np.nan, 4])), "not finite"),
    "infinite in fp32": ("npy", lambda: npy(np.full(4, 1e300)), "not finite"),
    "safetensors": ("safetensors", lambda: save({"a": np.ones(4, np.float32)}), USED),
    "safetensors of two": ("safetensors", lambda: save({"a": np.ones(4), "b": np.ones(4)}), "no such tensor"),
    "safetensors of none": ("safetensors", lambda: tensors({}, b""), "no such tensor"),
    "safetensors, empty": ("safetensors", lambda: b"", "not a safetensors file"),
    "safetensors, header of 2**63": (
        "safetensors",
        lambda: b"\xff" * 7 + b"\x7f" + bytes(99),
        "not a safetensors file",
    ),
    "safetensors, web page": ("safetensors", lambda: PAGE, "not a safetensors file"),
    "safetensors, no JSON": ("safetensors", lambda: struct.pack("<Q", 4) + b"{{{{", "not a safetensors file"),
    "safetensors, a list": ("safetensors", lambda: tensors([1]), "not a safetensors file"),
    "safetensors, offsets beyond": (
        "safetensors",
        lambda: tensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1600]}}),
        "not a safetensors file",
    ),
    "safetensors, shape of 2**60": (
        "safetensors",
        lambda: tensors({"a": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 16]}}),
        "not a safetensors file",
    ),
    "safetensors, unknown dtype": (
        "safetensors",
        lambda: tensors({"a": {"dtype": "F128", "shape": [4], "data_offsets": [0, 16]}}),
        "not a safetensors file",
    ),
    **{
        f"bit {bit} of byte {at} flipped": ("npy", partial(flipped, VECTOR, at, bit=bit), "")
        for at in (6, 8, 10, 16, 21, 22, 30, 50, 60) for bit in (0, 3)
    },
}  # fmt: skip
"""An empty verdict: any, but a verdict."""

RASTERS: dict[str, Case] = {
    "depth in 16 bits": ("png", lambda: saved(Image.fromarray(np.ones((9, 9), np.uint16)), "PNG"), USED),
    "three channels": ("png", lambda: PNG, "wrong shape"),
    "16 bits of colour": ("png", lambda: png(9, 9, depth=16), "16-bit PNG"),
    "cut": ("png", lambda: cut(saved(Image.new("L", (99, 99)), "PNG"), 0.7), "not a PNG"),
    "jpg named png": ("png", lambda: JPEG, "not a PNG"),
    "too many pixels": ("png", lambda: png(9_000, 9_000, colour=0), "too many elements"),
    "no rows": ("npy", lambda: npy(np.ones((0, 9))), "wrong shape"),
    "one axis": ("npy", lambda: npy(np.ones(9)), "wrong shape"),
}

SERIES: dict[str, Case] = {
    "of one time": ("npy", lambda: npy(np.ones(1)), USED),
    "of no time": ("npy", lambda: npy(np.ones(0)), "wrong shape"),
    "of largest numbers": ("npy", lambda: npy(np.array([3e38, -3e38, 3e38])), ""),
    "of two channels": ("npy", lambda: npy(np.ones((9, 2))), "wrong shape"),
}

RECORDINGS: dict[str, Case] = {
    "sound": ("wav", lambda: wav(SOUND), USED),
    "64 channels": ("wav", lambda: wav(np.tile(SOUND[:, None], 64)), USED),
    "65 channels": ("wav", lambda: wav(np.tile(SOUND[:, None], 65)), "unusual recording"),
    "4 million samples a second": ("wav", lambda: wav(SOUND, rate=4_000_000), "unusual recording"),
    "1 sample a second": ("wav", lambda: wav(SOUND, rate=1), "unusual recording"),
    "NaN": ("wav", lambda: wav(np.full(1600, np.nan, np.float32)), "not finite"),
    "largest floats": ("wav", lambda: wav(np.full(1600, 3e38, np.float32)), "too loud"),
    "no samples": ("wav", lambda: wav(SOUND[:0]), "no sound"),
    "header alone": ("wav", lambda: wav(SOUND)[:44], ""),
    "half": ("wav", lambda: cut(wav(SOUND), 0.5), ""),
    "half a flac": ("flac", lambda: cut(flac(), 0.5), ""),
    "no bytes": ("wav", lambda: b"", "not a recording"),
    "web page": ("mp3", lambda: PAGE, "not a recording"),
    "LFS pointer": ("wav", lambda: POINTER, "not a recording"),
    "zeros": ("ogg", lambda: bytes(5000), "not a recording"),
    "picture": ("wav", lambda: JPEG, "not a recording"),
    "size of 4 GB": ("wav", lambda: wav(SOUND)[:4] + b"\xff\xff\xff\xff" + wav(SOUND)[8:], USED),
    "channels of 0": ("wav", lambda: wav(SOUND)[:22] + b"\0\0" + wav(SOUND)[24:], "not a recording"),
    "rate of 0": ("wav", lambda: wav(SOUND)[:24] + bytes(4) + wav(SOUND)[28:], ""),
}


def flac() -> bytes:
    """A lossless recording."""
    buffer = io.BytesIO()
    soundfile.write(buffer, SOUND, 16_000, format="FLAC")
    return buffer.getvalue()


def record(**fields: object) -> bytes:
    """JSON."""
    return json.dumps(fields).encode()


TEXTS: dict[str, Case] = {
    "sound": ("txt", lambda: b"a red bird", USED),
    "with a byte-order mark": ("txt", lambda: b"\xef\xbb\xbfa red bird", USED),
    "emoji, Arabic, Han": ("txt", lambda: "\U0001f600 \u0637\u0627\u0626\u0631 \u9e1f".encode(), USED),
    "terminal escapes": ("txt", lambda: b"\x1b]0;owned\x07\x1b[2Ja bird", USED),
    "zero bytes": ("txt", lambda: b"a\0b", USED),
    "no bytes": ("txt", lambda: b"", ABSENT),
    "white space": ("txt", lambda: b" \n\t \r\n", ABSENT),
    "Latin-1": ("txt", lambda: "caf\u00e9".encode("latin-1"), "member 'txt' is not UTF-8"),
    "UTF-16": ("txt", lambda: "caf\u00e9".encode("utf-16"), "member 'txt' is not UTF-8"),
    "surrogate in UTF-8": ("txt", lambda: b"a \xed\xa0\x80 b", "member 'txt' is not UTF-8"),
    "picture": ("txt", lambda: JPEG, "member 'txt' is not UTF-8"),
    "2 MB": ("txt", lambda: b"bird " * 400_000, "member too large"),
    "one word of 100,000 letters": ("txt", lambda: b"abcdefghij" * 10_000, USED),
    "html entities": ("txt", lambda: b"&amp;" * 10_000, USED),
    "special tokens": ("txt", lambda: b"<start_of_text><end_of_text>" * 9, USED),
    "combining marks": ("txt", lambda: ("a" + "\u0301" * 50_000).encode(), USED),
    "json": ("json", lambda: record(caption="a bird"), USED),
    "json with a byte-order mark": ("json", lambda: b"\xef\xbb\xbf" + record(caption="a bird"), USED),
    "json, lone surrogate": ("json", lambda: b'{"caption": "a \\ud800 bird"}', "member 'json' holds a lone"),
    "json, pair of surrogates": ("json", lambda: b'{"caption": "\\ud83d\\ude00"}', USED),
    "json, nested 100,000 deep": (
        "json",
        lambda: b'{"caption": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "member 'json' is not JSON",
    ),
    "json, 5,000 digits": ("json", lambda: b'{"n": ' + b"9" * 5000 + b', "caption": "a bird"}', USED),
    "json, 1e999": ("json", lambda: b'{"n": 1e999, "caption": "a bird"}', USED),
    "json, a list": ("json", lambda: b"[1, 2]", "not a record"),
    "json, a number": ("json", lambda: b"7", "not a record"),
    "json, cut": ("json", lambda: b'{"caption": "a bi', "member 'json' is not JSON"),
    "json, empty": ("json", lambda: b"", "member 'json' is not JSON"),
    "json, single quotes": ("json", lambda: b"{'caption': 'a bird'}", "member 'json' is not JSON"),
    "json, caption is a number": ("json", lambda: record(caption=7), ABSENT),
    "json, caption is null": ("json", lambda: record(caption=None), ABSENT),
    "json, captions of all kinds": ("json", lambda: record(caption=["a bird", None, 7, {}, ""]), USED),
    "json, no caption": ("json", lambda: record(other="a bird"), ABSENT),
    "json, zero bytes": ("json", lambda: bytes(50), "member 'json' is not JSON"),
    "json, web page": ("json", lambda: PAGE, "member 'json' is not JSON"),
}

TABLES: dict[str, Case] = {
    "sound": ("json", lambda: record(x=1.5, c="red"), USED),
    "5,000 digits": ("json", lambda: b'{"x": ' + b"9" * 5000 + b', "c": "a"}', USED),
    "1e999": ("json", lambda: b'{"x": 1e999, "c": "a"}', USED),
    "NaN": ("json", lambda: b'{"x": NaN, "c": "a"}', USED),
    "NaN alone": ("json", lambda: b'{"x": NaN}', ABSENT),
    "400 digits as text": ("json", lambda: record(x="9" * 400, c="a"), USED),
    "objects in columns": ("json", lambda: record(x={}, c=[1]), ABSENT),
    "surrogate": ("json", lambda: b'{"x": 1, "c": "\\udfff"}', "member 'json' holds a lone"),
    "key twice": ("json", lambda: b'{"x": 1, "x": 2}', USED),
    "csv": ("csv", lambda: b"x,c\n1,red\n", USED),
    "csv, header alone": ("csv", lambda: b"x,c\n", ABSENT),
    "csv, no bytes": ("csv", lambda: b"", ABSENT),
    "csv, surplus fields": ("csv", lambda: b"x,c\n1,red,blue,green\n", USED),
    "csv, field of 200,000 letters": ("csv", lambda: b"x,c\n1," + b"a" * 200_000 + b"\n", "member 'csv' is not a CSV"),
    "csv, unclosed quote": ("csv", lambda: b'x,c\n1,"red\n', USED),
    "csv, zero byte": ("csv", lambda: b"x,c\n1,r\0d\n", ""),
    "csv, Latin-1": ("csv", lambda: b"x,c\n1,\xe9\n", "member 'csv' is not UTF-8"),
    "csv, 1e999": ("csv", lambda: b"x,c\n1e999,red\n", USED),
}  # fmt: skip

CORPUS: dict[str, dict[str, Case]] = {
    "image": IMAGES,
    "vector": ARRAYS,
    "raster": RASTERS,
    "series": SERIES,
    "audio": RECORDINGS,
    "text": TEXTS,
    "table": TABLES,
}
