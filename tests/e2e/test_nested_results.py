"""Results within results, and numbers beside tensors: a child per tensor, each with bytes and an end of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import lowtide
from lowtide.core.errors import Unsupported
from lowtide.frontend.fx_import import import_graph
from lowtide.ir import json
from lowtide.ir.text import parse, print_graph
from lowtide.ir.verify import verify
from lowtide.memory.lifetime import lifetimes
from lowtide.runtime.records import Planned, records
from lowtide.schedule.schedule import memory_graph

pytestmark = [pytest.mark.torch, pytest.mark.spec("IR-49"), pytest.mark.usefixtures("fresh_compiler")]
nests = torch.ops.lowtide_nests
_library = torch.library.Library("lowtide_nests", "FRAGMENT")


def _operator(schema: str, real: Callable[..., Any], fake: Callable[..., Any] | None = None) -> None:
    name = schema.partition("(")[0]
    _library.define(schema)
    _library.impl(name, real, "CPU")
    torch.library.register_fake(f"lowtide_nests::{name}", fake or real, lib=_library)


def _told(x: Tensor) -> Any:
    """What is known of ``telling`` before there is data."""
    context = torch.library.get_ctx()
    shapes: Any = context._shape_env
    total, rows, many = shapes.create_unbacked_symfloat(), context.new_dynamic_size(), context.new_dynamic_size()
    return torch.empty_like(x), total, [torch.empty_like(x), x.new_empty(rows, 1)], many


_operator("pair(Tensor x) -> (Tensor, Tensor[])", lambda x: (x * 2, [x + 1, x - 1]))
_operator("lists(Tensor x) -> Tensor[][]", lambda x: [[x * 2], [], [x + 1, x - 1]])
_operator("words(Tensor x) -> (Tensor, Dict(str, Tensor[]))", lambda x: (x * 2, {"a": [x + 1], "b c": [x - 1, x * 5]}))
_operator("whole(Tensor x) -> Dict(str, Tensor)", lambda x: {"a": x * 2, "b": x + 1})
_operator("known(Tensor x) -> (Tensor, float, bool, int)", lambda x: (x * 2, 2.5, True, 7))
_operator("halves(Tensor(a) x) -> (Tensor, Tensor(a)[])", lambda x: (x * 2, [x[: len(x) // 2], x[len(x) // 2 :]]))
_operator(
    "telling(Tensor x) -> (Tensor, Scalar, Tensor[], SymInt)",
    lambda x: (x * 2, x.sum().item(), [x + 1, x.nonzero().float()], int((x > 0).sum())),
    _told,
)


def pair(x: Tensor) -> tuple[Tensor, ...]:
    y, (a, b) = nests.pair(x.sin())
    return y.exp() + a, b * 2


def lists(x: Tensor) -> tuple[Tensor, ...]:
    (y,), _, (_, b) = nests.lists(x.sin())
    return (y + b.cos(),)


def known(x: Tensor) -> tuple[Any, ...]:
    y, by, _, n = nests.known(x.sin())
    return y * by + n, by


def telling(x: Tensor) -> tuple[Any, ...]:
    y, total, (a, rows), many = nests.telling(x.sin())
    return y * total, a, rows + 1, x.new_ones(many)


def words(x: Tensor) -> tuple[Tensor, ...]:
    y, d = nests.words(x.sin())
    return y.exp() + d["a"][0], d["b c"][1] * 2


def whole(x: Tensor) -> tuple[Tensor, ...]:
    d = nests.whole(x.sin())
    return (d["a"].exp() + d["b"],)


def planned() -> Planned:
    (record,) = records()
    assert record.fallback is None, record.fallback
    return record.planned[0]


@pytest.mark.parametrize("f", [pair, lists, known])
@pytest.mark.parametrize("kernels", ["loops", "aten"])
def test_what_lies_in_lists_is_planned(f: Callable[..., Any], kernels: str):
    compiled = torch.compile(f, backend="lowtide", fullgraph=True, options={"verify": True, "kernels": kernels})
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(5)
            torch.testing.assert_close(compiled(x), f(x))
    graph = planned().schedule.graph
    verify(graph)
    assert parse(print_graph(graph)) == graph and json.load(json.dump(graph)) == graph


def test_each_leaf_has_an_end_of_its_own():
    def f(x: Tensor) -> Tensor:
        y, (a, b) = nests.pair(x.sin())
        s = a.sum()
        return (y @ y + s) @ y + b

    compiled = torch.compile(f, backend="lowtide", options={"kernels": "aten"})
    with torch.no_grad():
        x = torch.randn(8, 8)
        torch.testing.assert_close(compiled(x), f(x))
    found = planned()
    (call,) = (s.op for s in found.schedule.steps if s.op.target == "lowtide_nests.pair.default")
    assert call.paths == ((0,), (1, 0), (1, 1))
    y, a, b = (str(o) for o in call.outputs)
    lives = {x.name: x for x in lifetimes(memory_graph(found.schedule))}
    assert [lives[n].nbytes for n in (y, a, b)] == [8 * 8 * 4] * 3
    assert lives[y].first == lives[a].first == lives[b].first and lives[a].end < lives[y].end <= lives[b].end


def test_leaves_stand_on_what_their_parent_stands_on():
    gm = make_fx(lambda x: (r := nests.halves(x * 3), [r[0], *r[1]])[1], tracing_mode="fake")(torch.zeros(6))
    graph, _ = import_graph("g", [("inference", gm)])
    verify(graph)
    (op,) = (op for op in graph.ops if op.target == "lowtide_nests.halves.default")
    new, *parts = (str(o) for o in op.outputs)
    assert graph.value[new].storage == new
    assert [graph.value[p].storage for p in parts] == ["mul", "mul"]
    assert not op.view, "one of its results is computed"


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own, while it copies an exported program
@pytest.mark.parametrize("made", [lowtide.compile_exported, lowtide.plan_at_run_time])
@pytest.mark.parametrize("f", [words, whole, pair, telling])
def test_mappings_and_numbers_of_an_exported_program(f: Callable[..., Any], made: Callable[..., Any]):
    class Program(torch.nn.Module):
        def forward(self, x: Tensor) -> Any:
            return f(x)

    exported = torch.export.export(Program(), (torch.randn(5),), strict=False)
    with torch.no_grad():
        run = made(exported)
        for _ in range(4):
            x = torch.randn(5)
            torch.testing.assert_close(run(x), f(x))


def test_numbers_that_depend_on_data_are_known_once_the_operation_ran():
    switches = {"capture_dynamic_output_shape_ops": True, "capture_scalar_outputs": True}
    with torch.no_grad(), torch._dynamo.config.patch(switches):
        compiled = torch.compile(telling, backend="lowtide", fullgraph=True, options={"verify": True})
        for _ in range(4):
            x = torch.randn(5)
            torch.testing.assert_close(compiled(x), telling(x))
    (record,) = records()
    assert record.at_run_time and record.fallback is None


def test_an_optimizer_of_torch_that_gives_lists():
    """A trusted operator is tried alone before the first call, with its nest."""

    def step(p: Tensor, g: Tensor, m: Tensor) -> list[Tensor]:
        one = torch.ops.aten._fused_sgd.default(
            [p * 1], [g], [m], weight_decay=0.0, momentum=0.9, lr=0.1, dampening=0.0, nesterov=False, maximize=False,
            is_first_step=False,
        )  # fmt: skip
        return [one[0][0] * 2, one[2][0]]

    given = [torch.randn(4, 3) for _ in range(3)]
    gm = make_fx(step, tracing_mode="fake")(*given)
    compiled = torch.compile(gm, backend="lowtide", options={"verify": True})
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(*given), step(*given))
    (op,) = (op for op in planned().schedule.graph.ops if "_fused_sgd" in op.target)
    assert len(op.paths) == 3


def test_what_is_neither_tensor_nor_number_is_refused_by_name():
    gm = make_fx(lambda x: list(nests.known(x))[:1], tracing_mode="fake")(torch.zeros(3))
    call = next(n for n in gm.graph.nodes if n.op == "call_function")
    call.meta["val"] = ({1.5: object()},)
    with pytest.raises(Unsupported, match=r"lowtide_nests\.known\.default: has a dict among its results"):
        import_graph("g", [("inference", gm)])
