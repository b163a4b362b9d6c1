"""A small cut of torch's operator samples under generated kernels; all of them: ``python -m benchmarks coverage``."""

from __future__ import annotations

from dataclasses import asdict

import pytest

pytest.importorskip("expecttest")

import torch
from benchmarks.coverage import Outcome, _as_near, differs, page, run_entries, state
from torch.testing._internal.common_methods_invocations import op_db

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

QUICK = ("addcmul", "index_add", "nn.functional.glu", "scatter_reduce.amax")


@pytest.mark.spec("IR-29", "IR-30")
def test_a_small_cut_is_lowered_and_right():
    found = run_entries([op for op in op_db if op.full_name in QUICK], scale=0.34)
    assert sorted(o.name for o in found) == sorted(QUICK)
    for o in found:
        assert not o.forward.failed and not o.backward.failed
        assert o.forward.passed and o.backward.passed
        assert not o.forward.fallbacks, o
        assert not o.forward.unplanned


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_no_sample_fails(part: int):
    found = run_entries([op for k, op in enumerate(op_db) if k % 8 == part], scale=0.34)
    assert not [f for o in found for f in (*o.forward.failed, *o.backward.failed)]


def test_what_counts_as_a_difference():
    right = [torch.tensor([1.0, float("nan"), float("inf")])]
    assert not differs(right, [right[0].clone()], lambda: None)
    assert differs([right[0] + 1], right, lambda: None)
    assert differs(right, [], lambda: None)
    assert differs([None], [torch.ones(1)], lambda: None) and not differs([None], [torch.zeros(1)], lambda: None)
    best = torch.tensor([1.0], dtype=torch.float64)
    assert _as_near(torch.tensor([1.001]), torch.tensor([0.999]), best)
    assert not _as_near(torch.tensor([1.01]), torch.tensor([0.999]), best)


def test_the_page_counts_entries_by_their_worst():
    good, bad = Outcome("good"), Outcome("bad")
    good.forward.passed = good.forward.lowered = 2
    good.backward.fallbacks = {
        "aten.x.default: %a is c64 on cpu": 1,
        "aten.y.out: %b_1 is c64 on cpu": 2,
        "aten.z.default: has 3 parts": 1,
    }
    bad.forward.failed.append("bad-0: differs")
    assert (state(asdict(good.forward)), state(asdict(bad.forward)), state(asdict(bad.backward))) == (
        "lowered",
        "failed",
        None,
    )
    text = page({"good": asdict(good), "bad": asdict(bad)})
    assert "| lowered | 1 | 0 |" in text and "| failed | 1 | 0 |" in text
    assert "| takes or gives complex numbers (c64) | 1 | `x.default`, `y.out` |" in text
    assert "| has N parts | 1 | `z.default` |" in text
