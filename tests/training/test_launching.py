"""The launchers of docs/launching.md, as separate processes on loopback: each gives the run of one process."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import toy
from gloo_training import assert_close, plain

import mmvicreg as mm

pytestmark = pytest.mark.nightly


def free_port() -> str:
    """A port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def assert_of_one(one: Path, run: Path) -> None:
    """Two processes wrote it, with the losses of one."""
    states = [json.loads(path.read_text()) for path in run.glob("checkpoints/*/state.json")]
    assert {state["processes"] for state in states} == {2}
    assert_close(one / "run", run)


def launch(*commands: list[str]) -> None:
    """Start every command at once, as machines would, and wait for all."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command in commands
    ]
    try:
        outputs = [process.communicate(timeout=400)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, output in zip(started, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, beside its shards."""
    folder = tmp_path_factory.mktemp("one")
    mm.train(plain(toy.write_shards(folder / "data"), folder / "run"), toy.objective)
    return folder


def recipe(one: Path, out: Path) -> list[str]:
    """The recipe and its options."""
    options = ["--train", str(one / "data/train-*.tar"), "--out", str(out)]
    return [toy.__file__, *options, "--a.dropout", "0.0", "--b.dropout", "0.0"]


def test_two_machines_of_torchrun(one: Path, tmp_path: Path) -> None:
    port = free_port()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--master-addr", "127.0.0.1", "--master-port", port]
    launch(*[[*torchrun, "--node-rank", rank, *recipe(one, tmp_path / "run")] for rank in "01"])
    assert_of_one(one, tmp_path / "run")


def test_two_machines_of_accelerate(one: Path, tmp_path: Path) -> None:
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    accelerate += ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
    accelerate += ["--main_process_port", free_port(), "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch(*[[*accelerate, "--machine_rank", rank, *recipe(one, tmp_path / "run")] for rank in "01"])
    assert_of_one(one, tmp_path / "run")


def test_a_killed_process_ends_the_launcher_and_the_same_command_continues(one: Path, tmp_path: Path) -> None:
    """kill -9 of one of two under torchrun: nothing is left behind, and the next launch ends as one process does.

    Reading one sample takes 3 seconds in each epoch, so that there is time to kill.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [*recipe(one, tmp_path / "run"), "--checkpoint-every", "2", "--a.stall", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    log = tmp_path / "run/log.jsonl"
    while launcher.poll() is None and not (log.is_file() and log.read_bytes().count(b"\n") >= 1):
        time.sleep(0.01)
    workers = psutil.Process(launcher.pid).children()
    assert len(workers) == 2
    workers[1].kill()
    output = launcher.communicate(timeout=200)[0].decode()
    assert launcher.returncode == 1 and "Signal 9 (SIGKILL)" in output, output[-3000:]
    assert not any(worker.is_running() for worker in workers)
    launch(command)
    assert_of_one(one, tmp_path / "run")


def test_two_processes_of_accelerate(one: Path, tmp_path: Path) -> None:
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    accelerate += ["--num_processes", "2", "--num_machines", "1", "--main_process_port", free_port()]
    launch([*accelerate, "--mixed_precision", "no", "--dynamo_backend", "no", *recipe(one, tmp_path / "run")])
    assert_of_one(one, tmp_path / "run")


def test_accelerates_cpu_flag_is_refused_where_it_starts_one_process_of_two(
    one: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu"]
    command += [
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    done = subprocess.run(
        [*command, *recipe(one, tmp_path / "run")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1 and "accelerate launch --multi_gpu" in done.stderr
    assert not (tmp_path / "run").exists()
