"""Regions that are compiled once and called several times, and what arms of a conditional must agree on."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.compiler import nested_compile_region  # noqa: E402

from lowtide import memory_analysis, plan_at_run_time  # noqa: E402
from lowtide.core.errors import Unsupported  # noqa: E402
from lowtide.executor.block import REGION  # noqa: E402
from lowtide.executor.capture import import_block  # noqa: E402
from lowtide.executor.placing import STRATEGIES  # noqa: E402
from lowtide.executor.plans import Policy  # noqa: E402
from lowtide.executor.run import Executor  # noqa: E402
from running import Net  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]
D = torch.export.Dim.DYNAMIC
W = torch.randn(8, 8, generator=torch.Generator().manual_seed(3)) / 3


def body(x: Tensor, w: Tensor) -> Tensor:
    return ((x @ w).sin() * 2 + x).relu() * 0.5


def thrice(f: Any, x: Tensor, w: Tensor) -> Tensor:
    a = f(x * 2, w)
    b = f(a + 1, w)
    return f(a * b, w) + b


def exported(f: Any, *args: Tensor, shapes: Any) -> Any:
    with torch.no_grad():
        return torch.export.export(Net(f), args, dynamic_shapes=(shapes,), strict=True)


@pytest.mark.spec("IR-62", "IR-63", "RT-31")
def test_a_region_is_compiled_once_and_planned_where_it_is_called():
    region = nested_compile_region(body)
    program = exported(lambda x, w: thrice(region, x, w), torch.randn(5, 8), W, shapes=({0: D}, None))
    call = plan_at_run_time(program, verify=True)
    plan = call.executor.plan
    lines = [line for line in plan.block.lines if line.kind == REGION]
    assert len(lines) >= 2 and len({id(line.blocks[0]) for line in lines}) == 1
    assert len({id(arms[0]) for arms in plan.inner}) == 1
    for n in (5, 5, 9, 2, 9, 5):
        x = torch.randn(n, 8)
        torch.testing.assert_close(call(x, W), thrice(body, x, W), rtol=0, atol=0)
    frame = call.executor.latest
    inner = [arms[0] for arms in frame.inner]
    assert len({id(f.loaded.function) for f in inner}) == 1, "one body in generated code"
    assert all(f.slab is frame.slab and f.placement.nbytes > 0 for f in inner)
    for f, places in zip(inner, frame.built.slabs, strict=True):  # what is inside counts where it is called
        assert frame.placement.capacity[places["cpu"]] >= f.placement.nbytes
    assert call.told().leaks == call.told().copies == 0


def handmade(arm: Any, operands: tuple[Tensor, ...], before: Any) -> Executor:
    """A region that is called with each of the operands that ``before`` makes, as an fx graph made by hand; ``arm`` makes the
    region's graph."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # the graph needs values of that kind

    mode = FakeTensorMode()
    with mode:
        fakes = tuple(torch.empty_strided(x.shape, x.stride()) for x in operands)
    inner = torch.fx.Graph()
    names = [inner.placeholder(f"a{i}") for i in range(len(fakes))]
    for n, v in zip(names, fakes, strict=True):
        n.meta["val"] = v
    inner.output(arm(inner, mode, *names))
    outer = torch.fx.Graph()
    xs = [outer.placeholder(f"x{i}") for i in range(len(fakes))]
    for n, v in zip(xs, fakes, strict=True):
        n.meta["val"] = v
    calls = before(outer, mode, *xs)
    root = torch.nn.Module()
    root.region = torch.fx.GraphModule(root, inner)
    outs = []
    for ys in calls:
        part = outer.get_attr("region")
        called = outer.call_function(torch.ops.higher_order.invoke_subgraph, (part, "region", *ys))
        called.meta["val"] = tuple(n.meta["val"] for n in inner.output_node().args[0])
        for i, v in enumerate(called.meta["val"]):
            one = outer.call_function(__import__("operator").getitem, (called, i))
            one.meta["val"] = v
            outs.append(one)
    outer.output(tuple(outs))
    block, held = import_block("handmade", torch.fx.GraphModule(root, outer))
    return Executor(block, held, Policy(STRATEGIES["packed"], verify=True))


def node(graph: Any, mode: Any, op: Any, *args: Any) -> Any:
    made = graph.call_function(op, args)
    with mode:
        made.meta["val"] = op(*(a.meta["val"] if isinstance(a, torch.fx.Node) else a for a in args))
    return made


@pytest.mark.spec("RT-28", "IR-63")
@pytest.mark.parametrize("through_a_view", [False, True])
def test_a_region_that_returns_its_operand_gives_a_copy(through_a_view: bool):
    """The operand lies in the slab, and the result leaves: it must be bytes of its own."""
    aten = torch.ops.aten

    def arm(g: Any, mode: Any, a: Any) -> tuple[Any, ...]:
        kept = node(g, mode, aten.view.default, a, [4, 8]) if through_a_view else a
        return node(g, mode, aten.sin.default, a), kept

    def before(g: Any, mode: Any, x: Any) -> list[list[Any]]:
        y = node(g, mode, aten.mul.Tensor, node(g, mode, aten.exp.default, x), 2)
        return [[y], [y]]

    run = handmade(arm, (torch.randn(32),), before)
    held = []
    for _ in range(5):
        x = torch.randn(32)
        want = x.exp() * 2
        held.append((run([x.clone()]), want))
        frame = run.latest
        if frame is not None and frame.slab is not None:
            assert not any(frame.slab.holds(t) for t in held[-1][0])
    for got, want in held:
        for sin, kept in (got[:2], got[2:]):
            assert torch.equal(sin, want.sin()) and torch.equal(kept.view(-1), want)
        assert got[1].untyped_storage().data_ptr() != got[3].untyped_storage().data_ptr()
    assert run.leaks == 0 and run.plan.built is not None and run.plan.built.lives.counts.managed >= 1


