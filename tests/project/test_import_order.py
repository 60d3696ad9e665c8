"""The folders of the package are the stages of the data flow, and imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmvicreg

PACKAGE = Path(mmvicreg.__file__).parent

LAYERS = [
    {"errors", "files", "numerics", "progress", "randomness"},
    {"distributed"},
    {"shards"},
    {"plan"},
    {"stream"},
    {"branches"},
    {"modalities"},
    {"demo"},
    {"objectives"},
    {"testing"},
    {"runs"},
    {"evaluation"},
    {"interop"},
    {"training"},
    {"solvers"},
    {"preparation"},
    {"studies"},
    {"exploration"},
    {"cli"},
]
"""A folder imports only from itself and from the layers before it."""

LATER = {("runs/run.py", "evaluation"), ("runs/run.py", "interop")}
"""The one exemption: the methods of Run (encode, evaluate, save_pretrained, ...) import what they call when called."""

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mmvicreg"):
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("mmvicreg.")}
    return names


def test_a_folder_imports_only_from_the_layers_before_it() -> None:
    wrong = []
    for file in PACKAGE.rglob("*.py"):
        stage = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if stage == "__init__":
            continue
        assert stage in LEVEL, f"{file}: add {stage!r} to its layer"
        place = str(file.relative_to(PACKAGE))
        wrong += [
            f"{file} imports {name}"
            for name in imported(file)
            if LEVEL[name] > LEVEL[stage] and (place, name) not in LATER
        ]
    assert not wrong


def test_import_and_help_do_not_load_torch() -> None:
    code = "import sys, mmvicreg as mm, mmvicreg.runs.config; from mmvicreg.cli.main import main; "
    code += "mm.ImageModality(); main(['--help'])"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
def test_importing_the_training_code_does_not_load_the_compiler() -> None:
    """torch's compiler takes as long to import as torch itself, and every command would wait for it."""
    code = "import sys, mmvicreg as mm; mm.train, mm.VICReg; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
