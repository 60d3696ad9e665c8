"""Fixtures shared by several test files."""

import pytest
from browser import browser
from demo_run import demo
from pictured_run import pictured_run
from small_runs import small_run, tiny, tiny_name

__all__ = ["browser", "demo", "pictured_run", "small_run", "tiny", "tiny_name"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nightly and GPU tests are slow too: ``-m "not slow"`` alone leaves them out."""
    for item in items:
        if item.get_closest_marker("nightly") or item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.slow)
