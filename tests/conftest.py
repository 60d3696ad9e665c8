"""Fixtures shared by several test files."""

from small_runs import small_run, tiny, tiny_name

__all__ = ["small_run", "tiny", "tiny_name"]
