"""Choosing by rank where eager gives no places, or any of equal elements: values alone, the first of equals, refusals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from built import build

sys.path.insert(0, str(Path(__file__).parent))

from evaluate import Run, by_oracle, call_kernel, graph_of, lower_call, lowered_results
from ranks import unlike

from lowtide.core import native
from lowtide.ir.lowered import Lowered
from lowtide.lowering.lower import lower
from lowtide.runtime.calls import overload

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler"),
]
BOTH: tuple[Run, ...] = (call_kernel, by_oracle)


def values_of(target: str, *args: Any) -> tuple[Lowered, dict[str, torch.Tensor], torch.Tensor]:
    """A call of whose results only the values are used: lowered, its inputs, and eager's values."""
    eager = overload(target)(*args)[0]
    graph, tensors = graph_of(target, args, {}, (eager, None))
    return lower(graph), tensors, eager


@pytest.mark.spec("IR-37")
def test_values_alone_are_eagers():
    """Of dtypes in which equal elements are the rule too."""
    made = []
    for d in (torch.float16, torch.int16, torch.int8):
        x = unlike(7, 90, dtype=d) if d.is_floating_point else torch.arange(7 * 90).view(7, 90).to(d) * 37
        made += [values_of("aten.median.dim", x, 1, keep) for keep in (False, True)]
        made += [values_of("aten.kthvalue.default", x, k, 1) for k in (1, 90)]
    made.append(values_of("aten.nanmedian.dim", unlike(7, 90, dtype=torch.bfloat16), 1))
    build([loop for low, _, _ in made for loop in low.loops.values()], 2)
    for low, tensors, eager in made:
        for run in BOTH:
            torch.testing.assert_close(lowered_results(low, tensors, run)["y0"], eager, rtol=0, atol=0, equal_nan=True)


@pytest.mark.spec("IR-37")
def test_of_equal_elements_the_place_of_the_first_is_given():
    """torch says nothing of which it is."""
    x = (torch.arange(4 * 66).view(4, 66) * 7 % 5).float()
    low, tensors, (values, _) = lower_call("aten.median.dim", (x, 1))
    build(low.loops.values())
    for run in BOTH:
        found = lowered_results(low, tensors, run)
        assert torch.equal(found["y0"], values)
        assert torch.equal(found["y1"], (x == values[:, None]).int().argmax(1))


@pytest.mark.spec("IR-37", "G12")
@pytest.mark.parametrize(
    ("target", "args", "because"),
    [
        ("median.dim", (torch.randn(4, 63), 1), "chooses among 63 elements"),
        ("median.default", (torch.randn(1000),), "chooses among 1000 elements"),
        ("median.default", (torch.randn(1 << 16).double(),), "64 bits"),
        ("nanmedian.dim", (torch.randn(99, 4), 0), "lie apart"),
        ("kthvalue.default", (torch.randn(4, 99).bfloat16(), 3), "ATen's own"),
        ("topk.default", (torch.randn(4, 99), 3), "ATen's own"),
    ],
    ids=["short", "short and alone", "f64", "columns", "bf16", "topk"],
)
def test_what_is_left_to_aten_says_why(target: str, args: tuple[Any, ...], because: str):
    lowered, _, _ = lower_call(f"aten.{target}", args)
    assert not lowered.loops and because in str(lowered.reasons[0])
