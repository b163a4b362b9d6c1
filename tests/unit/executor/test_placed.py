"""Allocations noted and placed by our allocator: any program, checked by address."""

from __future__ import annotations

import threading
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import lowtide  # noqa: E402
from lowtide.core.errors import Unsupported  # noqa: E402
from lowtide.core.reason import Reason  # noqa: E402
from lowtide.executor import trace  # noqa: E402
from lowtide.executor.hook import Region, unavailable  # noqa: E402
from lowtide.runtime.measure import measure  # noqa: E402

pytestmark = pytest.mark.torch
needs_hook = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2), nn.Conv2d(32, 8, 1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.a(x)).relu()
        z = F.max_pool2d(self.b(y).relu(), 2)
        return self.c(z).flatten(1).softmax(-1)


@needs_hook
@pytest.mark.spec("RT-17", "RT-33")
def test_convolutions_are_placed_and_the_peak_is_the_live_bound():
    net, x = Convolutions().eval(), torch.randn(2, 3, 64, 64)
    call = lowtide.place_allocations(net)
    with torch.no_grad():
        want = net(x)
        held = [call(x) for _ in range(4)]
        found = measure(lambda: call(x))
        told = call.trace(x)
    assert all(torch.equal(r, want) for r in held)
    assert told is not None and call.placed > 0 and call.escaped == 0
    assert found.peak_nbytes <= 1.02 * told.lower_bound
    assert found.allocations <= 3  # the slab and the result


@needs_hook
def test_results_and_what_others_keep_are_never_overwritten():
    kept: list[Tensor] = []

    def f(x: Tensor, keep: bool) -> Tensor:
        y = x * 2
        if keep:
            kept.append(y)
        z = (y + 1).sin()
        return (z * z).sum(0) + z

    call = lowtide.place_allocations(lambda x: f(x, keeping[0]))
    keeping = [False]
    results = []
    for k in range(8):
        keeping[0] = k % 3 == 2
        x = torch.full((100,), float(k))
        results.append((call(x), f(x, False)))
    assert all(torch.equal(a, b) for a, b in results)
    assert [t[0].item() for t in kept] == [4.0, 10.0]


@needs_hook
def test_a_program_that_allocates_otherwise_gets_ordinary_memory_and_is_noted_anew():
    more = [0]

    def f(x: Tensor) -> Tensor:
        for _ in range(more[0]):
            x = (torch.cat([x, x])[: x.shape[0]] * 1.5).sin()
        return (x * 2 + 1).tanh() @ x

    call = lowtide.place_allocations(f)
    x = torch.randn(50, 50)
    for n in (0, 0, 3, 3, 3, 3, 0, 2, 0):
        more[0] = n
        assert torch.equal(call(x), f(x))
    assert call.escaped > 0 and call.placed > 0


@needs_hook
def test_sizes_that_vary_have_a_plan_each():
    net = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    call = lowtide.place_allocations(net, recent_shapes=2)
    with torch.no_grad():
        for n in (3, 9, 3, 9, 100, 3, 100, 9):
            x = torch.randn(n, 8)
            assert torch.equal(call(x), net(x))
    assert call.escaped == 0


@needs_hook
def test_training_in_a_region():
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))

    def step(x: Tensor) -> Tensor:
        net.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss.detach()

    call, x = lowtide.place_allocations(step), torch.randn(16, 8)
    want = step(x)
    grads = [p.grad.clone() for p in net.parameters()]
    for _ in range(4):
        assert torch.equal(call(x), want)
        assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True))


@needs_hook
@pytest.mark.spec("RT-30")
def test_threads_have_regions_of_their_own():
    call = lowtide.place_allocations(lambda x: ((x @ x).relu() @ x).sum(0))
    faults: list[BaseException] = []

    def work(seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        for _ in range(20):
            x = torch.randn(20 + seed % 3, 20 + seed % 3, generator=draw)
            try:
                torch.testing.assert_close(call(x), ((x @ x).relu() @ x).sum(0))
            except AssertionError as e:
                faults.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not faults


@needs_hook
@pytest.mark.spec("RT-16")
def test_an_exception_leaves_the_region():
    fail = [False]

    def f(x: Tensor) -> Tensor:
        y = x * 2
        if fail[0]:
            raise ValueError("stop")
        return y + 1

    call, x = lowtide.place_allocations(f), torch.randn(100)
    call(x)
    for k in range(4):
        fail[0] = k % 2 == 0
        if fail[0]:
            with pytest.raises(ValueError, match="stop"):
                call(x)
        else:
            assert torch.equal(call(x), x * 2 + 1)
    region = Region()
    region.record(True)
    y = torch.randn(64)
    del y
    assert region.events() == []  # outside, nothing is noted


@needs_hook
def test_release_gives_slabs_back():
    call, x = lowtide.place_allocations(lambda x: (x * 2 + 1).sin()), torch.randn(1 << 16)
    for _ in range(3):
        call(x)
    held = call.held()
    assert held >= 1 << 18
    assert lowtide.release_retained() >= held and call.held() == 0
    assert torch.equal(call(x), (x * 2 + 1).sin())


@needs_hook
def test_a_trace_names_the_user_line_that_holds_the_peak():
    def f() -> Tensor:
        a = torch.ones(1000, 1000)
        b = a * 2  # the peak is here
        del a
        return b.sum()

    told = lowtide.trace_memory(f)
    lines = [line for line, _ in told.holders]
    assert told.peak_nbytes >= 8_000_000 and len(lines) >= 2
    assert all("test_placed.py:" in line for line in lines[:2])
    assert any("aten.mul" in line for line in lines) and any("ones" in line or "fill" in line for line in lines)
    assert told.lower_bound <= told.planned_nbytes <= told.caching_nbytes


def test_without_a_compiler_everything_runs_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trace, "unavailable", lambda: Reason("allocations", "no compiler"))
    call: Any = lowtide.place_allocations(lambda x: x * 2)
    for _ in range(3):
        assert torch.equal(call(torch.ones(3)), torch.full((3,), 2.0))
    assert str(call.reason) == "allocations: no compiler" and call.placed == 0
    with pytest.raises(Unsupported, match="no compiler"):
        lowtide.trace_memory(lambda: None)
