"""Fixtures shared by several test files."""

from demo_run import demo
from small_runs import small_run, tiny, tiny_name

__all__ = ["demo", "small_run", "tiny", "tiny_name"]
