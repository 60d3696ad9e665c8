"""Fixtures shared by several test files."""

import pytest
from browser import browser
from demo_run import demo
from pictured_run import pictured_run
from small_runs import small_run, tiny, tiny_name

__all__ = ["browser", "demo", "pictured_run", "small_run", "tiny", "tiny_name"]


SLOW_FIXTURES = {"browser", "demo"}
"""What takes half a minute to make."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nightly and GPU tests are slow too, and those that open a browser: ``-m "not slow"`` alone leaves them out."""
    for item in items:
        slow = SLOW_FIXTURES & set(getattr(item, "fixturenames", ()))
        if slow or item.get_closest_marker("nightly") or item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.slow)
