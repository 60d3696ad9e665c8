"""One function over many tasks: in this process, in several, or on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TypeVar

from mmvicreg.errors import InvalidValueError
from mmvicreg.stream.workers import end_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, processes: int = 0, cluster: str = ""
) -> Iterator[tuple[int, Result]]:
    """(number of the task, its result), as they finish.

    ``processes`` 0 takes all cores. ``cluster`` is the address of a Dask scheduler: tasks of a worker that
    dies go to another. Function and tasks are pickled; a worker must see the same files.
    """
    count = min(processes or len(os.sched_getaffinity(0)), len(tasks))
    if cluster:
        yield from _on_cluster(function, tasks, cluster)
    elif count <= 1:
        for number, task in enumerate(tasks):
            yield number, function(task)
    else:
        yield from _on_processes(function, tasks, count)


def _on_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], count: int
) -> Iterator[tuple[int, Result]]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=end_with_parent) as pool:
        waiting: dict[Future[Result], int] = {}
        todo = iter(enumerate(tasks))
        try:
            while True:
                while len(waiting) < 2 * count and (task := next(todo, None)) is not None:
                    waiting[pool.submit(function, task[1])] = task[0]
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _on_cluster(
    function: Callable[[Task], Result], tasks: Sequence[Task], address: str
) -> Iterator[tuple[int, Result]]:
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise InvalidValueError("--cluster needs Dask: pip install 'dask[distributed]'") from None
    with Client(address) as client:
        futures = client.map(function, tasks, pure=False, retries=2)
        numbers = {future.key: number for number, future in enumerate(futures)}
        for future, result in as_completed(futures, with_results=True):
            yield numbers[future.key], result
