"""The Triton kernels of SIGReg: without a GPU in Triton's interpreter, which must be chosen before import."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mmvicreg.objectives.regularizers import SIGReg

PROGRAM = """
import torch
from mmvicreg.objectives.regularizers import characteristic, characteristic_kernels as kernels
generator = torch.Generator().manual_seed(0)
for slices, rows in ((40, 130), (32, 64), (3, 5)):
    x = 2 * torch.randn(slices, rows, generator=generator)
    exact, slopes_of = characteristic.characteristic_function(x.double(), knots=16, step=3 / 16, compiled=False)
    found = kernels.sums(x, knots=16, step=3 / 16)
    assert (found - exact).abs().max() / rows < 1e-6, "sums"
    weights = torch.randn(16, slices, generator=generator, dtype=torch.complex64)
    exact = slopes_of(weights.to(torch.complex128))
    found = kernels.slopes(x, weights, step=3 / 16)
    assert (found - exact).norm() / exact.norm() < 2e-6, "slopes"
print("equal")
"""

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="this PyTorch comes without Triton")


@pytest.mark.slow
@needs_triton
def test_the_kernels_equal_the_eager_path_in_the_interpreter() -> None:
    root = str(Path(__file__).parents[2])
    variables = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.mark.gpu
def test_sigreg_on_a_gpu_equals_fp64_on_the_same_directions() -> None:
    z = torch.randn(300, 64, device="cuda", requires_grad=True)
    exact = z.detach().double().requires_grad_()
    (found,) = torch.autograd.grad(SIGReg().terms(z, seed=1)["sigreg"], z)
    (expected,) = torch.autograd.grad(SIGReg().terms(exact, seed=1)["sigreg"], exact)
    assert (found - expected).norm() / expected.norm() < 1e-5
