"""Statistics far from zero, against double precision, and the exponents of extreme rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from built import build

sys.path.insert(0, str(Path(__file__).parent))

from evaluate import call_kernel, lower_call, lowered_results

from lowtide.core import native
from lowtide.lowering import reduction

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


@pytest.mark.spec("IR-36")
@pytest.mark.parametrize("long_rows", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_means_far_from_zero(case: str, long_rows: bool, monkeypatch: pytest.MonkeyPatch):
    """``long_rows``: as if no cache held a row, so that one pass takes mean and squares."""
    if long_rows:
        monkeypatch.setattr(reduction, "_IN_NO_CACHE", 1)
    target, made = CASES[case]
    args = made()
    lowered, tensors, *_ = lower_call(target, args, {})
    assert any(x.family == "welford" for loop in lowered.loops.values() for x in loop.body) == long_rows
    build(lowered.loops.values())
    held = lowered_results(lowered, tensors, call_kernel)
    overload = getattr(getattr(torch.ops.aten, target.split(".")[1]), target.split(".")[2])
    exact = overload(*(a.double() if isinstance(a, torch.Tensor) else a for a in args))
    flat = [exact] if isinstance(exact, torch.Tensor) else list(exact)
    for k, wanted in enumerate(flat):
        found = held[f"y{k}"].double()
        if len(flat) > 1 and k == 0 and long_rows:  # the mean is in f32 then, whose unit is a tenth of the deviation
            assert (found - wanted).abs().max() < 0.06
            continue
        tolerance = 2e-4 if k != 1 else 1e-7
        torch.testing.assert_close(found, wanted.double(), rtol=tolerance, atol=tolerance if k == 0 else 0)


@pytest.mark.spec("IR-35")
@pytest.mark.parametrize("name", ["_softmax", "_log_softmax", "_safe_softmax", "logsumexp"])
@pytest.mark.parametrize("shape", ["rows", "columns", "whole"])
def test_exponents_in_one_pass(name: str, shape: str, monkeypatch: pytest.MonkeyPatch):
    """Maximum and sum of rows that no cache holds: extreme logits, infinities, rows of nothing, no numbers."""
    x = torch.randn(6, 1300, generator=torch.Generator().manual_seed(0)) * 100
    x[1] = -float("inf")
    x[2, 700], x[3, :600], x[4, 5] = float("inf"), -float("inf"), float("nan")
    x = x[0] if shape == "whole" else x.t().contiguous() if shape == "columns" else x
    dim = 0 if shape == "columns" else x.dim() - 1
    args = (x, [dim]) if name == "logsumexp" else (x, dim) if name == "_safe_softmax" else (x, dim, False)
    monkeypatch.setattr(reduction, "_IN_NO_CACHE", 1)
    lowered, tensors, expected = lower_call(f"aten.{name}.default", args, {})
    assert any(i.family == "softmax" for loop in lowered.loops.values() for i in loop.body)
    build(lowered.loops.values())
    found = lowered_results(lowered, tensors, call_kernel)["y0"]
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-5, atol=1e-6)
