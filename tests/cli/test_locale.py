"""Commands on captions and names beyond ASCII where the locale has ASCII alone, as in many a container or batch job."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

COMMANDS = """
import json, os, sys
from mmvicreg.cli.main import main
for command in json.loads(sys.argv[1]):
    status = main([os.fsdecode(word.encode()) for word in command])
    if status:
        sys.exit(f"{command} ended with {status}")
"""


@pytest.mark.slow
def test_names_and_captions_beyond_ascii_pass_through_a_locale_without_them(pictured_run, tmp_path):
    (tmp_path / "Bilder").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"Bilder/größe 日本 {number}.png")
    lines = [f"größe 日本 {number}.png,Ein schöner Käfer {number}" for number in range(4)]
    (tmp_path / "Tabelle é.csv").write_text("\n".join(["image,caption", *lines]), encoding="utf-8")
    run, shards = str(pictured_run.folder), "geschüttelt/*.tar"
    commands = [
        ["pack", "Tabelle é.csv", "geschüttelt", "--images", "Bilder"],
        ["check", shards, "--json"],
        ["look", shards, "--out", "Übersicht.html"],
        ["search", run, shards, "schöner snowman", "--k", "1"],
        ["search", run, shards, "schöner snowman", "--k", "1", "--json"],
        ["evaluate", run, "--data", f"größe={shards}", "--out", "Größe.json"],
    ]
    ascii_only = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "",
        "MMVICREG_CACHE": str(tmp_path / "c"),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=tmp_path, env={**os.environ, **ascii_only}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.isascii() and "4 samples in" in done.stdout
    found = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"query"'))
    assert found["results"][0]["text"].startswith("Ein schöner Käfer")
    assert found["results"][0]["source"].startswith("größe 日本 ")
    assert "Käfer" in (tmp_path / "Übersicht.html").read_text(encoding="utf-8")
    assert (tmp_path / "Größe.json").is_file()
