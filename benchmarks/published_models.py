"""Writes docs/published-models.md: embeddings of published architectures beside those of their own library's pipeline.

    python benchmarks/published_models.py            # a minute: every family, the page is printed
    python benchmarks/published_models.py --docs     # writes the page
    python benchmarks/published_models.py --tiny     # seconds: one family of each library

Every family is built small, with random weights, and saved as its library saves it; nothing is downloaded. 20 odd
pictures and 9 odd texts are embedded by ``mmvicreg.load(...).encode`` and by the library's own model, preprocessing and
tokenizer. The last line is JSON: the largest difference of a value of unit embeddings, by family.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from measure import table
from published_families.inputs import TEXTS, Embeddings, Family, pictures
from published_families.of_open_clip import open_clip_families
from published_families.of_transformers import transformers_families
from published_families.refused import refusal, refused_families

import mmvicreg as mm

ROOT = Path(__file__).parent.parent


@torch.inference_mode()
def compare(family: Family) -> dict[str, float]:
    """Least cosine and largest difference between our embeddings and the library's own."""
    with TemporaryDirectory() as folder:
        name, theirs = family.build(Path(folder))
        run = mm.load(name)
        ours = Embeddings(
            run.encode("image", pictures(), device="cpu"), run.encode("text", list(TEXTS), device="cpu")
        )
    found = {}
    for part in ("images", "texts"):
        a, b = vars(ours)[part], vars(theirs)[part]
        found[f"{part} cosine"] = float((a * b).sum(-1).min())
        found[f"{part} difference"] = float((a - b).abs().max())
    return found


def page(measured: dict[str, dict[str, float]], families: list[Family], refused: dict[str, str]) -> str:
    headings = [
        "model family",
        "preprocessing",
        "images: least cosine",
        "difference",
        "texts: least cosine",
        "difference",
    ]
    lines = []
    for family in families:
        found = measured[family.name]
        cells = [
            f"{value:.6f}" if name.endswith("cosine") else f"{value:.0e}" for name, value in found.items()
        ]
        lines.append([family.name, family.preprocessing, *cells])
    return f"""# Published models

Written by `python benchmarks/published_models.py --docs`. Models of every architecture family, small, with random
weights and saved by their own library, embed 20 odd pictures (wide, tall, one pixel wide, grey, bilevel,
palette, transparent, CMYK, 16 bits, turned by EXIF) and {len(TEXTS)} odd texts (empty, too long, emoji, four scripts,
entities), once with `mmvicreg.load(...)` and once with the library's own model, preprocessing and tokenizer. Cosine:
the least of all inputs; difference: the largest of a value of unit embeddings.

Both pipelines start from the same pixels. They decode differently where libraries have no rule: here transparency is
composited on white, EXIF orientation is applied, and 16 bits are cut to their high byte.

{table(headings, lines)}

## Refused

Families of two or more towers that are refused in words, as `mmvicreg.load` says it:

{table(["model family", "message"], [list(row) for row in refused.items()])}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="one family of each library")
    parser.add_argument("--docs", action="store_true", help="write docs/published-models.md")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    families = [*open_clip_families(), *transformers_families()]
    if options.tiny:
        families = [
            family for family in families if family.name in ("open_clip CLIP ViT", "transformers CLIP")
        ]
    measured = {family.name: compare(family) for family in families}
    refused = {} if options.tiny else {name: refusal(make) for name, make in refused_families().items()}
    accepted = [name for name, message in refused.items() if not message]
    if accepted:
        raise SystemExit(
            f"{', '.join(accepted)}: expected a refusal, and the model was loaded; measure it instead"
        )
    text = page(measured, families, refused)
    if options.docs:
        (ROOT / "docs" / "published-models.md").write_text(text)
    print(text)
    print(
        json.dumps(
            {
                name: max(v for key, v in found.items() if "difference" in key)
                for name, found in measured.items()
            }
        )
    )


if __name__ == "__main__":
    main()
