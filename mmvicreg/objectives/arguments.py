"""Settings that make no statistic are refused where they are given."""

from __future__ import annotations

from mmvicreg.errors import InvalidValueError


def expect(name: str, value: object, *, holds: bool, expected: str) -> None:
    """Raise ValueError unless the setting ``name`` holds."""
    if not holds:
        raise InvalidValueError(f"{name} is {value!r}; expected {expected}")


def expect_positive(owner: object, *names: str) -> None:
    """Raise ValueError unless these fields of ``owner`` are above 0: numbers of slices, widths of kernels."""
    for name in names:
        value = vars(owner)[name]
        expect(f"{type(owner).__name__}.{name}", value, holds=value > 0, expected="a number above 0")
