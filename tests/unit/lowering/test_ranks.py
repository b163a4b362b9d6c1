"""Choosing by rank: values alone, of equal elements too; refusals."""

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
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
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
    """Of rows of equal elements and of both zeros too."""
    zeros = torch.zeros(2, 64)
    zeros[:, 1::2] = -0.0
    made = [values_of("aten.median.dim", x, 1) for x in (zeros, (torch.arange(4 * 66).view(4, 66) * 7 % 5).float())]
    for x in (unlike(9, 70), unlike(5, 3, 81)):
        made.append(values_of("aten.median.dim", x, -1))
        made.append(values_of("aten.nanmedian.dim", x, -1, True))
        made.append(values_of("aten.kthvalue.default", x, 3, -1))
    for d in (torch.float16, torch.int16, torch.int8):
        x = unlike(7, 90, dtype=d) if d.is_floating_point else torch.arange(7 * 90).view(7, 90).to(d) * 37
        made += [values_of("aten.median.dim", x, 1, keep) for keep in (False, True)]
        made += [values_of("aten.kthvalue.default", x, k, 1) for k in (1, 90)]
    made.append(values_of("aten.nanmedian.dim", unlike(7, 90, dtype=torch.bfloat16), 1))
    build([loop for low, _, _ in made for loop in low.loops.values()], 2)
    for low, tensors, eager in made:
        for run in BOTH:
            torch.testing.assert_close(lowered_results(low, tensors, run)["y0"], eager, rtol=0, atol=0, equal_nan=True)


@pytest.mark.spec("IR-37", "G1")
def test_gradients_go_to_the_elements_that_eager_chose():
    """Of many equal ones, as behind a rectifier, which torch does not say."""
    torch.manual_seed(0)
    x = torch.randn(6, 90).round()

    def f(x: torch.Tensor) -> torch.Tensor:
        return x.relu().median(1).values.sum() + x.relu().kthvalue(80, 1).values.sum()

    torch.compiler.reset()
    ours, eagers = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.compile(f, backend="lowtide")(ours).backward()  # type: ignore[no-untyped-call]
    f(eagers).backward()  # type: ignore[no-untyped-call]
    assert ours.grad is not None and eagers.grad is not None
    assert torch.equal(ours.grad, eagers.grad)


@pytest.mark.spec("IR-37", "G12")
@pytest.mark.parametrize(
    ("target", "args", "because"),
    [
        ("median.default", (torch.randn(1000),), "chooses among 1000 elements"),
        ("median.default", (torch.randn(1 << 16).double(),), "64 bits"),
        ("kthvalue.default", (torch.randn(4, 99).bfloat16(), 3), "ATen's own"),
        ("median.dim", (torch.randn(4, 99), 1), "ATen's own"),
        ("nanmedian.dim", (torch.randn(4, 99), 1), "ATen's own"),
        ("topk.default", (torch.randn(4, 99), 3), "ATen's own"),
    ],
    ids=["short and alone", "f64", "bf16", "f32", "f32 but NaN", "topk"],
)
def test_what_is_left_to_aten_says_why(target: str, args: tuple[Any, ...], because: str):
    lowered, _, _ = lower_call(f"aten.{target}", args)
    assert not lowered.loops and because in str(lowered.reasons[0])


@pytest.mark.spec("IR-37", "G12")
@pytest.mark.parametrize(
    ("target", "x", "dim", "because"),
    [
        ("median.dim", torch.randn(4, 63), 1, "chooses among 63 elements"),
        ("nanmedian.dim", torch.randn(99, 4), 0, "lie apart"),
        ("median.dim", torch.ones(4, 99, dtype=torch.int64), 1, "64 bits"),
    ],
    ids=["short", "columns", "i64"],
)
def test_values_alone_are_left_to_aten_too_and_it_says_why(target: str, x: torch.Tensor, dim: int, because: str):
    lowered, _, _ = values_of(f"aten.{target}", x, dim)
    assert not lowered.loops and because in str(lowered.reasons[0])


@pytest.mark.spec("IR-37", "G12")
@pytest.mark.parametrize("dtype", ["bool", "u16", "u32", "u64"])
def test_dtypes_without_keys_are_refused(dtype: str):
    """Whatever an operator library may choose among: the order of bits is known of some dtypes alone."""
    x, y = Value("x", Layout(dtype, "cpu", (1 << 16,), (1,)), "x"), Value("y", Layout(dtype, "cpu", (), ()), "y")
    op = Op("y", "aten.median.default", (Ref("x"),), outputs=("y",))
    lowered = lower(Graph("one", (x, y), (Section("inference", (Ref("x"),), (op,), (Ref("y"),)),)))
    assert not lowered.loops and "chooses among" in str(lowered.reasons[0])
