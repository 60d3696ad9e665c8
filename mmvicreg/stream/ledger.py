"""The ledger: one JSON line for every input that was recovered or rejected.

A reader rejects a sample with ``BadSampleError("reason: details")``; the text before the first colon is the reason
that counts are kept by. Lines are written in step order when a batch is handed over, so they do not depend on
threads. A run that continues from a checkpoint repeats the steps after it; :func:`read_ledger` keeps one line for each
(step, number, view), whichever process wrote it.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Literal

from mmvicreg.stream.sample_counts import SampleCounts

Verdict = Literal["recovered", "rejected"]


@dataclass(frozen=True)
class Finding:
    """One recovered or rejected input. ``substitute``: key of the sample that was used instead, or empty."""

    step: int
    epoch: int
    view: str
    shard: str
    key: str
    number: int
    verdict: Verdict
    reason: str
    substitute: str = ""

    @property
    def kind(self) -> str:
        """The reason up to its first colon."""
        return self.reason.partition(":")[0].strip()


class Ledger:
    """Appends findings to ``FOLDER/ledger-RANK.jsonl`` (no file if no folder) and keeps this process's counts."""

    def __init__(self, folder: str | None = None, *, rank: int = 0) -> None:
        self.counts = SampleCounts()
        self._file = None
        if folder is not None:
            os.makedirs(folder, exist_ok=True)
            self._file = open(os.path.join(folder, f"ledger-{rank:05d}.jsonl"), "a", encoding="utf-8")

    def write(self, findings: Sequence[Finding]) -> None:
        """Count the findings and put them on disk before the batch they belong to is used."""
        for finding in findings:
            self.counts.add(finding)
            if self._file is not None:
                self._file.write(json.dumps(asdict(finding)) + "\n")
        if findings and self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_ledger(folder: str) -> list[Finding]:
    """All findings of a run over all processes and restarts, each once, in step order.

    The last line of a file may be cut (the process was killed while it wrote); that step is repeated anyway.
    """
    found: dict[tuple[int, int, str], Finding] = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "ledger-*.jsonl"))):
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    finding = Finding(**json.loads(line))
                    found[finding.step, finding.number, finding.view] = finding
    return [found[key] for key in sorted(found)]
