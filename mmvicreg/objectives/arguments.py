"""Checks of the arguments of regularizers and alignments, made in their constructors."""

from __future__ import annotations

from mmvicreg.errors import InvalidValueError


def expect(name: str, value: object, *, holds: bool, expected: str) -> None:
    """Raise ValueError with the value found and the value expected unless the argument ``name`` holds."""
    if not holds:
        raise InvalidValueError(f"{name} is {value!r}; expected {expected}")


def expect_positive(owner: object, *names: str) -> None:
    """Raise ValueError unless these attributes of ``owner`` are above 0."""
    for name in names:
        value = vars(owner)[name]
        expect(f"{type(owner).__name__}.{name}", value, holds=value > 0, expected="a number above 0")
