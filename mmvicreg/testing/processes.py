"""A pool of real gloo processes for tests of distributed code: ``pool(2).run(function, *args)``.

``function`` is called on every process with the same arguments, inside an initialized ``torch.distributed``
process group; the results come back as a list in order of rank. The processes are started once per Python process
and reused, because starting them costs seconds. ``function`` must be at module level, since it is pickled by name.
An exception on any process, or silence past the deadline, raises in the caller.
"""

from __future__ import annotations

import atexit
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from multiprocessing import connection
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

DEADLINE = 120.0
"""Seconds without an answer, or inside one collective operation, after which a call fails."""


def pool(size: int) -> Pool:
    """The shared pool of ``size`` gloo processes, started anew after a failure."""
    found = _pool(size)
    if found.broken:
        _pool.cache_clear()
        found = _pool(size)
    return found


class Pool:
    """``size`` processes in one gloo process group, each waiting for functions to run."""

    def __init__(self, size: int) -> None:
        # A fork server imports torch once; each process is then a cheap fork of it.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torch.distributed"])
        self.broken = False
        self._folder = tempfile.TemporaryDirectory()
        self._pipes: list[Any] = []
        self._members: list[Any] = []
        address = f"file://{self._folder.name}/group"
        for rank in range(size):
            ours, theirs = context.Pipe()
            member = context.Process(target=_serve, args=(rank, size, address, theirs), daemon=True)
            member.start()
            theirs.close()
            self._pipes.append(ours)
            self._members.append(member)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call ``function(*args)`` on every process and return the results in order of rank.

        Raises RuntimeError with the traceback of the process that failed, TimeoutError past the deadline.
        """
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((sys.path, pickle.dumps((function, args)))))
        results: dict[int, Any] = {}
        end = monotonic() + DEADLINE
        while len(results) < len(self._pipes):
            waiting = [pipe for rank, pipe in enumerate(self._pipes) if rank not in results]
            ready = connection.wait(waiting, timeout=max(0.0, end - monotonic()))
            if not ready:
                self.close()
                raise TimeoutError(f"processes silent for {DEADLINE} s; answered: {sorted(results)}")
            for pipe in ready:
                rank = self._pipes.index(pipe)
                results[rank] = self._receive(rank)
        return [results[rank] for rank in range(len(self._pipes))]

    def _receive(self, rank: int) -> Any:
        try:
            result, error = pickle.loads(self._pipes[rank].recv_bytes())
        except EOFError:
            self.close()
            raise RuntimeError(f"process {rank} of {len(self._pipes)} died") from None
        if error:
            self.close()
            raise RuntimeError(f"process {rank} of {len(self._pipes)} failed:\n{error}")
        return result

    def close(self) -> None:
        """Kill the processes, including those blocked in a collective operation."""
        self.broken = True
        for member in self._members:
            member.kill()
            member.join()
        self._folder.cleanup()


@cache
def _pool(size: int) -> Pool:
    made = Pool(size)
    atexit.register(made.close)
    return made


def _serve(rank: int, size: int, address: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=size, timeout=timedelta(seconds=DEADLINE)
    )
    while True:
        try:
            path, call = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            sys.path[:] = path  # the function's module is found where the caller found it
            function, args = pickle.loads(call)
            answer = (function(*args), "")
        except Exception:
            answer = (None, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))
