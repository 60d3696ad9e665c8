"""Published architectures embed as their own library does: every family of open_clip and transformers, offline."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_family_embeds_as_its_own_library_does():
    done = subprocess.run(
        [sys.executable, "benchmarks/published_models.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) >= 19
    assert {name: value for name, value in found.items() if not value < 1e-4} == {}


def test_the_page_names_every_family():
    page = (ROOT / "docs" / "published-models.md").read_text()
    for family in ("SigLIP 2", "CLIPA", "PE", "MobileCLIP", "DFN", "CoCa", "EVA", "BLIP", "ALIGN", "AltCLIP"):
        assert family in page
