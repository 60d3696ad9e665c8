"""The package's files are the nouns of the data flow, and imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import mmvicreg

PACKAGE = Path(mmvicreg.__file__).parent

FLOW = [
    "messages",
    "reader",
    "progress",
    "distributed",
    "tar",
    "sidecar",
    "spool",
    "shards",
    "subset",
    "lookahead",
    "fetch",
    "plan",
    "mixture",
    "pixels",
    "ledger",
    "tally",
    "buffers",
    "rows",
    "workers",
    "stream",
    "items",
    "sequential",
    "model",
    "column_parallel",
    "modality",
    "modalities",
    "regularizers",
    "alignments",
    "objective",
    "options",
    "config",
    "schedule",
    "optim",
    "average",
    "step",
    "accumulation",
    "recompute",
    "compilation",
    "sharding",
    "checkpoint",
    "keeper",
    "preemption",
    "predictors",
    "runs",
    "feed",
    "features",
    "trackers",
    "journal",
    "watch",
    "accelerator",
    "evaluate",
    "collapse",
    "guards",
    "rehearsal",
    "batch_size",
    "probes",
    "readiness",
    "assembly",
    "numbers",
    "continuation",
    "train",
    "pictures",
    "report",
    "examples",
    "scoring",
    "export",
    "doors",
    "baselines",
    "clip_benchmark",
    "jobs",
    "content",
    "check",
    "sources",
    "pack",
    "classify",
    "finetune",
    "segment",
    "tools",
    "commands",
    "compare",
    "cli",
]


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mmvicreg"):
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mmvicreg.")}
    return names


def test_imports_point_up_the_flow() -> None:
    wrong = []
    for file in PACKAGE.rglob("*.py"):
        stage = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if stage == "__init__":
            continue
        assert stage in FLOW, f"{file.name}: add {stage!r} to the flow, at its place"
        wrong += [
            f"{stage} imports {name}" for name in imported(file) if FLOW.index(name) > FLOW.index(stage)
        ]
    assert not wrong


def test_import_and_help_do_not_load_torch() -> None:
    code = "import sys, mmvicreg as mm, mmvicreg.cli, mmvicreg.config; mm.ImageModality(); mm.cli.main(['--help'])"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_public_name_is_there() -> None:
    for name in mmvicreg.__all__:
        assert getattr(mmvicreg, name) is not None
