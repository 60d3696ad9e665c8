"""Fixtures shared by several test files."""

from browser import browser
from demo_run import demo
from pictured_run import pictured_run
from small_runs import small_run, tiny, tiny_name

__all__ = ["browser", "demo", "pictured_run", "small_run", "tiny", "tiny_name"]
