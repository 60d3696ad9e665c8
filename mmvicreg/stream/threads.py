"""Threads that read and decode: how many, and a pool of them."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch


def default_threads() -> int:
    """Threads of a process: the cores divided by LOCAL_WORLD_SIZE, at least 1, at most 32."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(32, len(os.sched_getaffinity(0)) // processes))


def start_threads(count: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads run torch operators on one core each.

    ``torch.set_num_threads`` sets the calling thread and the default of later threads; the default is restored, so
    that only the pool's threads are limited.
    """
    before = torch.get_num_threads()
    ready = threading.Barrier(count + 1)

    def limit_to_one_core() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=limit_to_one_core)
    for _ in range(count):
        pool.submit(time.sleep, 0)
    ready.wait()
    torch.set_num_threads(before)
    return pool
