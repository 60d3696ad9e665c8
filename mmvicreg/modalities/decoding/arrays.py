"""Arrays from the bytes of a member: npy without pickle, safetensors, 16-bit PNG. Bounded before they are read."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.stream.reader import BadSampleError


def first_member(members: Mapping[str, bytes], suffixes: tuple[str, ...]) -> tuple[str, bytes] | None:
    """The first of ``suffixes`` that a sample has, with its bytes; None where it has none."""
    for suffix in suffixes:
        if suffix in members:
            return suffix, members[suffix]
    return None


def read_array(data: bytes, suffix: str, *, name: str = "", max_elements: int) -> np.ndarray:
    """The numbers of one member, as float32.

    The suffix says how: ``npy``, ``safetensors`` (tensor ``name``, or its only one), or ``png``.

    Raises BadSampleError for bytes that are no such file, hold objects or text, hold more than ``max_elements``, or
    hold a value that is not finite.
    """
    kind = suffix.rpartition(".")[2]
    if kind == "npy":
        array = _read_npy(data, max_elements)
    elif kind == "safetensors":
        array = _read_safetensors(data, name)
    elif kind == "png":
        array = _read_png(data, max_elements)
    else:
        raise InvalidValueError(f"member {suffix!r}: expected a suffix ending in npy, safetensors or png")
    _check_elements(array.shape, max_elements)
    if array.dtype.kind not in "fiub":
        raise BadSampleError(f"an array of {array.dtype}; expected real numbers")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadSampleError(f"an array with {int((~np.isfinite(values)).sum())} values that are not finite")
    return values


def _check_elements(shape: tuple[int, ...], limit: int) -> None:
    if math.prod(shape) > limit:
        raise BadSampleError(f"an array of shape {shape}; at most {limit} elements are read")


def _read_npy(data: bytes, limit: int) -> np.ndarray:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise BadSampleError(f"npy version {version}; expected 1.0 or 2.0")
        shape, _, _ = readers[version](file)
        _check_elements(shape, limit)
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    except BadSampleError:
        raise
    except (ValueError, EOFError, MemoryError, SyntaxError) as error:
        raise BadSampleError(f"not an npy array of numbers: {error}") from None


def _read_safetensors(data: bytes, name: str) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise BadSampleError(f"not a safetensors file: {error}") from None
    if name in tensors:
        return tensors[name]
    if name or len(tensors) != 1:
        raise BadSampleError(f"no tensor {name!r}; the member has {', '.join(sorted(tensors)) or 'none'}")
    return next(iter(tensors.values()))


def _read_png(data: bytes, limit: int) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            _check_elements((picture.height, picture.width, len(picture.getbands())), limit)
            if data[24] == 16 and not picture.mode.startswith("I"):
                # Pillow would cut them to 8 bits without a word.
                raise BadSampleError(f"a 16-bit PNG of mode {picture.mode}; only grey ones are read, use npy")
            return np.asarray(picture)
    except BadSampleError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise BadSampleError(f"not a PNG: {error}") from None
