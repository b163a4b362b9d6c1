"""Loops over rows: what is carried, and results that are stacked straight into one tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch._higher_order_ops.scan import scan  # noqa: E402

from lowtide import memory_analysis  # noqa: E402
from lowtide.core.errors import Unsupported  # noqa: E402
from lowtide.executor import capture  # noqa: E402
from lowtide.executor.placing import STRATEGIES  # noqa: E402
from lowtide.executor.plans import Policy  # noqa: E402
from lowtide.executor.run import Executor  # noqa: E402
from lowtide.runtime.records import records  # noqa: E402
from running import D, planned  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]


def recurrent(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing leaves as it is."""

    def turn(c: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        n = (c * 0.9 + a).tanh()
        return n, n * 2

    last, rows = scan(turn, c * 2, x + 1)
    return (rows * 3).sum(-1), last + 1


def leaving(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The results leave as they are."""

    def turn(c: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        return c + a, (c * a).exp()

    last, rows = scan(turn, c, x)
    return rows, last


def crossing(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two carried values that change places, rows of two tensors, one of which lies otherwise than its body was captured for,
    and something that stays."""

    def turn(both: Any, row: Any) -> tuple[Any, Any]:
        (p, q), (a, b) = both, row
        return (q + 0, p * 0.5 + a), (p + b.reshape(-1) * s, (q - a)[:3])

    s = c.cos()
    (p, q), (wide, short) = scan(turn, (c * 2, c * 3), (x * 2, (x * 3).unflatten(1, (4, 10)).transpose(1, 2)))
    return p - q, wide * 2, short.sum(-1)


def branching(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """A conditional in each turn."""

    def turn(c: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        n = torch.cond(a.sum() > 0, lambda c, a: (c + a).sin(), lambda c, a: (c - a).cos() * 2, (c, a))
        return n * 1, n + a

    last, rows = scan(turn, c + 1, x * 2)
    return rows * 2, last * 2


@pytest.mark.spec("IR-65", "RT-02", "RT-31", "G1")
@pytest.mark.parametrize("manage_outputs", [False, True])
@pytest.mark.parametrize("f", [recurrent, leaving, crossing, branching])
def test_rows_are_stacked_and_values_carried_at_any_length(f: Callable[..., Any], manage_outputs: bool):
    call = planned(
        f, torch.randn(5, 40), torch.randn(40), shapes=(({0: D}, None),), verify=True, manage_outputs=manage_outputs
    )
    held = []
    for n in (5, 5, 2, 9, 3, 9):
        x, c = torch.randn(n, 40), torch.randn(40)
        before = x.clone(), c.clone()
        held.append((call(x, c), f(x, c)))
        assert torch.equal(x, before[0]) and torch.equal(c, before[1])
    for got, want in held:
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a, b) and a.stride() == b.stride()
    assert call.told().leaks == 0


@pytest.mark.spec("IR-65", "RT-02")
def test_a_row_is_written_into_the_slab_and_the_turn_s_own_bytes_serve_the_next():
    call = planned(recurrent, torch.randn(50, 64), torch.randn(64), shapes=(({0: D}, None),))
    x, c = torch.randn(50, 64), torch.randn(64)
    for _ in range(3):
        call(x, c)
    frame = call.executor.latest
    rows = next(h for h, s in zip(frame.headers, frame.loaded.slots, strict=True) if s.name == "scan_1")
    assert rows.shape == (50, 64) and frame.slab.has(rows)
    (turn,) = frame.inner[0]
    assert turn.plan.stays == (True, True) and turn.slab is frame.slab
    assert turn.placement.nbytes <= 2 * 256, "of all turns one is there at a time"
    assert frame.placement.nbytes <= 2 * x.nbytes + 4 * 256


@pytest.mark.spec("IR-65")
def test_no_row_at_all_gives_copies_of_what_came_in():
    """torch exports no program for it; lengths that data decides can be it."""
    call = planned(leaving, torch.randn(5, 40), torch.randn(40), shapes=(({0: D}, None),))
    for n in (4, 4, 0, 0, 3):
        x, c = torch.randn(n, 40), torch.randn(40)
        rows, last = call.executor([x, c])
        assert rows.shape == (n, 40) and last.data_ptr() != c.data_ptr()
        for got, want in zip((rows, last), leaving(x, c) if n else (x, c), strict=True):
            assert torch.equal(got, want)


@pytest.mark.spec("IR-65", "RT-31")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore:.*not a leaf Tensor:UserWarning")  # torch's own, while it traces the backward
@pytest.mark.parametrize("train", [False, True])
def test_through_the_backend(train: bool):
    torch.manual_seed(0)
    x, c = torch.randn(6, 8), torch.randn(8)
    call = torch.compile(recurrent, backend="lowtide", options={"verify": True})
    found = []
    for f in (recurrent, call, call):
        given = [t.clone().requires_grad_(train) for t in (x, c)]
        with torch.set_grad_enabled(train):
            rows, last = f(*given)
        if train:
            (rows.sum() + last.square().sum()).backward()
        found.append([rows, last, *(t.grad for t in given if train)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    assert all(r.fallback is None for r in records()) and memory_analysis().graphs


@pytest.mark.spec("IR-65")
def test_rows_whose_size_depends_on_data_are_refused(monkeypatch: pytest.MonkeyPatch):
    """torch gives none today; nothing could be made for them before the first turn."""
    real = capture._Dynamic._binds
    monkeypatch.setattr(capture._Dynamic, "_binds", lambda self, v: real(self, v) or (capture.Bind("u9", 1, 0),))
    with pytest.raises(Unsupported, match="rows whose size depends on data"):
        planned(leaving, torch.randn(5, 40), torch.randn(40), shapes=(({0: D}, None),))


def writing(turned: bool) -> Executor:
    """A loop, made by hand, whose turns add each row to what stays, which lies as its body was captured for, or turned."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # the graph needs values of that kind

    aten, mode = torch.ops.aten, FakeTensorMode()

    def node(graph: Any, op: Any, *args: Any) -> Any:
        made = graph.call_function(op, args)
        with mode:
            made.meta["val"] = op(*(a.meta["val"] if isinstance(a, torch.fx.Node) else a for a in args))
        return made

    def given(graph: Any, **sizes: tuple[int, ...]) -> list[Any]:
        found = [graph.placeholder(name) for name in sizes]
        with mode:
            for n, size in zip(found, sizes.values(), strict=True):
                n.meta["val"] = torch.empty(size)
        return found

    inner, outer, root = torch.fx.Graph(), torch.fx.Graph(), torch.nn.Module()
    c, a, stays = given(inner, c=(4,), a=(4,), stays=(4, 4))
    node(inner, aten.copy_.default, stays, node(inner, aten.add.Tensor, stays, a))
    inner.output((node(inner, aten.add.Tensor, c, a), node(inner, aten.sin.default, a)))
    root.turn = torch.fx.GraphModule(root, inner)
    c, x, k = given(outer, c=(4,), x=(3, 4), k=(4, 4))
    k = node(outer, aten.mul.Tensor, k, 2)
    k = node(outer, aten.t.default, k) if turned else k
    loop = outer.call_function(torch.ops.higher_order.scan, (outer.get_attr("turn"), [c], [x], (k,)))
    loop.meta["val"] = (c.meta["val"], x.meta["val"])
    parts = []
    for i, value in enumerate(loop.meta["val"]):
        parts.append(outer.call_function(operator.getitem, (loop, i)))
        parts[-1].meta["val"] = value
    outer.output((*parts, node(outer, aten.add.Tensor, k, 1)))
    block, held = capture.import_block("writing", torch.fx.GraphModule(root, outer))
    return Executor(block, held, Policy(STRATEGIES["packed"], verify=True))


@pytest.mark.spec("IR-65", "IR-64")
def test_what_stays_is_written_where_it_lies_or_the_loop_is_refused():
    run = writing(False)
    for _ in range(4):
        c, x, k = torch.randn(4), torch.randn(3, 4), torch.randn(4, 4)
        last, rows, after = run([c, x, k])
        torch.testing.assert_close((last, rows, after), (c + x.sum(0), x.sin(), k * 2 + x.sum(0) + 1))
    with pytest.raises(Unsupported, match="operand 2 of scan"):
        writing(True)
