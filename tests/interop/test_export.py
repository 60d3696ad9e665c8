"""Runs leave and come back whole; what strangers send is checked; other tools get the same features."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from photographs import crop
from safetensors.torch import load_file, save_file

from mmvicreg.evaluation.summary import Summary
from mmvicreg.interop.export import save_pretrained
from mmvicreg.interop.exported import read_export
from mmvicreg.interop.loading import load
from mmvicreg.interop.onnx import save_onnx
from mmvicreg.interop.open_clip import save_open_clip, to_open_clip
from mmvicreg.interop.timm import save_image_encoder


def inputs(run):
    image = torch.randint(0, 256, (3, *run.modalities["image"].reader().shape), dtype=torch.uint8)
    text = torch.stack(
        [run.modalities["text"].reader().encode(t) for t in ("a red bird", "boat", "unknown word")]
    )
    return {"image": image, "text": text}


def outputs(run):
    torch.manual_seed(1)
    with torch.inference_mode():
        return {name: run.model.branch(name)(x).z for name, x in inputs(run).items()}


def test_an_export_needs_neither_run_nor_recipe_and_gives_the_same_embeddings(small_run, tmp_path):
    names = ("recall_at_1", "chance_at_1", "recall_at_5", "recall_at_10")
    scores = {f"held_out.image_to_text.{name}": 0.25 for name in names}
    Summary("demo", "run", 7, scores).write(tmp_path / "summary.json")
    expected = outputs(small_run)
    folder = save_pretrained(small_run, tmp_path / "export")
    (tmp_path / "words.json").unlink()
    moved = shutil.move(folder, tmp_path / "elsewhere")
    back = read_export(moved)
    for name, z in outputs(back).items():
        torch.testing.assert_close(z, expected[name], rtol=0, atol=0)
    assert back.step == 7
    assert "| held_out | image to text | 25.00 |" in (tmp_path / "elsewhere" / "README.md").read_text()
    save_pretrained(back, tmp_path / "elsewhere")  # an export may be replaced
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "mine" / "config.json").write_text('{"model_type": "bert"}')  # as other models are kept
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is no export"):
        save_pretrained(back, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


BROKEN = {
    "a pickle beside the weights": (lambda f: (f / "extra.bin").write_bytes(b""), "pickled code"),
    "a pickle named safetensors": (
        lambda f: (f / "model.safetensors").write_bytes(pickle.dumps({"a": 1})), "no safetensors file"),
    "missing weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "a cut file": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:999]),
                   "no safetensors file"),
    "a wrong shape": (
        lambda f: save_file({k: v[..., :-1].contiguous() if v.ndim == 2 else v
                             for k, v in load_file(f / "model.safetensors").items()}, f / "model.safetensors"),
        "does not fit"),
    "a missing tensor": (
        lambda f: save_file(
            {k: v for k, v in load_file(f / "model.safetensors").items() if not k.endswith("projector.0.weight")},
            f / "model.safetensors",
        ),
        "does not fit"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
    "another format": (lambda f: edit(f, lambda c: c.update(format=9)), "format 9"),
    "a foreign class": (
        lambda f: edit(f, lambda c: c["modalities"]["image"].update({"class": "os:system"})), "expected one of"),
    "a dataclass of ours that is no modality": (
        lambda f: edit(f, lambda c: c["modalities"]["image"].update({"class": "mmvicreg.runs.config:TrainConfig"})),
        "expected one of"),
    "a path in the vocabulary": (
        lambda f: edit(f, lambda c: c["modalities"]["text"].update(vocabulary="../../etc/passwd")),
        "outside the export"),
    "a path in the weights": (
        lambda f: edit(f, lambda c: c["modalities"]["image"].update(weights="/etc/passwd")), "outside the export"),
    "a path in the encoder": (
        lambda f: edit(f, lambda c: c["modalities"]["image"].update(encoder="transformers/../../secret")), "refused"),
    "a download in the encoder": (
        lambda f: edit(f, lambda c: c["modalities"]["image"].update(encoder="timm/hf_hub:evil/model")), "refused"),
    "a path in a name": (
        lambda f: edit(f, lambda c: c["modalities"].update({"../x": c["modalities"]["text"]})), "letters, digits"),
    "a wrong type": (
        lambda f: edit(f, lambda c: c["modalities"]["image"].update(size="64")), "size is '64'"),
    "a projector larger than the weights": (
        lambda f: edit(f, lambda c: c["modalities"]["image"].update(projector=[10**7, 10**7])), "refused"),
    "a projector of words": (
        lambda f: edit(f, lambda c: c["modalities"]["image"].update(projector=["8", 6])), "widths above 0"),
    "a word table larger than the weights": (
        lambda f: edit(f, lambda c: c["modalities"]["text"].update(state_width=10**6)), "refused"),
    "pictures larger than any": (
        lambda f: edit(f, lambda c: c["modalities"]["image"].update(size=10**7)), "refused"),
    "a link": (lambda f: (f / "text" / "more").symlink_to("/etc/hostname"), "is a link"),
}  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN, ids=str)
def test_broken_and_malicious_exports_are_refused(small_run, tmp_path, damage):
    folder = save_pretrained(small_run, tmp_path / "export")
    change, message = BROKEN[damage]
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_export(folder)


def test_code_beside_a_transformers_model_is_never_run_whatever_is_answered(small_run, tmp_path, monkeypatch):
    """transformers asks on the terminal whether to small_run it; we do not let it ask."""
    folder = save_pretrained(small_run, tmp_path / "export")
    edit(folder, lambda c: c["modalities"]["text"].update(encoder="transformers/."))
    evil = {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoTokenizer": [None, "evil.Evil"]},
    }
    (folder / "text/config.json").write_text(json.dumps(evil))
    (folder / "text/evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    with pytest.raises(ValueError, match="custom code"):
        read_export(folder)
    assert not (tmp_path / "ran").exists()


def test_the_image_encoder_loads_in_plain_timm_with_the_same_features(small_run, tmp_path):
    import timm

    plain = timm.create_model("test_resnet", num_classes=0).eval()
    plain.load_state_dict(load_file(save_image_encoder(small_run, tmp_path / "image.safetensors")))
    x = inputs(small_run)["image"]
    normalize = small_run.model.branch("image").encoder[0]
    with torch.inference_mode():
        torch.testing.assert_close(plain(normalize(x)), small_run.model.branch("image")(x).h, rtol=0, atol=0)


def test_an_open_clip_checkpoint_gives_the_same_embeddings_there(tiny, tmp_path):
    import open_clip

    folder = save_open_clip(tiny, tmp_path / "oc")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    picture = crop(3, width=48, height=48)
    face, ours, tokens = to_open_clip(tiny)
    with torch.inference_mode():
        theirs = model.encode_image(transform(picture)[None])
        torch.testing.assert_close(face.encode_image(ours(picture)[None]), theirs, rtol=0, atol=2e-2)
        texts = ["a photograph", "two boats"]
        torch.testing.assert_close(face.encode_text(tokens(texts)), model.encode_text(tokenizer(texts)))


def test_projectors_and_other_towers_have_no_place_in_an_open_clip_checkpoint(small_run, tmp_path):
    with pytest.raises(ValueError, match="both towers of one open_clip model"):
        save_open_clip(small_run, tmp_path / "oc")


def test_open_clip_models_are_baselines(tiny_name, tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path))
    found = load(f"open_clip/{tiny_name}")
    assert outputs(found)["image"].shape == (3, 16)
    with pytest.raises(ValueError, match="no such model"):
        load("open_clip/ViT-B-23")


def test_transformers_pairs_are_baselines(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=small | {"vocab_size": 100, "max_position_embeddings": 9, "eos_token_id": 99},
        vision_config=small | {"image_size": 32, "patch_size": 16}, projection_dim=8)  # fmt: skip
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "clip")
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(
        tmp_path / "clip"
    )
    found = load(f"transformers/{tmp_path / 'clip'}")
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    ids = torch.tensor([[1, 2, 99, -1, -1, -1, -1, -1, -1], [4, 5, 6, 7, 99, -1, -1, -1, -1]])
    with torch.inference_mode():
        image, text = found.model.branch("image")(x).z, found.model.branch("text")(ids).z
        alone = model.get_text_features(input_ids=ids[:1, :3])
        alone = alone if isinstance(alone, torch.Tensor) else alone.pooler_output
    assert image.shape == (2, 8)
    torch.testing.assert_close(text[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_gives_the_same_embeddings_for_any_number_of_rows(small_run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    session = onnxruntime.InferenceSession(str(save_onnx(small_run, tmp_path / "image.onnx")))
    x = inputs(small_run)["image"].repeat(22, 1, 1, 1)
    for rows in (1, 2, 5, 64):
        z = session.run(None, {"x": x[:rows].numpy()})[0]
        with torch.inference_mode():
            expected = small_run.model.branch("image")(x[:rows]).z
        np.testing.assert_allclose(z, expected.numpy(), atol=1e-4)


def test_an_encoder_that_onnx_would_fix_to_one_number_of_rows_is_refused(small_run, tmp_path):
    """A GRU of one row is another program to torch.export; nothing is written in its place."""
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="any number of rows"):
        save_onnx(small_run, tmp_path / "text.onnx", branch="text")
    assert not (tmp_path / "text.onnx").exists()
