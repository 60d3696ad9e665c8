"""Published two-tower models are scored by our commands: the numbers transformers' own pipeline gives."""

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from photographs import crop
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from webdataset import TarWriter

from mmvicreg.cli.main import main
from mmvicreg.evaluation.summary import read_summary

WORDS = ["[PAD]", "[UNK]", "a", "red", "blue", "green", "bird", "boat", "tree", "house", "near", "[EOS]"]
SIDE, LENGTH, PICTURES = 32, 9, 40


def captions(n):
    return [
        f"a {WORDS[3 + n % 3]} {WORDS[6 + n // 3 % 4]} near {WORDS[2 + (n + k) // 7 % 8]}" for k in (0, 9)
    ]


def pictures():
    return [crop(n, width=SIDE, height=SIDE) for n in range(PICTURES)]


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs-000000.tar"
    with TarWriter(str(path)) as writer:
        for n, picture in enumerate(pictures()):
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            sample = {"__key__": f"{n:03d}", "png": buffer.getvalue(), "txt": captions(n)[0]}
            writer.write(sample | {"json": json.dumps({"both": captions(n)}).encode()})
    return str(path)


def save(kind, folder):
    """A CLIP or SigLIP of random weights with a word tokenizer, as its library saves them."""
    model: Any
    processor: Any
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": len(WORDS), "max_position_embeddings": LENGTH, "eos_token_id": len(WORDS) - 1,
                    "bos_token_id": 0, "pad_token_id": 0}  # fmt: skip
    vision = small | {"image_size": SIDE, "patch_size": 16}
    torch.manual_seed(2)
    if kind == "clip":
        clip = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        model, processor = transformers.CLIPModel(clip), transformers.CLIPImageProcessor
    else:
        siglip = transformers.SiglipConfig(text_config=text | {"projection_size": 16}, vision_config=vision)
        model, processor = transformers.SiglipModel(siglip), transformers.SiglipImageProcessor
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    processor(size=size, do_center_crop=False).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="$A [EOS]", special_tokens=[("[EOS]", len(WORDS) - 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]"
    ).save_pretrained(folder)
    return model.eval()


@torch.inference_mode()
def recall_by_transformers(model, folder, kind, texts, owner):
    """Recall at 5 of pictures looking for any of their captions, by its own processors and scores."""
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(pictures(), return_tensors="pt")
    padding = {"padding": "max_length", "max_length": LENGTH} if kind == "siglip" else {"padding": True}
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(texts, return_tensors="pt", **padding)
    names = ("input_ids",) if kind == "siglip" else ("input_ids", "attention_mask")
    scores = model(**pixels, **{name: tokens[name] for name in names}).logits_per_image
    best = scores.topk(5, dim=1).indices
    return np.mean([any(n in owner[int(t)] for t in row) for n, row in enumerate(best)])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("caption", ["txt", "json:both"])
def test_the_recall_of_a_transformers_pair_is_its_own(kind, caption, shard, tmp_path, monkeypatch):
    monkeypatch.setenv("MMVICREG_CACHE", str(tmp_path / "cache"))
    model = save(kind, tmp_path / kind)
    owner: dict[str, set[int]] = {}
    for n in range(PICTURES):
        for text in captions(n)[: 1 if caption == "txt" else 2]:
            owner.setdefault(text, set()).add(n)
    expected = recall_by_transformers(model, tmp_path / kind, kind, list(owner), list(owner.values()))
    arguments = ["--data", f"pairs={shard}", "--caption", caption, "--out", str(tmp_path / "found.json")]
    assert main(["evaluate", f"transformers/{tmp_path / kind}", *arguments, "--device", "cpu"]) == 0
    scores = read_summary(tmp_path / "found.json").scores
    found = {
        name.rpartition(".")[2]: v for name, v in scores.items() if name.startswith("pairs.image_to_text.")
    }
    assert found["num_items"] == len(owner) and found["num_queries"] == PICTURES
    assert 0 < expected < 1
    assert found["recall_at_5"] == pytest.approx(expected, abs=1e-9)


def test_what_is_no_pair_is_named(tmp_path, capsys, shard):
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    for name, message in (
        (f"transformers/{tmp_path / 'bert'}", "is a bert model; expected one with an image and a text tower"),
        (f"transformers/{tmp_path / 'nothing'}", "finds no model there"),
        ("open_clip/ViT-B-33", "no such model in open_clip; did you mean"),
        (str(tmp_path / "nothing"), "no such run directory"),
    ):
        assert main(["evaluate", name, "--data", shard]) == 1
        assert message in capsys.readouterr().err
