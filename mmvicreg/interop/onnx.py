"""Export to ONNX: one branch, for any number of rows."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from mmvicreg.branches.model import Branch
from mmvicreg.errors import InvalidValueError, first_line
from mmvicreg.files import write_with
from mmvicreg.runs.run import Run


class _Embedding(nn.Module):
    """The embedding of a branch in evaluation mode, without the case of no rows, which would fix their number."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.encoder = branch.encoder
        self.projector = branch.projector

    def forward(self, x: Tensor) -> Tensor:
        return self.projector(self.encoder(x))


def save_onnx(run: Run, file: str | Path, *, branch: str = "image") -> Path:
    """A branch as ONNX: inputs ``x`` as its reader gives them, to embeddings ``z`` (n, D), for any n from 1 on.

    Needs the extra ``onnx``. Raises ValueError where it is not installed or the encoder cannot be exported.
    """
    embedding = _Embedding(run.model.branch_named(branch)).eval().cpu()
    reader = run.modalities[branch].reader()
    example = torch.zeros((2, *reader.shape), dtype=reader.dtype)
    rows = torch.export.Dim("rows", min=1)
    try:
        with warnings.catch_warnings():
            # A GRU lists its parameters once more, which torch.export takes for tensors made anew.
            warnings.filterwarnings("ignore", message=".*were assigned during export", category=UserWarning)
            program = torch.export.export(embedding, (example,), dynamic_shapes=({0: rows},), strict=False)
        # Of a module the exporter would fall back to tracing, which fixes the number of rows; of a program it cannot.
        found = torch.onnx.export(
            program,
            input_names=["x"],
            output_names=["z"],
            dynamo=True,
            verbose=False,
        )
    except ImportError as error:
        raise InvalidValueError(
            f"ONNX export needs the extra onnx (pip install 'mmvicreg[onnx]'): {error}"
        ) from None
    except Exception as error:  # of many kinds, each of which means that the encoder cannot be exported
        reason = first_line(error)
        raise InvalidValueError(
            f"the encoder of {branch!r} cannot be exported to ONNX for any number of rows: {reason}"
        ) from error
    assert found is not None
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_with(Path(file), lambda path: found.save(str(path)))
    return Path(file)
