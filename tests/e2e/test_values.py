"""Every kind of value that can go in or come out: layouts, types, aliases, mutations, sizes that change.

Inputs are compared bit by bit before and after each call (what the program itself does not write stays as it was), and
results of earlier calls are held while later ones run.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from values import Compile, _fresh, agree, check, work

import lowtide

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


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
    f(a).mean().backward()  # the sum's gradients are hundreds of times what they are compared within
    work(b).mean().backward()
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


class Mixed(nn.Module):
    """Narrow values through normalisations with wide parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(16, 64), nn.LayerNorm(64), nn.Linear(64, 16)
        self.groups = nn.GroupNorm(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.norm(self.up(x)).relu()
            return self.groups(self.down(y).transpose(1, 2)).float().square().mean()


@pytest.mark.spec("PP-30", "G11")
@pytest.mark.parametrize("kernels", ["aten", "loops"])
def test_training_under_autocast_measures_what_was_promised(compiled: Compile, ours: bool, kernels: str):
    net, x = Mixed(), torch.randn(4, 32, 16)
    f = compiled(lambda x: net(x), **({"options": {"kernels": kernels, "verify": True}} if ours else {}))
    found, wanted = [], []
    for call, grads in ((f, found), (net, wanted)):
        net.zero_grad()
        call(x).backward()
        grads += [p.grad.clone() for p in net.parameters()]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=3e-2, atol=3e-3)
    if ours:
        net.zero_grad(set_to_none=True)
        analysis = lowtide.memory_analysis(lambda: f(x).backward())
        seed = 4  # bytes of the one that backward() begins with; the caller makes it
        assert 0 <= analysis.measured_peak_bytes - analysis.promised_peak_bytes <= seed


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


@pytest.mark.spec("G5")
def test_constants_and_the_generator_are_left_as_eager_leaves_them(compiled: Compile):
    """Large values die beside the constant, whose bytes would fit them."""
    constant, x = torch.randn(8, 32), torch.randn(8, 32)
    before = constant.clone()

    def f(x: Tensor) -> Tensor:
        drawn = torch.rand(8, 32)
        h = (x @ torch.ones(32, 32)).sin() * constant
        return torch.softmax(h * drawn, -1) @ constant.t()

    g = compiled(f)
    for _ in range(3):
        found: list[tuple[Tensor, Tensor]] = []
        for call in (g, f):
            torch.manual_seed(4)
            found.append((call(x), torch.get_rng_state()))
        agree(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(constant, before)


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
