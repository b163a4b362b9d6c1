"""Random programs of passes along rows, down columns and turned ones: compiled equals eager, on one thread and on two."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

import lowtide
from lowtide.runtime.records import records

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore"), pytest.mark.spec("SC-10")]

Pass = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# What goes on with the rows, and what is returned beside them: of rows and of what lies turned beside them.
ALONG: dict[str, Pass] = {
    "softmax": lambda x, _: torch.softmax(x, -1),
    "layer norm": lambda x, _: functional.layer_norm(x, x.shape[-1:]),
    "with what lies turned": lambda x, y: x + y.transpose(-1, -2),
    "softmax with what lies turned": lambda x, y: torch.softmax(x * y.transpose(-1, -2), -1),
}
BESIDE: dict[str, Pass] = {
    "turned": lambda x, _: x.transpose(-1, -2).contiguous(),
    "turned, doubled": lambda x, _: x.transpose(-1, -2).contiguous() * 2,
    "doubled": lambda x, _: x * 2,
    "sums of rows": lambda x, _: x.sum(-1),
    "sums of columns": lambda x, _: x.sum(-2),
    "greatest of columns": lambda x, _: x.amax(-2),
    "least of columns": lambda x, y: (x * 2).amin(-2),
    "variance of columns": lambda x, _: x.var(-2, correction=0),
}
PASSES = {**ALONG, **BESIDE}
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-9, torch.bfloat16: 6e-2, torch.float16: 2e-2}
SIZES = st.sampled_from([0, 1, 5, 15, 16, 17, 31, 48, 64, 65, 130, 257])


@pytest.fixture
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(names: Sequence[str], x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    out: list[torch.Tensor] = []
    for name in names:
        made = PASSES[name](x, y)
        if name in ALONG:
            x = made
        else:
            out.append(made)
    return [x, *out]


def holds(data: st.DataObject) -> None:
    rows, width, many = data.draw(SIZES), data.draw(SIZES), data.draw(st.sampled_from([0, 0, 1, 3]))
    dtype = data.draw(st.sampled_from([torch.float32, *TOLERANCE]))
    names = tuple(data.draw(st.lists(st.sampled_from(sorted(PASSES)), min_size=1, max_size=4)))
    if not rows:  # there is no greatest of nothing
        names = tuple(n for n in names if not n.startswith(("greatest", "least"))) or ("turned",)
    torch.set_num_threads(data.draw(st.sampled_from([1, 2])))
    torch.manual_seed(0)
    x, y = torch.randn(rows, width).to(dtype), torch.randn(width, rows).to(dtype)
    if many:
        x, y = (t.expand(many, *t.shape) * torch.arange(1, many + 1).view(-1, 1, 1).to(dtype) for t in (x, y))
    agrees(names, x, y)


def agrees(names: Sequence[str], x: torch.Tensor, y: torch.Tensor) -> None:
    """Compiled equals eager, in kernels that could be built."""
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(
            functools.partial(run, names), backend="lowtide", dynamic=False, options={"verify": True}
        )
        got, want = compiled(x, y), run(names, x, y)
        found = lowtide.memory_analysis(lambda: compiled(x, y))
    assert not any("kernels of our own" in why for g in found.graphs for why in g.reasons)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and (a.stride() == b.stride() or b.numel() < 2)
        torch.testing.assert_close(a, b, rtol=TOLERANCE[x.dtype], atol=TOLERANCE[x.dtype], equal_nan=True)


@pytest.mark.parametrize(
    ("names", "in_kernels"),
    [
        (("softmax", "turned"), "turn(turned"),
        (("softmax with what lies turned",), "turn(b"),
        (("softmax", "sums of columns"), "= fold_blocks("),
        (("layer norm", "greatest of columns", "least of columns"), "= fold_blocks("),
    ],
)
def test_two_orders_in_one_pass(names: Sequence[str], in_kernels: str) -> None:
    torch.manual_seed(0)
    agrees(names, torch.randn(130, 257), torch.randn(257, 130))
    (source,) = [s.text for r in records() for p in r.planned for s in p.program.kernels]
    assert source.count('extern "C" void k') == 1 and in_kernels in source


@pytest.mark.usefixtures("threads")
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_programs(data: st.DataObject) -> None:
    holds(data)


@pytest.mark.slow
@pytest.mark.usefixtures("threads")
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_many_programs(data: st.DataObject) -> None:
    holds(data)