@pytest.mark.spec("IR-63")
def test_operands_come_in_the_strides_of_the_first_call():
    aten = torch.ops.aten

    def arm(g: Any, mode: Any, a: Any) -> tuple[Any, ...]:
        return (
            node(g, mode, aten.sin.default, node(g, mode, aten.view.default, node(g, mode, aten.exp.default, a), [25])),
        )

    def before(g: Any, mode: Any, x: Any) -> list[list[Any]]:
        turned = node(g, mode, aten.t.default, node(g, mode, aten.mul.Tensor, x, 3))
        return [[node(g, mode, aten.clone.default, x)], [turned]]

    run = handmade(arm, (torch.randn(5, 5),), before)
    for _ in range(4):
        x = torch.randn(5, 5)
        first, second = run([x])
        assert torch.equal(first, x.exp().view(-1).sin())
        assert torch.equal(second, (x * 3).t().exp().reshape(-1).sin())


@pytest.mark.spec("IR-63")
def test_a_region_called_with_another_form_is_refused():
    aten = torch.ops.aten

    def shorter(g: Any, mode: Any, x: Any) -> list[list[Any]]:
        return [[node(g, mode, aten.slice.Tensor, x, 0, 0, 4)]]

    with pytest.raises(Unsupported, match="operand 0"):
        handmade(lambda g, mode, a: (node(g, mode, aten.sin.default, a),), (torch.randn(8),), shorter)


@pytest.mark.spec("IR-63", "RT-28")
@pytest.mark.parametrize("dynamic", [False, True])
def test_training_through_regions_with_the_backend(dynamic: bool):
    region = nested_compile_region(body)
    compiled = torch.compile(lambda x, w: thrice(region, x, w).square().mean(), backend="lowtide", dynamic=dynamic)
    for n in (5, 5, 5) if not dynamic else (5, 7, 5, 4):
        x, w = torch.randn(n, 8, requires_grad=True), W.clone().requires_grad_()
        a, b = x.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
        got, want = compiled(x, w), thrice(body, a, b).square().mean()
        got.backward()
        want.backward()
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(x.grad, a.grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(w.grad, b.grad, rtol=1e-5, atol=1e-6)
    assert "eager" not in str(memory_analysis())


# ------------------------------------------------------------------------------------------------ conditionals


@pytest.mark.spec("IR-64")
def test_arms_with_other_strides_agree_on_the_declared_ones():
    def f(x: Tensor) -> Tensor:
        y = x * 2
        z = torch.cond(x.sum() > 0, lambda a: (a + 1).t().contiguous().t(), lambda a: a - 1, (y,))
        return (z * 3).sin() + z

    try:
        program = exported(f, torch.randn(4, 6), shapes=(None,))
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException):
        pytest.skip("this torch refuses arms with different strides itself")
    call = plan_at_run_time(program, verify=True)
    for sign in (1, -1, 1, -1, -1, 1):
        x = torch.rand(4, 6) * sign
        assert torch.equal(call(x), f(x))


@pytest.mark.spec("IR-64")
def test_an_arm_that_returns_a_view_of_its_operand_is_refused_or_copied():
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        z = torch.cond(x.sum() > 0, lambda a: a.view(-1), lambda a: (a - 1).view(-1), (y,))
        return z * 2, y + 1

    try:
        call = plan_at_run_time(exported(f, torch.randn(6), shapes=(None,)), verify=True)
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as e:
        assert "alias" in str(e)
        return
    for sign in (1, -1, 1, -1, 1):
        x = torch.rand(6) * sign
        for got, want in zip(call(x), f(x), strict=True):
            assert torch.equal(got, want)


@pytest.mark.spec("IR-64")
def test_what_an_arm_writes_is_declared_by_the_conditional():
    """One arm writes its operand, which others see."""
    aten = torch.ops.aten

    def arm(g: Any, mode: Any, a: Any) -> tuple[Any, ...]:
        more = node(g, mode, aten.add.Tensor, a, 1)
        node(g, mode, aten.copy_.default, a, more)
        return (node(g, mode, aten.sin.default, more),)

    def before(g: Any, mode: Any, x: Any) -> list[list[Any]]:
        y = node(g, mode, aten.mul.Tensor, node(g, mode, aten.exp.default, x), 2)
        return [[y], [y]]

    run = handmade(arm, (torch.randn(8),), before)
    lines = [line for line in run.plan.block.lines if line.kind == REGION]
    assert all(line.op.mutates == line.op.reads for line in lines)
    for _ in range(4):
        x = torch.randn(8)
        first, second = run([x])
        want = x.exp() * 2 + 1
        assert torch.equal(first, want.sin()) and torch.equal(second, (want + 1).sin())
