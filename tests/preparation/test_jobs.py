"""Jobs on a Dask cluster survive a worker that is killed half-way."""

import os
import signal
import time
from pathlib import Path

import pytest
from photographs import write_shards

from mmvicreg.preparation.check import CheckConfig, check
from mmvicreg.preparation.jobs import run_all


def kill_first(task):
    """Ends its worker process the first time it is run."""
    number, folder = task
    mark = Path(folder, f"run-{number}")
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    mark.touch()
    time.sleep(0.05)
    return number * 10


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_and_survives_a_killed_worker(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))
    write_shards(tmp_path, [3, 4, 5])
    with distributed.LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        tasks = [(n, str(tmp_path)) for n in range(12)]
        assert dict(run_all(kill_first, tasks, cluster=address)) == {n: n * 10 for n in range(12)}
        config = CheckConfig(f"{tmp_path}/*.tar", cluster=address, again=True)
        assert check(config) == check(CheckConfig(f"{tmp_path}/*.tar", processes=1, again=True))
