"""The demonstration's shards: in ``data/demo`` of a checkout, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

from mmvicreg.errors import MissingFileError

PLACES = (Path(__file__).parent / "data", Path(__file__).parents[2] / "data" / "demo")
"""Where an installed package holds them, and where a checkout does."""


def demo_data() -> Path:
    """The folder of the demonstration's shards: ``train-*.tar``, ``concepts-*.tar`` and ``style-*.tar``.

    2,550 pictures of emoji with their names; data/demo/README.md says which, LICENSES.md from whom. Raises
    FileNotFoundError where the package was installed without them.
    """
    for folder in PLACES:
        if (folder / "train-000000.tar").is_file():
            return folder
    raise MissingFileError(
        f"no demonstration shards in {' or '.join(map(str, PLACES))}; install mmvicreg from its wheel or from a "
        "checkout, or name other shards with --train"
    )
