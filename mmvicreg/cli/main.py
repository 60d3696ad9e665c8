"""The ``mmvicreg`` command: tools around runs. Training is a recipe: ``python recipes/demo.py --help``."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mmvicreg.cli.model_options import check_ranges
from mmvicreg.errors import UserError, WrongOptionError, printable
from mmvicreg.runs.command_line import expand_home, hint_at_quotes, print_what_the_locale_lacks

USAGE, DATA, INTERRUPTED = 2, 1, 130
"""Exit statuses: options that are wrong by themselves, as far as they say before anything is read (a missing value, a
number out of range, a name with another suffix: WrongOptionError); data, files or a machine that cannot be used (every
other UserError); Ctrl-C."""

FILE_SYSTEM = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EFBIG: "write elsewhere",
    errno.EROFS: "write elsewhere (--out, where the command has it)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link leads to itself: name the file or folder itself",
}
"""Errors of the file system that a user can mend, and how."""


@dataclass(frozen=True)
class Command:
    """Where a command is, what it does in one line, and examples for the end of its help."""

    module: str
    config: str
    """dataclass of its options"""
    function: str
    """takes the options, returns an Output"""
    line: str
    examples: tuple[str, ...]


COMMANDS = {
    "check": Command(
        "mmvicreg.cli.check",
        "CheckConfig",
        "check",
        "index shards and report everything wrong with them",
        ("'train-{000..099}.tar'", "'train-*.tar' --depth decode --quarantine bad.json"),
    ),
    "pack": Command(
        "mmvicreg.cli.pack",
        "PackConfig",
        "pack",
        "make shards from a folder, a table or a caption file",
        (
            "photos/ shards/ --divide.validation 0.1",
            "captions.csv shards/ --images photos/ --columns.label species --divide.test 0.2",
        ),
    ),
    "look": Command(
        "mmvicreg.cli.look",
        "LookConfig",
        "look",
        "a contact sheet and statistics of shards",
        ("'data/demo/train-*.tar'", "train.tar --run runs/demo --out train.html"),
    ),
    "new": Command(
        "mmvicreg.cli.new",
        "NewConfig",
        "new",
        "write a recipe for images and texts, to run and to edit",
        (
            "mine.py --train 'shards/train-*.tar' --validation 'shards/validation-*.tar' --image jpg --text txt",
        ),
    ),
    "evaluate": Command(
        "mmvicreg.cli.evaluate",
        "EvaluateConfig",
        "evaluate",
        "score a run or a published model on shards or on a published benchmark",
        (
            "runs/demo --data 'data/demo/concepts-*.tar'",
            "open_clip/ViT-B-32:openai --data coco=coco-val.tar --folds 5",
            "runs/demo --benchmark karpathy:dataset_coco.json --media coco/",
        ),
    ),
    "solve": Command(
        "mmvicreg.cli.solve",
        "SolveOptions",
        "solve",
        "heads in closed form: CCA, ridge, ... on frozen encoders",
        (
            "runs/demo runs/solved --train 'data/demo/train-*.tar' --validation 'data/demo/style-*.tar'",
            "open_clip/ViT-B-32:openai runs/solved --train coco-train.tar --validation coco-val.tar --kernel nystrom",
        ),
    ),
    "diagnose": Command(
        "mmvicreg.cli.diagnose",
        "DiagnoseConfig",
        "diagnose",
        "what two branches share, and what more pairs would give",
        ("runs/demo --data 'data/demo/train-*.tar'",),
    ),
    "compare": Command(
        "mmvicreg.cli.compare",
        "CompareConfig",
        "compare",
        "what differs between runs: settings, scores, curves",
        ("runs/a runs/b", "runs/* --all-scores --out curves.png"),
    ),
    "report": Command(
        "mmvicreg.cli.report",
        "ReportConfig",
        "report",
        "one HTML page about a run, or several side by side",
        ("runs/demo --data 'data/demo/concepts-*.tar'", "runs/a runs/b --data val-000.tar --out both.html"),
    ),
    "classify": Command(
        "mmvicreg.cli.classify",
        "ClassifyConfig",
        "classify",
        "kNN, linear probe and zero-shot on labelled data",
        ("runs/demo --train photos/train --test photos/test", "runs/demo --test val.tar --names classes.txt"),
    ),
    "finetune": Command(
        "mmvicreg.cli.finetune",
        "FinetuneConfig",
        "finetune",
        "fine-tune an encoder on 1% or 10% of the labels",
        ("runs/demo runs/demo-1pct --train train.tar --test test.tar --fraction 0.01",),
    ),
    "segment": Command(
        "mmvicreg.cli.segment",
        "SegmentConfig",
        "segment",
        "dense linear probe: classify pixels from patch features",
        ("runs/demo --train train.tar --test test.tar --out masks.json",),
    ),
    "embed": Command(
        "mmvicreg.cli.embed",
        "EmbedConfig",
        "embed",
        "write the embeddings of shards to a file",
        ("runs/demo 'data/demo/concepts-*.tar' concepts.parquet",),
    ),
    "search": Command(
        "mmvicreg.cli.search",
        "SearchConfig",
        "search",
        "find the nearest items of a text or a picture",
        (
            "runs/demo 'data/demo/style-*.tar' 'a red apple'",
            "runs/demo shards.tar photo.jpg --among text",
            "runs/demo shards.tar --interactive",
        ),
    ),
    "explore": Command(
        "mmvicreg.cli.explore",
        "ExploreConfig",
        "explore",
        "a local page: search, compare runs, walk along neighbours, a map",
        (
            "runs/demo --data 'data/demo/style-*.tar'",
            "runs/a runs/b --data shards.tar --port 7861 --label concept",
        ),
    ),
    "export": Command(
        "mmvicreg.cli.export",
        "ExportConfig",
        "export",
        "write a folder or file that other tools load",
        ("runs/demo exported/", "runs/demo image.onnx --format onnx --branch image"),
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its return value is the exit status. A :class:`UserError` is printed as its message alone."""
    print_what_the_locale_lacks()
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_summary())
        return 0
    if given[0] == "--version":
        print(import_module("mmvicreg").__version__)
        return 0
    if given[0] == "--completion":
        from mmvicreg.cli.completion import print_completion

        return print_completion(
            "".join(given[1:2]), {name: (c.module, c.config) for name, c in COMMANDS.items()}
        )
    if given[0] not in COMMANDS:
        print(f"mmvicreg has no command {given[0]!r}; it has {', '.join(COMMANDS)}", file=sys.stderr)
        return USAGE
    try:
        return _run(given[0], given[1:])
    except WrongOptionError as error:
        print(f"mmvicreg {given[0]}: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        print(printable(f"mmvicreg {given[0]}: {error}"), file=sys.stderr)
        return DATA
    except OSError as error:
        if error.errno not in FILE_SYSTEM:
            raise
        place = f" {str(error.filename)!r}" if error.filename else ""
        reason = f"{os.strerror(error.errno)}{place}; {FILE_SYSTEM[error.errno]}"
        print(printable(f"mmvicreg {given[0]}: {reason}"), file=sys.stderr)
        return DATA
    except KeyboardInterrupt:
        message = f"\ninterrupted; finished work is kept, and this continues it:\n  {_again(given)}"
        print(message, file=sys.stderr)
        return INTERRUPTED


def _run(name: str, arguments: list[str]) -> int:
    import tyro

    from mmvicreg.runs.command_line import describe

    command = COMMANDS[name]
    module: Any = import_module(command.module)
    describe(vars(module)[command.config])
    as_json = "--json" in arguments
    try:
        config = tyro.cli(
            vars(module)[command.config],
            prog=f"mmvicreg {name}",
            description=_description(name, command, vars(module)[command.config]),
            args=[expand_home(argument) for argument in arguments if argument != "--json"],
        )
    except SystemExit as stopped:
        if stopped.code == USAGE:
            hint_at_quotes(arguments)
        raise
    check_ranges(config)
    output = vars(module)[command.function](config)
    output.show(as_json=as_json)
    return int(output.status)


def _again(given: list[str]) -> str:
    """The command line that continues an interrupted command: the same, with ``--resume`` where it has that option."""
    command = COMMANDS[given[0]]
    config: Any = vars(import_module(command.module))[command.config]
    continued = ["--resume"] if "resume" in config.__dataclass_fields__ and "--resume" not in given else []
    return shlex.join(["mmvicreg", *given, *continued])


def _description(name: str, command: Command, config: type) -> str:
    """What the command does, what its options' docstring adds to that, examples, and what all commands share."""
    about = [f"{command.line[0].upper()}{command.line[1:]}."]
    about += (config.__doc__ or "").replace("``", "").split("\n\n")[1:]
    examples = "\n".join(f"  mmvicreg {name} {example}" for example in command.examples)
    shared = (
        "--json prints the result as one JSON object instead. Exit status: 0, 1 for data that cannot be used, 2 for "
        "wrong options."
    )
    paragraphs = [" ".join(paragraph.split()) for paragraph in about]
    return "\n\n".join([*paragraphs, f"Examples:\n{examples}", shared])


def _summary() -> str:
    lines = [f"  {name:<10} {command.line}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mmvicreg COMMAND [options]",
            "",
            "Tools around runs; 'mmvicreg COMMAND --help' explains each. Training is a recipe: a Python file such as",
            "recipes/demo.py, run as 'python recipes/demo.py --help' or 'accelerate launch recipes/demo.py ...'.",
            "",
            *lines,
            "",
            "Examples:",
            "  mmvicreg evaluate runs/demo --data 'data/demo/concepts-*.tar'",
            "  mmvicreg search runs/demo 'data/demo/style-*.tar' 'a red apple'",
            "  mmvicreg report runs/demo --data 'data/demo/concepts-*.tar'",
            "",
            "Every command takes --json. Shell completion: source <(mmvicreg --completion bash)",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
