"""The page on custom modalities is a recipe that runs, saves and loads."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from webdataset import TarWriter

import mmvicreg as mm

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/custom-modality.md").read_text()


@pytest.mark.slow
def test_the_page_adds_a_modality_in_under_sixty_lines_that_train_and_load(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    lines = block.splitlines()
    modality = lines[
        lines.index("class DNAReader(mm.Reader):") - 1 : lines.index("class Config(mm.TrainConfig):") - 3
    ]
    assert len(modality) < 60
    random = np.random.default_rng(0)
    with TarWriter(str(tmp_path / "plants-000.tar")) as writer:
        for number in range(40):
            traits = {"height": random.normal(), "leaf": ["round", "long"][number % 2]}
            sample = {"__key__": f"{number:03d}", "json": json.dumps(traits).encode()}
            if number % 5:
                letters = random.choice(list("ACGT"), size=40 + number)
                sample["dna"] = "".join(letters).encode() if number != 7 else b"ACGU"
            writer.write(sample)
    (tmp_path / "dna.py").write_text(block)
    command = [sys.executable, "dna.py", "--train", "plants-000.tar", "--out", "runs/dna", "--batch-size", "8",
               "--epochs", "2", "--cpu", "--log-every", "1", "--optimizer.warmup-epochs", "0"]  # fmt: skip
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "runs/dna/log.jsonl").read_text().splitlines()]
    counts = [line["present"]["dna"] for line in log if "present" in line]
    assert sum(counts) == 2 * (40 - 8 - 1)  # every fifth lacks it, and one holds a U
    run = mm.load(tmp_path / "runs/dna", recipe=tmp_path / "dna.py")
    found = run.model.branch("dna")(torch.zeros(2, 64, dtype=torch.int64))
    assert found.z.shape == (2, 32) and run.step == 10
