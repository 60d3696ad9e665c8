"""Files that are given as weights: read right, or named for what they are, with the next move; names without a hub."""

import argparse
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

import mmvicreg as mm
from mmvicreg.modalities.encoders.weights import load_weights, read_tensors

ROOT = Path(__file__).parents[2]
PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def program() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against writing such files, which people still have
        torch.jit.save(torch.jit.trace(linear(), torch.zeros(1, 3)), buffer)
    return buffer.getvalue()


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


OTHER_FILES = {
    "TorchScript": (
        program,
        r"are a TorchScript program, which is code; .*convert it once: .*state_dict\(\)",
    ),
    "argparse namespace": (
        lambda: saved({"state_dict": linear().state_dict(), "args": argparse.Namespace(lr=0.1)}),
        r"hold the Python object argparse\.Namespace beside tensors.*save its weights once: safetensors",
    ),
    "whole module": (lambda: saved(linear()), r"hold the Python object torch\.nn.*save its weights once"),
    "LFS pointer": (lambda: POINTER, r"are a Git LFS pointer of \d+ bytes.*run 'git lfs pull'"),
    "web page": (lambda: PAGE, "are a web page, not weights; download the file again"),
    "no bytes": (lambda: b"", "an empty file; download it again"),
    "cut": (lambda: saved(linear().state_dict())[:-200], "no torch file, or a cut one.*download it again"),
    "noise": (
        lambda: bytes(range(256)) * 4,
        "Python objects, or is no torch file|no torch file, or a cut one",
    ),
    "a list": (lambda: saved([torch.zeros(2)]), "hold a list and no tensors by name; expected a state dict"),
}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_of_another_kind_is_named_with_the_next_move(kind, suffix, tmp_path):
    build, message = OTHER_FILES[kind]
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(build())
    if suffix == "safetensors" and kind in ("argparse namespace", "whole module", "cut", "noise", "a list"):
        message = "are no safetensors file, or a cut one.*download it again"
    with pytest.raises(ValueError, match=message) as found:
        read_tensors(str(file))
    assert "weights_only" not in str(found.value)  # torch's own advice is to switch safe reading off


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_left_out(prefix, tmp_path):
    source = linear()
    torch.save({prefix + name: value for name, value in source.state_dict().items()}, tmp_path / "a.pt")
    target = nn.Linear(3, 2)
    load_weights(target, str(tmp_path / "a.pt"))
    assert torch.equal(target.weight, source.weight) and torch.equal(target.bias, source.bias)


def test_positions_of_another_picture_size_are_interpolated_as_timm_does(tmp_path):
    source = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0)
    save_file(source.state_dict(), tmp_path / "64.safetensors")
    weights = str(tmp_path / "64.safetensors")
    image = mm.ImageModality(encoder="timm/vit_tiny_patch16_224", size=96, projector=(), weights=weights)
    ours = image.branch().state_dict()
    (name,) = [name for name in ours if name.endswith("pos_embed")]
    prefix = source.num_prefix_tokens
    assert isinstance(prefix, int)
    theirs = resample_abs_pos_embed(source.pos_embed, new_size=[6, 6], num_prefix_tokens=prefix)
    assert ours[name].shape == (1, 36 + prefix, source.embed_dim)
    torch.testing.assert_close(ours[name], theirs.detach())


OFFLINE = """
import json, sys
import mmvicreg as mm

def image(encoder):
    return mm.ImageModality(encoder=encoder, weights="hub", projector=()).branch()

def text(encoder):
    return mm.TextModality(encoder=encoder, weights="hub", projector=()).branch()

calls = {
    "hf/nobody/nothing": lambda: mm.load("hf/nobody/nothing"),
    "transformers/nobody/nothing": lambda: mm.load("transformers/nobody/nothing"),
    "open_clip/RN50:cc12m": lambda: mm.load("open_clip/RN50:cc12m"),
    "timm/test_resnet": lambda: image("timm/test_resnet"),
    "transformers/nobody/bert": lambda: text("transformers/nobody/bert"),
}
found = {}
for name, call in calls.items():
    try:
        call()
        found[name] = ["", ""]
    except Exception as error:
        found[name] = [type(error).__mro__[1].__name__, str(error)]
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "variables",
    [
        {"HF_HUB_OFFLINE": "1"},
        pytest.param(
            {"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.nightly
        ),  # it is asked several times
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_names_of_the_hub_without_a_hub_are_answered_in_words(variables, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-W", "ignore", "-c", OFFLINE]
    done = subprocess.run(
        command, env={**environment, **variables}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, (kind, message) in json.loads(done.stdout.splitlines()[-1]).items():
        assert kind == "UserError", (name, kind, message)
        assert name.partition(":")[0] in message, message
        assert "network" in message or "can be downloaded" in message, message
        assert "\n" not in message.strip(), message
