"""Statistics far from zero, against double precision, and the exponents of extreme rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from built import build

sys.path.insert(0, str(Path(__file__).parent))

from evaluate import call_kernel, lower_call, lowered_results

from lowtide.core import native
from lowtide.lowering import reduction
from lowtide.runtime.calls import overload

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler"),
]


def far(*size: int) -> torch.Tensor:
    """Mean 1e4 and deviation 1e-2: the unit of such a number in f32 is a tenth of the deviation."""
    return torch.empty(size).normal_(1e4, 1e-2, generator=torch.Generator().manual_seed(0))


def channels_last(*size: int) -> torch.Tensor:
    return far(*size).contiguous(memory_format=torch.channels_last)


CASES = {
    "layer_norm": ("aten.native_layer_norm.default", lambda: [far(7, 1300), [1300], None, None, 1e-12]),
    "group_norm": ("aten.native_group_norm.default", lambda: [far(2, 6, 9, 11), None, None, 2, 6, 99, 3, 1e-12]),
    "batch_norm": (
        "aten._native_batch_norm_legit.no_stats",
        lambda: [far(4, 5, 9, 31), None, None, True, 0.1, 1e-12],
    ),
    "batch_norm, channels last": (
        "aten._native_batch_norm_legit.no_stats",
        lambda: [channels_last(4, 48, 9, 31), None, None, True, 0.1, 1e-12],
    ),
    "var of all": ("aten.var.correction", lambda: [far(9, 3001)]),
    "var of rows": ("aten.var.correction", lambda: [far(9, 3001), [1]]),
    "var of columns": ("aten.var.correction", lambda: [far(3001, 40), [0]]),
}
EXPONENTS, SHAPES = ("_softmax", "_log_softmax", "_safe_softmax", "logsumexp"), ("rows", "columns", "whole")
Lowering = tuple[Any, dict[str, torch.Tensor], Any]


@pytest.fixture(scope="module")
def lowered() -> dict[tuple[str, ...], Lowering]:
    """Every case of this file by its name, compiled together; ``long`` ones as if no cache held a row, so that one pass takes
    several results."""
    plain = {(case, "short"): lower_call(target, made()) for case, (target, made) in CASES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduction, "_IN_NO_CACHE", 1)
        long = {(case, "long"): lower_call(target, made()) for case, (target, made) in CASES.items()}
        long |= {(name, shape): lower_call(*exponents(name, shape)) for name in EXPONENTS for shape in SHAPES}
    build((loop for low, _, _ in (plain | long).values() for loop in low.loops.values()), 2)
    return plain | long


@pytest.mark.spec("IR-36")
@pytest.mark.parametrize("rows", ["short", "long"])
@pytest.mark.parametrize("case", CASES)
def test_means_far_from_zero(case: str, rows: str, lowered: dict[tuple[str, ...], Lowering]):
    target, made = CASES[case]
    low, tensors, _ = lowered[case, rows]
    assert any(x.family == "welford" for loop in low.loops.values() for x in loop.body) == (rows == "long")
    held = lowered_results(low, tensors, call_kernel)
    exact = overload(target)(*(a.double() if isinstance(a, torch.Tensor) else a for a in made()))
    flat = [exact] if isinstance(exact, torch.Tensor) else list(exact)
    for k, wanted in enumerate(flat):
        found = held[f"y{k}"].double()
        if (
            len(flat) > 1 and k == 0 and rows == "long"
        ):  # the mean is in f32 then, whose unit is a tenth of the deviation
            assert (found - wanted).abs().max() < 0.06
            continue
        tolerance = 2e-4 if k != 1 else 1e-7
        torch.testing.assert_close(found, wanted.double(), rtol=tolerance, atol=tolerance if k == 0 else 0)


def exponents(name: str, shape: str) -> tuple[str, tuple[Any, ...]]:
    """A call on extreme logits, infinities, rows of nothing, no numbers."""
    x = torch.randn(6, 1300, generator=torch.Generator().manual_seed(0)) * 100
    x[1] = -float("inf")
    x[2, 700], x[3, :600], x[4, 5] = float("inf"), -float("inf"), float("nan")
    x = x[0] if shape == "whole" else x.t().contiguous() if shape == "columns" else x
    dim = 0 if shape == "columns" else x.dim() - 1
    more = {"logsumexp": ([dim],), "_safe_softmax": (dim,)}.get(name, (dim, False))
    return f"aten.{name}.default", (x, *more)


@pytest.mark.spec("IR-35")
@pytest.mark.parametrize("name", EXPONENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_exponents_in_one_pass(name: str, shape: str, lowered: dict[tuple[str, ...], Lowering]):
    """Maximum and sum of rows that no cache holds."""
    low, tensors, expected = lowered[name, shape]
    assert any(i.family == "softmax" for loop in low.loops.values() for i in loop.body)
    found = lowered_results(low, tensors, call_kernel)["y0"]
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-5, atol=1e-6)
