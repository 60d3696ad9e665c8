"""Runs Python programs in forks of one process that has imported the package, as if Python had been started anew.

Starting Python and importing torch, transformers and timm takes longer than most of what the tests run. Programs that
start processes, or whose start is itself tested, are started by subprocess instead.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

IMPORTED = ("torch", "transformers", "timm", "tyro", "mmvicreg.cli.main", "mmvicreg.evaluation.evaluate")


def can_run(words: Sequence[str]) -> bool:
    """Whether ``run`` takes this command line: ``python SCRIPT ...``, ``python -m ...`` or ``mmvicreg ...``."""
    return words[0] in ("python", sys.executable, "mmvicreg")


def run(
    words: Sequence[str], *, cwd: Path, environment: Mapping[str, str], timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """What the command line does in ``cwd``. Raises subprocess.TimeoutExpired past ``timeout`` seconds."""
    arguments = [*(["-m", "mmvicreg.cli.main"] if words[0] == "mmvicreg" else []), *words[1:]]
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        request = {
            "arguments": arguments,
            "cwd": str(cwd),
            "environment": dict(environment),
            "out": str(out),
            "err": str(err),
        }
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        process = int(server.stdout.readline())
        timer = threading.Timer(timeout, os.kill, (process, signal.SIGKILL))
        timer.start()
        status = int(server.stdout.readline())
        late = timer.finished.is_set()  # before cancel, which sets it as well
        timer.cancel()
        printed = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
        if late:
            raise subprocess.TimeoutExpired(list(words), timeout, *printed)
        return subprocess.CompletedProcess(list(words), status, *printed)


@cache
def _server() -> subprocess.Popen[str]:
    """The process that is forked, one for each process of pytest."""
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    """The server ends where its input ends."""
    with server:
        pass


def _serve() -> None:
    """For each request on standard input: fork, and print the process and then its status."""
    for name in IMPORTED:
        __import__(name)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            _become(json.loads(line))
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def _become(request: Mapping[str, Any]) -> None:
    """Run the program in this process, and end it as Python ends."""
    for path, descriptor in ((os.devnull, 0), (request["out"], 1), (request["err"], 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), descriptor)
    sys.stdin = open(0, encoding="utf-8")
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    program, *rest = request["arguments"]
    status: object = 0
    try:
        if program == "-m":
            sys.argv = rest
            sys.path[0] = request["cwd"]
            sys.modules.pop(rest[0], None)  # or runpy warns that it is imported already
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [program, *rest]
            sys.path[0] = str(Path(request["cwd"], program).parent)
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        status = end.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(status or 0))  # type: ignore[call-overload]


if __name__ == "__main__":
    _serve()
