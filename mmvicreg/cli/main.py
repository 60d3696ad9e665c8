"""The `mmvicreg` command: tools around runs. Training is a recipe: ``python recipes/demo.py --help``."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from mmvicreg.errors import UserError

TOOLS: dict[str, tuple[str, str, str, str]] = {
    "check": (
        "mmvicreg.preparation.check",
        "CheckConfig",
        "main",
        "index shards and report everything wrong with them",
    ),
    "pack": (
        "mmvicreg.preparation.pack",
        "PackConfig",
        "main",
        "make shards from a folder, a table or a caption file",
    ),
    "evaluate": (
        "mmvicreg.cli.evaluate",
        "EvaluateConfig",
        "evaluate",
        "score a run or a published model on shards",
    ),
    "compare": (
        "mmvicreg.cli.compare",
        "CompareConfig",
        "compare",
        "what differs between runs: settings, scores, curves",
    ),
    "classify": (
        "mmvicreg.cli.classify",
        "ClassifyConfig",
        "classify",
        "kNN, linear probe and zero-shot on labelled data",
    ),
    "finetune": (
        "mmvicreg.cli.finetune",
        "FinetuneConfig",
        "finetune",
        "fine-tune an encoder on 1% or 10% of the labels",
    ),
    "segment": (
        "mmvicreg.cli.segment",
        "SegmentConfig",
        "segment",
        "dense linear probe: classify pixels from patch features",
    ),
    "embed": ("mmvicreg.cli.tools", "EmbedConfig", "embed", "write the embeddings of shards to a file"),
    "search": (
        "mmvicreg.cli.tools",
        "SearchConfig",
        "search",
        "find the nearest items of a text or a picture",
    ),
    "export": (
        "mmvicreg.cli.tools",
        "ExportConfig",
        "export",
        "write a folder or file that other tools load",
    ),
}
"""Name to (module, dataclass of its options, function that takes them and gives the exit status, one line)."""


def _summary() -> str:
    lines = [f"  {name:<10} {line}" for name, (*_, line) in TOOLS.items()]
    return "\n".join(
        [
            "usage: mmvicreg TOOL [options]",
            "",
            "Tools around runs; 'mmvicreg TOOL --help' explains each. Training is a recipe: a Python file such as",
            "recipes/demo.py, run as 'python recipes/demo.py --help' or 'accelerate launch recipes/demo.py ...'.",
            "",
            *lines,
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one tool; its return value is the exit status. What a user can cause is printed without a traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(_summary())
        return 0
    if given[0] == "--version":
        print(import_module("mmvicreg").__version__)
        return 0
    if given[0] not in TOOLS:
        print(f"mmvicreg has no tool {given[0]!r}; it has {', '.join(TOOLS)}", file=sys.stderr)
        return 2
    import tyro

    path, options_name, function_name, line = TOOLS[given[0]]
    module: Any = import_module(path)
    options_class, function = vars(module)[options_name], vars(module)[function_name]
    try:
        return function(
            tyro.cli(options_class, prog=f"mmvicreg {given[0]}", description=line, args=given[1:])
        )
    except UserError as error:
        print(f"mmvicreg {given[0]}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
