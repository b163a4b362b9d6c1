"""Every kind of value that can go in or come out: layouts, types, aliases, mutations, sizes that change.

Inputs are compared bit by bit before and after each call (what the program itself does not write stays as it was), and
results of earlier calls are held while later ones run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

Compile = Callable[..., Any]


def leaves(tree: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(tree)


def agree(got: Any, ref: Any) -> None:
    assert len(leaves(got)) == len(leaves(ref))
    for a, b in zip(leaves(got), leaves(ref), strict=True):
        if not isinstance(b, Tensor):
            assert a == b
            continue
        assert (a.dtype, a.shape, a.requires_grad, a.layout) == (b.dtype, b.shape, b.requires_grad, b.layout)
        if b.numel() and b.layout == torch.strided:
            steps = [(s, t) for s, t, n in zip(a.stride(), b.stride(), b.shape, strict=True) if n > 1]
            assert all(s == t for s, t in steps), f"strides {a.stride()} where eager has {b.stride()}"
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def check(compile_one: Compile, f: Callable[..., Any], *given: Any, mutates: bool = False, **more: Any) -> Any:
    """Call twice, hold both results, compare with eager and the inputs with what they were."""
    g = compile_one(f, **more)
    held = []
    for _ in range(2):
        theirs, ours = [_fresh(x) for x in given], [_fresh(x) for x in given]
        ref, got = f(*theirs), g(*ours)
        held.append((got, ref, theirs, ours))
    for got, ref, theirs, ours in held:
        agree(got, ref)
        agree(ours, theirs)
        if not mutates:
            agree([_plain(x) for x in ours], [_plain(x) for x in given])
    return held[-1][0]


def _fresh(x: Any) -> Any:
    """A copy with the same layout, whose own storage is laid out alike."""
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        return x
    base = x.detach().untyped_storage().clone()
    made = torch.empty(0, dtype=x.dtype).set_(base, x.storage_offset(), x.size(), x.stride())
    return made.requires_grad_(x.requires_grad)


def _plain(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


def work(x: Tensor) -> Tensor:
    """Something with several steps for any floating tensor."""
    y = torch.tanh(x * 2 + 1)
    return (y * y - x).relu() + y.sum()


# ---------------------------------------------------------------------------------------------- layouts

_BASE = torch.arange(240, dtype=torch.float32).reshape(10, 24) / 100 - 1

LAYOUTS = {
    "transposed": _BASE.t(),
    "every second": _BASE[::2, 1::3],
    "offset": _BASE.reshape(-1)[37:61].reshape(4, 6),
    "expanded": _BASE[:1, :5].expand(7, 5),
    "scalar expanded": torch.tensor(0.5).expand(3, 4),
    "overlapping": _BASE.as_strided((5, 4), (2, 1)),
    "padded": torch.empty_strided((6, 5), (8, 1)).copy_(_BASE[:6, :5]),
    "channels last": torch.linspace(-1, 1, 2 * 4 * 6 * 6)
    .reshape(2, 4, 6, 6)
    .contiguous(memory_format=torch.channels_last),
    "size one": _BASE[:1, :, None],
    "0-d": torch.tensor(0.7),
    "empty": torch.empty(0, 5),
    "empty inside": torch.empty(3, 0, 2),
}


@pytest.mark.spec("G1", "G5", "G11", "IR-21")
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(compiled: Compile, name: str):
    check(compiled, work, LAYOUTS[name])


@pytest.mark.spec("G1", "G5", "G11")
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_of_layouts(compiled: Compile, name: str):
    f = compiled(work)
    x = _fresh(LAYOUTS[name])
    a, b = x.detach().requires_grad_(), x.detach().requires_grad_()
    f(a).sum().backward()
    work(b).sum().backward()
    agree(a.grad, b.grad)


@pytest.mark.spec("G1")
@pytest.mark.parametrize("name", ["transposed", "every second", "expanded", "offset", "overlapping"])
def test_matrix_products_of_layouts(compiled: Compile, name: str):
    x = LAYOUTS[name]
    weight = torch.randn(x.shape[1], 3)
    check(compiled, lambda t, w: torch.softmax(t @ w, -1).t() @ t, x, weight)


@pytest.mark.spec("G10")
def test_empty_tensors_cost_nothing_and_keep_their_shape(compiled: Compile):
    def f(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        y = x @ w
        return y, y.sum(0), y.sum(), torch.cat([y, y]), y.t(), y.reshape(0, 1), F.relu(y) * 2

    check(compiled, f, torch.empty(0, 4), torch.randn(4, 1))


@pytest.mark.spec("G10")
def test_training_on_an_empty_batch(compiled: Compile):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    compiled(net)(torch.empty(0, 4)).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


@pytest.mark.spec("G10")
def test_scalars(compiled: Compile):
    check(compiled, lambda a, b: (a * b, a + 1, (a > b), a.exp().sum()), torch.tensor(2.0), torch.tensor(3.0))


# ---------------------------------------------------------------------------------------------- types


@pytest.mark.spec("G1")
@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool], ids=lambda d: str(d)[6:]
)
def test_whole_numbers(compiled: Compile, dtype: torch.dtype):
    x = (torch.arange(24).reshape(4, 6) % 3).to(dtype)

    def f(x: Tensor) -> tuple[Tensor, ...]:
        return x.sum(0), x * x, x == 1, torch.where(x > 0, x, torch.ones_like(x)), x.to(torch.float32) / 2, x.argmax(1)

    check(compiled, f if dtype != torch.bool else lambda x: (x & ~x.roll(1), x.sum(), x.any(0), x.float()), x)


@pytest.mark.spec("G1")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=lambda d: str(d)[6:])
def test_floating_types(compiled: Compile, dtype: torch.dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4)).to(dtype)
    x = torch.randn(5, 8).to(dtype)
    ref = net(x).float().square().sum()
    ref.backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad(set_to_none=True)
    compiled(net)(x).float().square().sum().backward()
    for p, e in zip(net.parameters(), expected, strict=True):
        loose = 1e-5 if dtype == torch.float64 else 4e-2
        assert p.grad.dtype == dtype
        torch.testing.assert_close(p.grad, e, rtol=loose, atol=loose * e.abs().max().item())


@pytest.mark.spec("G1")
def test_complex_numbers(compiled: Compile):
    z = torch.randn(4, 6, dtype=torch.complex64)
    check(compiled, lambda z: (z * z.conj(), z.abs(), torch.view_as_real(z * 2), z.real + 1, z.sum()), z)


@pytest.mark.spec("G1")
def test_fourier_transform_trains(compiled: Compile):
    def f(x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * 0.5, n=x.shape[-1]).square().sum()

    a, b = (torch.linspace(0, 1, 32).reshape(2, 16).requires_grad_() for _ in range(2))
    compiled(f)(a).backward()
    f(b).backward()
    agree(a.grad, b.grad)


@pytest.mark.spec("G1")
def test_autocast_inside_and_outside(compiled: Compile):
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(4, 8)
    f = compiled(net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, ref = f(x), net(x)
    assert got.dtype == ref.dtype == torch.bfloat16
    torch.testing.assert_close(got, ref, rtol=2e-2, atol=2e-2)
    agree(f(x), net(x))


# ---------------------------------------------------------------------------------------------- aliases and mutation


def _same_storage(*tensors: Tensor) -> bool:
    return len({t.untyped_storage().data_ptr() for t in tensors}) == 1


@pytest.mark.spec("G3", "G4")
def test_results_that_alias_inputs(compiled: Compile):
    def f(x: Tensor) -> tuple[Tensor, ...]:
        return x, x.t(), x[1:], x.view(-1), x + 1

    x = torch.randn(3, 4)
    got = compiled(f)(x)
    assert got[0] is x or _same_storage(got[0], x)
    assert _same_storage(*got[:4]) and not _same_storage(got[4], x)
    x.fill_(5.0)
    assert all((t == 5).all() for t in got[:4])


@pytest.mark.spec("G3", "G4")
def test_results_that_alias_one_another(compiled: Compile):
    def f(x: Tensor) -> tuple[Tensor, ...]:
        y = x * 2
        return y, y.t(), y[::2], y.detach(), x * 3

    got = check(compiled, f, torch.randn(4, 4))
    assert _same_storage(*got[:4])
    got[0].zero_()
    assert not got[1].any()


@pytest.mark.spec("G3", "G4")
def test_the_same_tensor_twice(compiled: Compile):
    def f(x: Tensor) -> dict[str, Any]:
        y = x.exp()
        return {"one": y, "two": [y, (y,)], "input": [x, x]}

    check(compiled, f, torch.randn(5))
    x = torch.randn(5, requires_grad=True)
    out = compiled(f)(x)
    (out["one"].sum() + out["two"][0].sum()).backward()
    torch.testing.assert_close(x.grad, 2 * x.detach().exp())


@pytest.mark.spec("G3", "G4")
def test_only_a_view_is_returned(compiled: Compile):
    def f(x: Tensor) -> Tensor:
        y = torch.sin(x)
        z = y.view(2, -1)[1]
        w = torch.cos(x) * torch.exp(x)
        return z + 0 * w.sum() if x.dim() > 2 else z

    check(compiled, f, torch.randn(4, 4))


@pytest.mark.spec("G3", "G4")
def test_parts_of_splits_and_cats(compiled: Compile):
    def f(x: Tensor) -> tuple[Tensor, ...]:
        a, b, c = (x * 2).chunk(3, -1)
        d = torch.cat([a, c, b], 0)
        e = torch.stack([a, b])
        return a, d[1:], e.unbind(0)[1], d.t() @ d

    check(compiled, f, torch.randn(4, 6))


@pytest.mark.spec("G4")
def test_results_are_never_overwritten_by_later_calls(compiled: Compile):
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x @ x.t())
        return y, (y @ x).relu().sum(0)

    g = compiled(f)
    xs = [torch.randn(16, 8) for _ in range(10)]
    held = [g(x) for x in xs]
    for x, got in zip(xs, held, strict=True):
        agree(got, f(x))


@pytest.mark.spec("G4")
def test_a_result_written_by_the_caller_stays_its_own(compiled: Compile):
    g = compiled(lambda x: (x * 2 + 1, x.sum()))
    x = torch.randn(64)
    for _ in range(4):
        y, total = g(x)
        torch.testing.assert_close(y, x * 2 + 1)
        torch.testing.assert_close(total, x.sum())
        y.fill_(float("nan"))
        total.fill_(float("nan"))


@pytest.mark.spec("G5")
def test_inputs_and_parameters_are_left_alone(compiled: Compile):
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh())
    f = compiled(net)
    x = torch.randn(8, 32, requires_grad=True)
    before = [t.detach().clone() for t in (x, *net.parameters())]
    for _ in range(3):
        f(x).square().sum().backward()
    with torch.no_grad():
        f(x)
    assert all(torch.equal(a, b.detach()) for a, b in zip(before, (x, *net.parameters()), strict=True))


@pytest.mark.spec("G5", "IR-18")
def test_inputs_that_the_program_writes(compiled: Compile):
    def f(x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        y[1:].mul_(x[1:])
        z = x * y
        y.copy_(z.flip(0))
        x.t_()
        x.t_()
        return z

    check(compiled, f, torch.randn(4, 3), torch.randn(4, 3), mutates=True)


@pytest.mark.spec("G5", "IR-18")
def test_views_of_one_buffer_that_the_program_writes(compiled: Compile):
    def f(a: Tensor, b: Tensor) -> Tensor:
        a.mul_(2)
        return b.sum() + a.sum()

    for g in (compiled(f), f):
        base = torch.arange(12.0)
        out = g(base[:8].view(2, 4), base[4:])
        assert out.item() == sum(i * 2 if i < 8 else i for i in range(4, 12)) + 2 * sum(range(8))
        assert base[:8].tolist() == [2.0 * i for i in range(8)]


@pytest.mark.spec("G5", "IR-18")
def test_the_same_tensor_given_twice(compiled: Compile):
    def f(a: Tensor, b: Tensor) -> Tensor:
        a.add_(1)
        return a * b

    g = compiled(f)
    for _ in range(2):
        x, y = torch.ones(4), torch.ones(4)
        agree(g(x, x), f(y, y))
        agree(x, y)
    agree(g(torch.ones(4), torch.full((4,), 2.0)), torch.full((4,), 4.0))


@pytest.mark.spec("IR-18")
def test_a_mutated_buffer_and_its_training(compiled: Compile):
    class Average(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("count", torch.tensor(0))

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            self.mean.lerp_(y.detach().mean(0), 0.5)
            self.count.add_(1)
            return (y - self.mean) * self.count

    import copy

    net = Average()
    twin, f = copy.deepcopy(net), compiled(net)
    for _ in range(3):
        x = torch.randn(5, 4)
        f(x).square().sum().backward()
        twin(x).square().sum().backward()
    agree(list(net.buffers()), list(twin.buffers()))
    agree([p.grad for p in net.parameters()], [p.grad for p in twin.parameters()])


@pytest.mark.spec("G5")
def test_in_place_on_a_leaf_view_and_its_gradient(compiled: Compile):
    def f(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0] = 0
        y[1] += x[0]
        return (y * y).sum()

    a, b = (torch.arange(12.0).reshape(3, 4).requires_grad_() for _ in range(2))
    compiled(f)(a).backward()
    f(b).backward()
    agree(a.grad, b.grad)


# ---------------------------------------------------------------------------------------------- sizes that change


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
    import copy

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


@pytest.mark.spec("G1")
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
