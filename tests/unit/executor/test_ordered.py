"""Programs that bind sizes at run time are ordered: whatever order their dependencies allow computes the same."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from lowtide import plan_at_run_time  # noqa: E402
from lowtide.executor import ordered  # noqa: E402
from lowtide.executor.block import VIEW  # noqa: E402
from lowtide.executor.capture import ASSERT, import_block  # noqa: E402
from lowtide.memory.graph import MemoryGraph  # noqa: E402
from running import D, Net  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]


@dataclass(frozen=True)
class Found:
    """What the order engine would say of an order that was made up, if it were the best."""

    order: list[int]
    peak: int = 0
    candidates: Any = None


def shuffling(seed: int) -> Callable[..., Found]:
    """A stand-in for the order engine that takes any order which keeps every dependency."""

    def reorder(graph: MemoryGraph, **_: Any) -> Found:
        draw, left = random.Random(seed), dict(enumerate(map(set, graph.predecessors)))
        order: list[int] = []
        while left:
            order.append(draw.choice([i for i, before in left.items() if not before & left.keys()]))
            del left[order[-1]]
        return Found(order, candidates={"program": 1})

    return reorder


def late_use(x: Tensor, mask: Tensor) -> Tensor:
    """Two wide values, of which the first could be gone before the second is made."""
    first = (x.repeat(1, 16) * 2).tanh()
    where = torch.nonzero(mask).squeeze(-1)
    second = (x.repeat(1, 16) + 1).exp()
    return second.sum(1) + first.sum(1) + x[where].sum()


def sized(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Sizes that are used by themselves, through views, and in sums of sizes."""
    u, v = torch.nonzero(mask).squeeze(-1), torch.nonzero(~mask).squeeze(-1)
    a, b = x[u], x[v]
    fresh = torch.ones(u.shape[0] + v.shape[0], 3)
    flat = torch.zeros(x.shape[0] * 3).view(-1, 3)[: u.shape[0]]
    first = (x * 4)[: u.shape[0]].sum()
    return torch.cat([a, b]) * fresh, flat + a.exp(), first * x, torch.full((v.shape[0],), 2.0)


