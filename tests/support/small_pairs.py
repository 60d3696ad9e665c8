"""Features of a few hundred pairs in the layout of studies/encode_pairs.py, made from shared hidden variables."""

from pathlib import Path

import numpy as np

CONCEPTS, PAIRS = 60, 300


def write_features(path: Path, *, widths: tuple[int, int] = (24, 16)) -> Path:
    """Pairs of 60 concepts with 120 names: an image and a text feature share six hidden variables of their concept."""
    random = np.random.default_rng(0)
    concept = random.integers(CONCEPTS, size=PAIRS)
    name = concept * 2 + random.integers(2, size=PAIRS)
    hidden = random.standard_normal((2 * CONCEPTS, 6))[name]
    maps = [random.standard_normal((6, width)) for width in widths]
    image = np.stack(
        [hidden @ maps[0] + 0.7 * random.standard_normal((PAIRS, widths[0])) for _ in range(2)], 1
    )
    text = np.stack(
        [
            hidden @ maps[1] + (0.5 + noise) * random.standard_normal((PAIRS, widths[1]))
            for noise in (0.0, 0.1, 0.2)
        ],
        1,
    )
    np.savez(
        path,
        image=image.astype(np.float16),
        text=text.astype(np.float16),
        captions=random.integers(1, 4, size=PAIRS),
        name=np.array([f"name {n}" for n in name]),
        concept=np.array([f"concept {n}" for n in concept]),
    )
    return path
