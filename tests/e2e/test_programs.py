"""Programs of every kind: sizes that change, graph breaks, constants, custom operators, what we cannot plan."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from values import Compile, agree, check

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.mark.spec("G1")
@pytest.mark.parametrize("dynamic", [True, None, False])
def test_ten_shapes(compiled: Compile, dynamic: bool | None):
    net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
    f = compiled(net, dynamic=dynamic)
    torch._dynamo.config.recompile_limit = 64
    for rows in (2, 3, 5, 8, 13, 21, 3, 34, 2, 1, 55):
        x = torch.randn(rows, 6)
        ref = net(x).square().sum()
        expected = torch.autograd.grad(ref, list(net.parameters()))
        got = torch.autograd.grad(f(x).square().sum(), list(net.parameters()))
        agree(list(got), list(expected))
        with torch.no_grad():
            agree(f(x), net(x))


@pytest.mark.spec("G1")
def test_shapes_that_meet_in_flight(compiled: Compile):
    """Forward calls of several sizes before any backward."""

    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    twin, f = copy.deepcopy(net), compiled(net, dynamic=True)
    xs = [torch.randn(n, 6) for n in (4, 9, 4, 7)]
    losses = [f(x).square().sum() for x in xs]
    for i in (2, 0, 3, 1):
        losses[i].backward()
        twin(xs[i]).square().sum().backward()
    agree([p.grad for p in net.parameters()], [p.grad for p in twin.parameters()])


@pytest.mark.spec("G1")
def test_sizes_in_arithmetic_and_results(compiled: Compile):
    def f(x: Tensor) -> tuple[Any, ...]:
        n = x.shape[0]
        return x.sum(0) / n, n * 2, x.new_ones(n + 1), x.reshape(-1, n), torch.arange(n) * n

    g = compiled(f, dynamic=True)
    for n in (3, 4, 6, 4):
        agree(g(torch.ones(n, 2 * n)), f(torch.ones(n, 2 * n)))


@pytest.mark.spec("G1")
@pytest.mark.parametrize("train", [False, True])
def test_sizes_known_only_at_run_time(compiled: Compile, train: bool):
    def f(x: Tensor) -> Tensor:
        picked = x[x > 0]
        return (picked * 2).sum() + picked.shape[0]

    g = compiled(f)
    for _ in range(3):
        x = torch.randn(20).requires_grad_(train)
        agree(g(x), f(x))


# ---------------------------------------------------------------------------------------------- what cannot be planned


@pytest.mark.spec("G1")
def test_a_graph_break_in_the_middle(compiled: Compile):
    net = nn.Linear(4, 4)

    def f(x: Tensor) -> Tensor:
        y = torch.tanh(net(x))
        torch._dynamo.graph_break()
        z = y * y + x
        if z.sum() > 0:
            return z.exp()
        return z - 1

    g = compiled(f)
    for sign in (1.0, -1.0):
        a = torch.full((3, 4), sign, requires_grad=True)
        b = a.detach().clone().requires_grad_()
        agree(g(a), f(b))
        g(a).sum().backward()
        f(b).sum().backward()
        agree(a.grad, b.grad)


@pytest.mark.spec("G1")
def test_a_module_that_breaks_everywhere(compiled: Compile):
    def f(x: Tensor) -> Tensor:
        for i in range(4):
            x = x * 2 - 1
            if x.sum().item() > 100 + i:
                x = x / 2
            x = torch.sin(torch.as_tensor(x.numpy(force=True))) + x
        return x

    check(compiled, f, torch.randn(4, 4))


@pytest.mark.spec("G1")
def test_a_function_without_tensors_and_one_that_does_nothing(compiled: Compile):
    assert compiled(lambda a, b: a + b)(2, 3) == 5
    x = torch.randn(3)
    assert compiled(lambda x: x)(x) is x
    check(compiled, lambda x: (x, None, 3, "text"), x)
    check(compiled, lambda x: torch.ones(3), x)


@pytest.mark.spec("G1", "IR-56")
def test_constants_inside(compiled: Compile):
    table = torch.randn(4, 3)

    def f(x: Tensor) -> Tensor:
        return x @ table + torch.tensor([1.0, 2.0, 3.0]) * torch.arange(3) + table.sum()

    check(compiled, f, torch.randn(2, 4))


@pytest.fixture
def library() -> Any:
    return torch.library.Library("lowtide_test", "FRAGMENT")


@pytest.mark.spec("G1")
def test_a_custom_operator_without_fake_kernel(compiled: Compile, library: Any):
    library.define("opaque(Tensor x) -> Tensor")
    library.impl("opaque", lambda x: x * 2 + 1, "CPU")

    def f(x: Tensor) -> Tensor:
        return torch.ops.lowtide_test.opaque(x.sin()).cos()

    x = torch.randn(5)
    try:
        agree(compiled(f)(x), f(x))
    except RuntimeError as error:
        assert "fake" in str(error).lower() and "opaque" in str(error), "a clear refusal names the operator"


@pytest.mark.spec("G1", "G5")
def test_custom_operators(compiled: Compile):
    """One that makes its result, one that writes its argument, both with fake kernels."""

    @torch.library.custom_op("lowtide_test::scale", mutates_args=())
    def scale(x: Tensor, by: float) -> Tensor:
        return x * by

    @scale.register_fake
    def _(x: Tensor, by: float) -> Tensor:
        return torch.empty_like(x)

    @torch.library.custom_op("lowtide_test::bump", mutates_args=("x",))
    def bump(x: Tensor) -> None:
        x += 1

    @bump.register_fake
    def _(x: Tensor) -> None:
        return None

    def f(x: Tensor) -> Tensor:
        y = scale(x.exp(), 0.5)
        bump(y)
        return y * 2 + scale(y, 3.0)

    check(compiled, f, torch.randn(4, 4))

    def writes(x: Tensor) -> Tensor:
        bump(x)
        return x * 2

    check(compiled, writes, torch.randn(4), mutates=True)


@pytest.mark.spec("G1")
def test_a_tensor_subclass(compiled: Compile):
    from torch.testing._internal.two_tensor import TwoTensor

    a, b = torch.randn(3, 3), torch.randn(3, 3)
    got = compiled(lambda t: (t * 2).sin() + 1)(TwoTensor(a.clone(), b.clone()))
    assert isinstance(got, TwoTensor)
    agree([got.a, got.b], [(a * 2).sin() + 1, (b * 2).sin() + 1])


@pytest.mark.spec("G1")
def test_sparse_tensors(compiled: Compile):
    dense = torch.randn(4, 5) * (torch.rand(4, 5) > 0.5)
    x = torch.randn(5, 2)
    f = compiled(lambda s, x: torch.sparse.mm(s, x) * 2)
    agree(f(dense.to_sparse(), x), (dense @ x) * 2)


@pytest.mark.spec("G1")
def test_meta_tensors_and_factories(compiled: Compile):
    def f(x: Tensor) -> tuple[Tensor, ...]:
        return (
            torch.zeros_like(x),
            x.new_full((2, 2), 3.0),
            torch.eye(3),
            torch.linspace(0, 1, 4),
            torch.full_like(x, 2),
        )

    check(compiled, f, torch.randn(3))


@pytest.mark.spec("G1")
def test_random_numbers_repeat_under_a_seed(compiled: Compile):
    f = compiled(lambda x: x + torch.rand_like(x) + torch.randn(x.shape))
    x = torch.zeros(1000)
    torch.manual_seed(4)
    one = f(x)
    two = f(x)
    torch.manual_seed(4)
    assert torch.equal(one, f(x)) and not torch.equal(one, two)
    assert 0.4 < one.mean().item() < 0.6


@pytest.mark.spec("G1")
def test_control_flow_operators(compiled: Compile):
    def f(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: t.sin(), lambda t: t.cos() * 2, (x,))

    g = compiled(f)
    for x in (torch.ones(4), -torch.ones(4)):
        agree(g(x), f(x))


@pytest.mark.spec("G1")
def test_exported_programs(compiled: Compile, ours: bool):
    if not ours:
        pytest.skip("an entry point of Lowtide's own")
    import lowtide

    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x = torch.randn(3, 4)
    with torch.no_grad():
        program = lowtide.compile_exported(torch.export.export(net, (x,)))
        agree(program(x), net(x))
        agree(program(x * 2), net(x * 2))
