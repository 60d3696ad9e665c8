"""The characteristic functions on a CPU: the fused pass against the tiles, for any number of rows."""

from __future__ import annotations

import shutil

import pytest
import torch

from mmvicreg.objectives.regularizers import SIGReg

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore:`torch._prims_common.check` is deprecated:FutureWarning")
def test_compiled_sigreg_equals_fp64_for_any_number_of_rows() -> None:
    compiled = SIGReg(slices=20, knots=9, chunk=16, compiled=True)
    exact = SIGReg(slices=20, knots=9, chunk=16)
    for rows in (33, 7, 1, 0):
        z = torch.randn(rows, 12, generator=torch.Generator().manual_seed(rows)).requires_grad_()
        z64 = z.detach().double().requires_grad_()
        value, expected = (r.terms(x, seed=3)["sigreg"] for r, x in ((compiled, z), (exact, z64)))
        assert value.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-9)
        if rows:
            (found,), (wanted,) = torch.autograd.grad(value, z), torch.autograd.grad(expected, z64)
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
