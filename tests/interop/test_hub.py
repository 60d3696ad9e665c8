"""Exports go to the Hugging Face hub and come back, over HTTP; what is unsafe stays where it is."""

import os
import subprocess
import sys
from pathlib import Path

import hub
import pytest
import torch
from safetensors.torch import load_file

from mmvicreg.interop.export import save_pretrained

SCRIPT = """
import sys, mmvicreg as mm
from safetensors.torch import save_model
from mmvicreg.cli.main import main
print(main(["export", sys.argv[1], sys.argv[2], "--push", "someone/toy"]))
back = mm.load("hf/someone/toy")
save_model(back.model, sys.argv[3])
print(main(["export", "hf/someone/missing", sys.argv[2]]))
print(main(["export", sys.argv[1], sys.argv[2], "--push", "nobody/toy"]))
"""


@pytest.mark.slow
def test_an_export_is_pushed_and_loaded_back_with_the_same_weights(small_run, tmp_path):
    folder = save_pretrained(small_run, tmp_path / "export")
    with hub.serve() as found:
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HF_ENDPOINT": found.address,
            "HF_TOKEN": "hf_of_nobody",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        paths = [str(folder), str(tmp_path / "again"), str(tmp_path / "back.safetensors")]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *paths],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"pushed: {found.address}/someone/toy") and lines[2] == "0"
    held = found.files["someone/toy"]
    assert set(held) == {"README.md", "config.json", "model.safetensors", "text/vocabulary.json"}
    assert held["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    back = load_file(tmp_path / "back.safetensors")
    for name, value in load_file(folder / "model.safetensors").items():
        torch.testing.assert_close(back[name], value, rtol=0, atol=0)
    assert all(token == "Bearer hf_of_nobody" for method, _, token in found.requests if method == "POST")
    assert lines[-2:] == ["1", "1"]
    assert "hf/someone/missing cannot be downloaded" in done.stderr and "Check its name" in done.stderr
    assert (
        "was not pushed to nobody/toy" in done.stderr
        and "Pushing needs the network and a login" in done.stderr
    )
