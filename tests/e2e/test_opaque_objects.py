"""Objects that a program hands to operators without anybody looking into them: named inputs of the plan."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._library.opaque_object import get_opaque_type_name, register_opaque_type
from torch._opaque_base import OpaqueBase

import lowtide
from lowtide.ir.text import parse, print_graph
from lowtide.ir.verify import verify
from lowtide.runtime.records import records

pytestmark = [pytest.mark.torch, pytest.mark.spec("IR-72"), pytest.mark.usefixtures("fresh_compiler")]
OPTIONS = {"verify": True}


class Counter(OpaqueBase):
    """Two tensors and a number that its operators change."""

    def __init__(self) -> None:
        self.seen = 0
        self.table, self.more = torch.arange(6.0), {"scale": torch.full((3,), 2.0, dtype=torch.float64)}


register_opaque_type(Counter, typ="reference")
_library = torch.library.Library("lowtide_opaque", "FRAGMENT")
_library.define(f"counted({get_opaque_type_name(Counter)} counter, Tensor x) -> Tensor")


@torch.library.impl(_library, "counted", "CompositeExplicitAutograd")
def _counted(counter: Counter, x: Tensor) -> Tensor:
    counter.seen += 1
    return x * counter.table[: x.shape[-1]] * counter.more["scale"][0].float() + counter.seen


torch.library.register_fake("lowtide_opaque::counted", lambda counter, x: torch.empty_like(x), lib=_library)


def step(counter: Counter, x: Tensor, w: Tensor) -> Tensor:
    """Two calls that may change places, were it not for the object: the first one's result is larger and read last."""
    first = torch.ops.lowtide_opaque.counted(counter, (x @ w).sin())
    second = torch.ops.lowtide_opaque.counted(counter, x[:2].cos())
    return second.sum().tanh() + first


@pytest.mark.parametrize("kernels", ["loops", "aten"])
def test_an_object_is_a_named_input_whose_operators_keep_their_order(kernels: str):
    ours, eagers = Counter(), Counter()
    x, w = torch.randn(4, 3), torch.randn(3, 3)
    compiled = torch.compile(step, backend="lowtide", options={**OPTIONS, "kernels": kernels})
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(ours, x, w), step(eagers, x, w))
    assert ours.seen == eagers.seen == 4
    (record,) = records()
    assert record.fallback is None
    graph = record.planned[0].schedule.graph
    (held,) = [v for v in graph.values if v.layout.dtype == "object"]
    assert graph.nbytes[held.name] == 6 * 4 + 3 * 8, "the bytes of the tensors in it"
    assert held.name in graph.caller_owned
    calls = [op for op in graph.ops if op.target == "lowtide_opaque.counted.default"]
    assert [op.mutates for op in calls] == [(held.name,)] * 2
    verify(graph)
    assert parse(print_graph(graph)) == graph


def test_an_object_costs_the_program_nothing():
    counter, x, w = Counter(), torch.randn(64, 3), torch.randn(3, 3)
    compiled = torch.compile(step, backend="lowtide", options=OPTIONS)
    with torch.no_grad():
        compiled(counter, x, w)
        found = lowtide.memory_analysis(lambda: compiled(counter, x, w))
    tensors = sum(t.nbytes for t in (x, w, counter.table, counter.more["scale"]))
    assert found.graphs[0].argument_bytes == tensors
    assert found.measured_peak_bytes is not None and found.measured_peak_bytes >= found.promised_peak_bytes > 0


def test_an_object_is_there_where_the_plan_is_made_as_it_runs():
    def f(counter: Counter, x: Tensor) -> Tensor:
        y = torch.ops.lowtide_opaque.counted(counter, x.sin())
        return (y[y > 1].exp() + 1).sum() + torch.ops.lowtide_opaque.counted(counter, y.cos()).sum()

    ours, eagers = Counter(), Counter()
    compiled = torch.compile(f, backend="lowtide", options=OPTIONS)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), torch.no_grad():
        for _ in range(4):
            x = torch.randn(4, 3)
            torch.testing.assert_close(compiled(ours, x), f(eagers, x))
    (record,) = records()
    assert record.at_run_time and record.fallback is None


def test_an_object_is_there_in_training():
    ours, eagers = Counter(), Counter()
    given = [torch.randn(4, 3, requires_grad=True) for _ in range(2)]
    given[1].data.copy_(given[0].data)
    w = torch.randn(3, 3)

    def f(counter: Counter, x: Tensor, w: Tensor) -> Tensor:
        return (torch.ops.lowtide_opaque.counted(counter, x.detach()) * (x @ w).sin()).sum()

    compiled = torch.compile(f, backend="lowtide", options=OPTIONS)
    compiled(ours, given[0], w).backward()
    f(eagers, given[1], w).backward()
    torch.testing.assert_close(given[0].grad, given[1].grad)
    assert [r.fallback for r in records()] == [None]
