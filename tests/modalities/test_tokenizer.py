"""Token ids of CLIP are open_clip's own, whatever the text."""

from __future__ import annotations

import json
import os
import random

import open_clip
import pytest
import torch
from shard_members import demo_samples

from mmvicreg.modalities import tokenizers


def adversarial(count: int) -> list[str]:
    """Text of every plane, entities, controls, special tokens, and mojibake."""
    draw = random.Random(0)
    pieces = [
        "a photo of", "Don't", "I'LL", "x's", "&amp;amp;", "&lt;b&gt;", "&#233;", "&nbsp;", "&", "<start_of_text>",
        "<END_OF_TEXT>", "schÃ¶n", "â€œquotedâ€\x9d", "“curly”", "ﬁre", "ＦＵＬＬ", "İstanbul", "ß", "ﬀ", "e\u0301",
        "\u200d", "日本語", "१२३", "٣", "Ⅷ", "\x1b[31mred", "\r\n", "\t", "\x00", "\x85", "\u2028", "\x1c",
        "\ud800", "\xa0", "...", "!!?", "--", "_under_score_", "3.14", "a1b2", "'", "''s", "\x7f", "~", "%", "\ufeff",
    ]  # fmt: skip
    made = []
    for _ in range(count):
        kind = draw.random()
        if kind < 0.6:
            made.append(draw.choice(["", " "]).join(draw.choices(pieces, k=draw.randrange(1, 9))))
        elif kind < 0.8:
            made.append("".join(chr(draw.randrange(32, 127)) for _ in range(draw.randrange(1, 120))))
        else:
            planes = [(0, 0x250), (0, 0x3000), (0x3000, 0xD800), (0xE000, 0x110000)]
            made.append(
                "".join(chr(draw.randrange(*draw.choice(planes))) for _ in range(draw.randrange(1, 30)))
            )
    return made


@pytest.mark.slow
def test_clip_ids_are_open_clips_on_every_kind_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of words remembered and forgotten; ``TOKENIZER_ROUNDS=200000`` for the longer run in docs/log.md."""
    monkeypatch.setattr(tokenizers, "WORDS", 300)
    captions = [
        text
        for split in demo_samples().values()
        for sample in split.values()
        for text in json.loads(sample["json"])["captions"].values()
    ]
    captions = (
        captions[::7] + adversarial(int(os.environ.get("TOKENIZER_ROUNDS", "1500"))) + ["", "word " * 200]
    )
    for length in (77, 5):
        ours = tokenizers.OpenClipTokenizer("ViT-B-32", length)
        theirs = open_clip.get_tokenizer("ViT-B-32", context_length=length)
        for text in captions:
            assert torch.equal(ours(text), theirs([text])[0]), repr(text)
        assert len(ours._words) <= 300 and len(ours.tokenizer.cache) <= 302
