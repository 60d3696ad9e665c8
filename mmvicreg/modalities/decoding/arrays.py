"""Arrays from the bytes of a member: npy without pickle, safetensors, 16-bit PNG. Bounded before they are read."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

import numpy as np

from mmvicreg.errors import InvalidValueError
from mmvicreg.stream.reader import BadSampleError, decoding

NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""Readers of an npy header by version; numpy bounds its length at 10,000 bytes."""


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
    _check_numbers(array.dtype)
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadSampleError(f"not finite: {int((~np.isfinite(values)).sum())} values of an array")
    return values


def _check_elements(shape: tuple[int, ...], limit: int) -> None:
    if math.prod(shape) > limit:
        raise BadSampleError(
            f"too many elements: an array of shape {str(shape)[:80]}; at most {limit} are read"
        )


def _check_numbers(dtype: np.dtype) -> None:
    if dtype.kind not in "fiub" or dtype.shape:
        raise BadSampleError(f"not numbers: an array of {str(dtype)[:80]}; expected real numbers")


def _read_npy(data: bytes, limit: int) -> np.ndarray:
    """The array, without a copy of its numbers: what the header promises is compared with the bytes that follow."""
    file = io.BytesIO(data)
    with decoding("not an npy array of numbers"):
        version = np.lib.format.read_magic(file)
        if version not in NPY_HEADERS:
            raise BadSampleError(f"npy version: {version}; expected 1.0 or 2.0")
        shape, columns_first, dtype = NPY_HEADERS[version](file)
        _check_elements(shape, limit)
        _check_numbers(dtype)
        count = math.prod(shape)
        if min(shape, default=1) < 0 or count * dtype.itemsize > len(data) - file.tell():
            raise BadSampleError(
                f"cut npy array: shape {str(shape)[:80]} with {len(data) - file.tell()} bytes behind it; expected "
                f"{count * dtype.itemsize}"
            )
        array = np.frombuffer(data, dtype, count, file.tell())
        return array.reshape(shape, order="F" if columns_first else "C")


def _read_safetensors(data: bytes, name: str) -> np.ndarray:
    from safetensors.numpy import load

    with decoding("not a safetensors file"):
        tensors = load(data)
    if name in tensors:
        return tensors[name]
    if name or len(tensors) != 1:
        names = ", ".join(sorted(tensors)) or "none"
        raise BadSampleError(f"no such tensor: {name!r}; the member has {names[:200]}")
    return next(iter(tensors.values()))


def _read_png(data: bytes, limit: int) -> np.ndarray:
    from PIL import Image

    with decoding("not a PNG"), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        _check_elements((image.height, image.width, len(image.getbands())), limit)
        if data[24] == 16 and not image.mode.startswith("I"):
            # Pillow would cut them to 8 bits without a word.
            raise BadSampleError(f"16-bit PNG in colour: mode {image.mode}; only grey ones are read, use npy")
        return np.asarray(image)
