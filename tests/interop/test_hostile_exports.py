"""Architecture files of a stranger's export are refused before anything is built: memory is measured in a child."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

IMAGE = {"class": "mmvicreg.modalities.image:ImageModality", "encoder": "timm/test_resnet", "size": 64}
TEXT = {"class": "mmvicreg.modalities.text:TextModality", "encoder": "transformers/.", "projector": [8, 6]}
BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
TEXTS = {
    "width": (BERT | {"hidden_size": 8192}, "611,278,976 weights"),
    "inner width": (BERT | {"intermediate_size": 9_000_000}, "2,322,077,504 weights"),
    "vocabulary": (BERT | {"vocab_size": 9_000_000}, "refused before it is built"),
    "vocabulary of 2**40": (BERT | {"vocab_size": 2**40}, "at most 10,000,000"),
    "positions": (BERT | {"max_position_embeddings": 9_000_000}, "refused before it is built"),
    "layers": (BERT | {"num_hidden_layers": 200_000}, "at most 1,000"),
    "layers of GPT-2": (
        {"model_type": "gpt2", "n_layer": 200_000, "n_embd": 64, "n_head": 2},
        "at most 1,000",
    ),
    "layers as a fraction": (BERT | {"num_hidden_layers": 1e9}, "at most 1,000"),
    "layers as infinity": (BERT | {"num_hidden_layers": float("inf")}, "at most 1,000"),
    "layers as text": (BERT | {"num_hidden_layers": "900000000"}, "finds no model there"),
    "list of layers": ({"model_type": "reformer", "attn_layers": ["local"] * 20_000}, "at most 1,000"),
    "labels": (BERT | {"num_labels": 9_000_000}, "at most 100,000"),
    "attention": (BERT | {"attn_implementation": "evil/kernels"}, "expected one of eager, sdpa"),
    "saved attention": (BERT | {"_attn_implementation": "evil/kernels"}, "expected one of eager, sdpa"),
    "configuration of 2 MB": (BERT | {"note": "x" * 2_000_000}, "a few thousand"),
    "heads that do not divide": (BERT | {"num_attention_heads": 7}, "no model that transformers can build"),
    "a part of a pair": (
        {
            "model_type": "clip",
            "text_config": BERT,
            "vision_config": {"image_size": 8_000_000, "patch_size": 1},
        },
        "refused before it is built",
    ),
}
IMAGES = {
    "projector of 2**22": ({"projector": [2**22] * 3}, "refused before it is built"),
    "projector of 200,000 layers": ({"projector": [8] * 200_000}, "at most 1,000"),
    "projector of 900 layers": ({"projector": [2048] * 900}, "refused before it is built"),
}
READ = """
import json, resource, sys
from mmvicreg.interop.exported import read_export
found = {}
for name in json.loads(sys.argv[2]):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_export(f"{sys.argv[1]}/{name}")
        message = "it was loaded"
    except ValueError as error:
        message = str(error)
    found[name] = message, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(json.dumps(found))
"""


def write(folder, view, modality, architecture):
    folder.mkdir()
    plain = {"format": 1, "step": 1, "modalities": {view: modality}, "views": {view: view}}
    (folder / "config.json").write_text(json.dumps(plain))
    save_file({"x": torch.zeros(1000)}, folder / "model.safetensors")
    if architecture is not None:
        (folder / view).mkdir()
        (folder / view / "config.json").write_text(json.dumps(architecture))


@pytest.mark.slow
def test_an_architecture_larger_than_its_weights_is_refused_and_takes_no_memory(tmp_path):
    expected = {"sound": "does not fit config.json"}  # first: the libraries are loaded for it
    write(tmp_path / "sound", "text", TEXT, BERT)
    for name, (architecture, message) in TEXTS.items():
        write(tmp_path / name, "text", TEXT, architecture)
        expected[name] = message
    for name, (fields, message) in IMAGES.items():
        write(tmp_path / name, "image", IMAGE | fields, None)
        expected[name] = message
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path), json.dumps(list(expected))],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not [(name, message) for name, (message, _) in found.items() if expected[name] not in message]
    assert not [
        (name, growth) for name, (_, growth) in found.items() if name != "sound" and growth > 150_000_000
    ]