def numbers(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    n = mask.sum().item()
    torch._check(n >= 0)
    torch._check(n <= x.shape[0])
    m = (x > 0).sum().item()
    return x[:n] * 2, x.narrow(0, 0, n).exp(), x * m, torch.arange(n)


def drawn(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    a = torch.rand_like(x)
    kept = x[mask]
    b = torch.rand_like(kept)
    return a + torch.randn(3), b * kept


def changed(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    before, n = x.exp(), torch.nonzero(mask).shape[0]
    y = x * 2
    y[:n].add_(1)
    kept = y[mask]
    x.mul_(0.5)
    return before, kept, y.sum(0), x + n


def chosen(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    first = torch.cond(x.sum() > 0, lambda t: t.exp(), lambda t: t * 2, (x,))
    kept = x[mask]
    second = torch.cond(x.mean() > 9, lambda t: t.cos() + 1, lambda t: t.sin(), (x,))
    return first + second, kept


def picked(x: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """Data says where a view begins, and others stand on it."""
    h = x * 2
    row = h[mask.sum().item() - 2]
    return row * 3, row.unsqueeze(0).exp(), row.sum(), h.sum(0)


PROGRAMS = (sized, numbers, drawn, changed, chosen, picked)


def draws(n: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(n))
    return x, torch.arange(n) % 3 == 0


def exported(f: Callable[..., Any]) -> Any:
    with torch.no_grad():
        return torch.export.export(Net(f), draws(7), dynamic_shapes=(({0: D}, {0: D}),))


@pytest.mark.spec("SC-16", "G6")
@pytest.mark.parametrize("f", PROGRAMS)
def test_every_order_that_keeps_the_dependencies_computes_the_same(
    f: Callable[..., tuple[Tensor, ...]], monkeypatch: pytest.MonkeyPatch
):
    program = exported(f)
    for seed in range(3):
        monkeypatch.setattr(ordered, "reorder", shuffling(seed))
        call = plan_at_run_time(program, verify=True)
        for n in (7, 7, 12, 4):
            (x, mask), (y, _) = draws(n), draws(n)
            torch.manual_seed(n)
            want = f(x, mask)
            torch.manual_seed(n)
            got = call(y, mask)
            assert call.told().reason is None
            for a, b in zip((*got, y), (*want, x), strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.spec("SC-16")
def test_whoever_uses_a_symbol_waits_for_the_first_that_knows_it():
    block = plan_at_run_time(exported(sized)).executor.plan.block
    later = ordered.waits(block)
    # torch 2.11 has symbols of its own for sizes of views, which stand between
    made = [line for line in block.lines if line.kind != VIEW]
    binder = {b.symbol: line for line in made for b in line.binds if b.dim is not None}
    assert len(binder) == 2
    u, v = (binder[s].op.name for s in sorted(binder, key=block.known_at.__getitem__))

    def before(name: str) -> set[str]:
        return {n for x in later.get(name, ()) for n in (x, *before(x))}

    check = next(x.op.name for x in block.lines if x.op.target == ASSERT)
    of = {line.op.target: before(line.op.name) & {u, v, check} for line in block.lines}
    assert of["aten.add.Tensor"] == {u, check}  # through a view that is so long
    assert of["aten.cat.default"] == {u, v, check} and of["aten.zeros.default"] == set()
    assert of["aten.ones.default"] - {check} == {u, v} and of["aten.full.default"] == {v}
    assert of["aten.sum.default"] == {u, check} and later[u] == later[v] == ()


@pytest.mark.spec("SC-16")
def test_what_reads_a_view_that_may_be_a_copy_waits_for_it():
    from torch._subclasses.fake_tensor import FakeTensorMode  # the graph needs values of that kind

    graph, mode = torch.fx.Graph(), FakeTensorMode()

    def node(op: Any, *args: Any) -> Any:
        made = graph.call_function(op, args)
        with mode:
            made.meta["val"] = op(*(a.meta["val"] if isinstance(a, torch.fx.Node) else a for a in args))
        return made

    x, aten = graph.placeholder("x"), torch.ops.aten
    with mode:
        x.meta["val"] = torch.empty(7, 3)
    turned = node(aten.t.default, node(aten.mul.Tensor, x, 2))
    flat = node(aten.reshape.default, turned, [-1])
    rows = node(aten.unsqueeze.default, flat, 0)
    graph.output((node(aten.exp.default, flat), node(aten.sin.default, rows), node(aten.cos.default, turned)))
    block, _ = import_block("views", torch.fx.GraphModule(torch.nn.Module(), graph))
    assert [line.op.target for line in block.lines if line.computed] == ["aten.reshape.default"]
    later = {line.op.target: ordered.waits(block).get(line.op.name) for line in block.lines}
    waiting = [later[f"aten.{name}.default"] for name in ("exp", "sin", "cos")]
    assert waiting == [("reshape_default",), ("reshape_default",), ()]


def halved(x: Tensor, mask: Tensor) -> Tensor:
    n = mask.sum().item()
    torch._check(n <= x.shape[0] // 2)
    x.mul_(3)
    return x.narrow(0, 0, n).exp()


@pytest.mark.spec("SC-16", "IR-61")
def test_a_failing_check_comes_before_what_is_written_behind_it(monkeypatch: pytest.MonkeyPatch):
    draw = iter(range(100))
    monkeypatch.setattr(ordered, "reorder", lambda graph, **_: shuffling(next(draw))(graph))
    for _ in range(4):
        torch._dynamo.reset()
        with torch._dynamo.config.patch(capture_scalar_outputs=True), torch.no_grad():
            call = torch.compile(halved, backend="lowtide", fullgraph=True, options={"verify": True})
            x, mask = draws(7)
            for _ in range(2):
                torch.testing.assert_close(call(x.clone(), mask), halved(x.clone(), mask))
            ours = x.clone()
            with pytest.raises(RuntimeError, match="u0 <= "):
                call(ours, mask | True)
        assert torch.equal(ours, x)
    assert next(draw) > 0


@pytest.mark.spec("SC-16")
def test_the_order_that_holds_least_is_taken_and_program_order_where_it_is_asked_for():
    program = exported(late_use)
    held: dict[bool, int] = {}
    for reorder in (True, False):
        call = plan_at_run_time(program, verify=True, reorder=reorder)
        for n in (64, 64):
            torch.testing.assert_close(call(*draws(n)), late_use(*draws(n)))
        held[reorder] = call.told().slab_nbytes
        lines = call.executor.plan.built.loaded.code.body
        at = [next(k for k, x in enumerate(lines) if re.search(rf"{op}\w*\(", x)) for op in ("tanh", "nonzero", "exp")]
        assert reorder or at == sorted(at)
    assert held[True] < held[False]


@pytest.mark.spec("SC-17")
def test_a_symbol_that_is_returned_keeps_the_one_that_binds_it_and_an_unused_number_goes():
    def f(x: Tensor, mask: Tensor) -> tuple[int, Tensor]:
        unused = mask.sum().item() * 3 + 1  # noqa: F841
        return torch.nonzero(mask).shape[0], x * 2

    call = plan_at_run_time(exported(f), verify=True)
    for n in (7, 7, 12):
        assert call(*draws(n))[0] == int(draws(n)[1].sum())
    lines = call.executor.plan.block.lines
    assert any(line.op.target == "aten.nonzero.default" for line in lines)
    assert not any(line.op.target.startswith("operator.") for line in lines)


@pytest.mark.spec("SC-16", "SC-62")
def test_memory_that_an_operation_takes_while_it_runs_counts_once(monkeypatch: pytest.MonkeyPatch):
    """Whatever else is held, in the slab and outside, a peak that is such memory rises with it byte by byte."""
    block = plan_at_run_time(exported(late_use)).executor.plan.block
    plain, peaks = ordered.memory_of, dict[int, int]()

    def peak(workspace: int) -> int:
        def taking(*given: Any) -> MemoryGraph:
            graph = plain(*given)
            nodes = [replace(n, workspace=workspace) if n.name.startswith("exp") else n for n in graph.nodes]
            assert sum(n.workspace for n in nodes) == workspace
            return MemoryGraph(graph.buffers, tuple(nodes))

        def program_order(graph: MemoryGraph, objective: Callable[..., int], **_: Any) -> Found:
            peaks[workspace] = objective(graph, range(len(graph.nodes)))
            return Found(list(range(len(graph.nodes))), candidates={"program": 0})

        monkeypatch.setattr(ordered, "memory_of", taking)
        monkeypatch.setattr(ordered, "reorder", program_order)
        assert ordered.ordered(block, {}, frozenset(), {}, {}) is block
        return peaks[workspace]

    assert peak(2 << 30) - peak(1 << 30) == 1 << 30
