"""Pinned memory that a program asks for: as in eager, by the framework's own allocator, under a head of its own."""

from __future__ import annotations

import ctypes

import pytest

torch = pytest.importorskip("torch")

from checks import compiled, planned  # noqa: E402

import lowtide  # noqa: E402
from lowtide.ir.graph import PINNED  # noqa: E402
from lowtide.plan.plan import FRESH  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.spec("IR-11")]
N = 64


def asks(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """In every way that there is, kept and not."""
    kept = torch.empty(N, N, pin_memory=True).copy_(x * 2)
    filled = x.new_empty(N, N, pin_memory=True).fill_(3.0)
    moved = (x + 1).pin_memory()
    zeros = torch.zeros(N, N, pin_memory=True)
    part = torch.empty(N, N, pin_memory=True)
    part[: N // 2].copy_(x[: N // 2])
    part[N // 2 :].fill_(1.0)
    seen = torch.empty(N * N, pin_memory=True).view(N, N)
    seen.copy_(x)
    again = torch.empty(N, N, pin_memory=True).copy_(x)
    return kept, filled, moved, (zeros + x).sum(), part, (kept + filled).cos(), seen, again, (again + 1).pin_memory()


@pytest.mark.parametrize("kernels", ["loops", "aten"])
@pytest.mark.parametrize("slabs", ["auto", "one"])
def test_what_is_asked_for_is_given(device: str, kernels: str, slabs: str) -> None:
    x = torch.randn(N, N)
    call = compiled(asks, kernels=kernels, slabs=slabs)
    for _ in range(2):
        for got, wanted in zip(call(x), asks(x), strict=True):
            assert got.is_pinned() == wanted.is_pinned()
            torch.testing.assert_close(got, wanted)
    found = planned()
    graph, plan = found.schedule.graph, found.plan
    pinned = {v.name for v in graph.values if v.layout.pinned}
    assert len(pinned) >= 5
    for p in plan.places:
        assert p.storage not in pinned or (p.slab is None and p.how == FRESH)
    assert {f.device for f in plan.devices} == {"cpu", PINNED}


def test_its_bytes_are_promised_by_themselves(device: str, library: ctypes.CDLL) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = torch.empty(N, N, pin_memory=True).copy_(x.sin())
        y = (first * 2).cos()
        second = (y + 1).pin_memory()
        return (second * first + x).relu(), second

    x, call = torch.randn(N, N), compiled(f)
    call(x)
    before = library.lowtide_test_pinned(False)
    library.lowtide_test_pinned(True)
    held: list[object] = []
    told = lowtide.memory_analysis(lambda: held.append(call(x)))
    assert library.lowtide_test_pinned(True) - before == planned().plan.on(PINNED).promised_nbytes == 2 * N * N * 4
    (host,) = (d for d in told.devices if d.device == "cpu")
    assert host.measured_peak_bytes == host.promised_peak_bytes, "the other memory's promise holds beside it"
    (other,) = (d for d in told.devices if d.device == PINNED)
    assert other.measured_peak_bytes is None and f"on {PINNED}: promised" in str(told)


def test_what_is_pinned_is_not_taken_for_what_is_not(device: str) -> None:
    """The same elements twice: only one of them is pinned, and the caller can tell."""

    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.sin()
        return y, y.pin_memory(), torch.cat([y.pin_memory(), y]), y.pin_memory().relu()

    x = torch.randn(N, N)
    for got, wanted in zip(compiled(f)(x), f(x), strict=True):
        assert got.is_pinned() == wanted.is_pinned()
        torch.testing.assert_close(got, wanted)


def test_what_comes_from_the_device_may_be_pinned(device: str) -> None:
    def f(d: torch.Tensor) -> tuple[torch.Tensor, ...]:
        here = torch.empty(N, N, pin_memory=True)
        here.copy_(d * 2)
        return here.sin(), here.to(device) + d

    d = torch.randn(N, N).to(device)
    for got, wanted in zip(compiled(f)(d), f(d), strict=True):
        torch.testing.assert_close(got.cpu(), wanted.cpu())
    assert any(v.layout.pinned for v in planned().schedule.graph.values)


def test_sizes_that_depend_on_data_have_it_too(device: str) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = x[x[:, 0] > 0]
        return (rows * 2).pin_memory(), torch.empty(N, N, pin_memory=True).copy_(x).relu()

    call = torch.compile(f, backend="lowtide", dynamic=True, options={"verify": True})
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for _ in range(3):
            x = torch.randn(N, N)
            for got, wanted in zip(call(x), f(x), strict=True):
                assert got.is_pinned() == wanted.is_pinned()
                torch.testing.assert_close(got, wanted)


def test_what_the_user_pins_again_was_pinned_before(device: str) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        t = torch.empty(N, N, pin_memory=True).copy_(x)
        u = torch.empty(N, N, pin_memory=True)
        u[1:].copy_(x[1:])
        u[:1].fill_(2.0)
        return t, t.pin_memory(), u, u.pin_memory()

    x = torch.randn(N, N)
    for got, wanted in zip(compiled(f)(x), f(x), strict=True):
        assert got.is_pinned() and wanted.is_pinned()
        torch.testing.assert_close(got, wanted)


def test_gradients_pass_what_is_pinned(device: str) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        t = torch.empty(N * N, pin_memory=True).view(N, N)
        t.copy_(x.detach())
        return t, (x * t).sin().sum()

    x = torch.randn(N, N, requires_grad=True)
    got, total = compiled(f)(x)
    assert got.is_pinned()
    (ours,) = torch.autograd.grad(total, x)
    torch.testing.assert_close(ours, torch.autograd.grad(f(x)[1], x)[0])


def test_parts_that_are_written_are_pinned_as_a_whole(device: str) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        part = torch.empty(N, N, pin_memory=True)
        part[: N // 2] = x[: N // 2]
        part[N // 2 :] = x[N // 2 :] + 1
        return (part,)

    x = torch.randn(N, N)
    call = compiled(f)
    (got,) = call(x)
    assert got.is_pinned()
    torch.testing.assert_close(got, f(x)[0])
    assert planned().plan.on(PINNED).promised_nbytes == N * N * 4, "the parts themselves lie anywhere"


@pytest.mark.parametrize("part", [False, True])
def test_an_input_that_is_pinned_already_is_not_copied(device: str, part: bool) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = (x[:2] if part else x).pin_memory()
        y.add_(1)
        return y * 2

    ours, eagers = (torch.zeros(N, N).pin_memory() for _ in range(2))
    sin = compiled(lambda x: x.sin().pin_memory())  # of the same layout as what is asked for then
    assert sin(ours).is_pinned()
    torch.testing.assert_close(compiled(f)(ours), f(eagers))
    torch.testing.assert_close(ours, eagers)


def test_the_host_is_the_first_of_what_is_told_however_much_is_pinned(device: str) -> None:
    x, call = torch.randn(8, N), compiled(lambda x: x.repeat(4, 1).pin_memory())
    call(x)
    found = lowtide.memory_analysis(lambda: call(x))
    assert [d.device for d in found.devices] == ["cpu", PINNED]
    assert found.measured_peak_bytes is not None


def test_branches_have_it_too(device: str) -> None:
    def long(x: torch.Tensor) -> torch.Tensor:
        return torch.empty(N, N, pin_memory=True).copy_(x * 2)

    def short(x: torch.Tensor) -> torch.Tensor:
        return torch.empty(N, N, pin_memory=True).fill_(3.0)

    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.cond(x.sum() > 0, long, short, (x,)),)

    call = compiled(f)
    for x in (torch.ones(N, N), -torch.ones(N, N)):
        (got,) = call(x)
        assert got.is_pinned()
        torch.testing.assert_close(got, f(x)[0])
