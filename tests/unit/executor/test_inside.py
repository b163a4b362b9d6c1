"""Programs inside programs, calls side by side and inside each other, and many of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402

import lowtide  # noqa: E402
from conftest import suite  # noqa: E402
from lowtide import plan_at_run_time  # noqa: E402
from lowtide.core.errors import UserError  # noqa: E402
from lowtide.executor.frame import Frame  # noqa: E402
from lowtide.executor.storages import Slab  # noqa: E402
from lowtide.torch_compat import memory_events  # noqa: E402
from running import chain, planned  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]

# ------------------------------------------------------------------------------------------------ programs inside


@pytest.mark.spec("RT-28", "IR-65")
def test_a_loop_that_never_turns_returns_copies_of_what_came_in():
    def f(n: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        _, z = torch._higher_order_ops.while_loop(lambda i, a: i < n, lambda i, a: (i + 1, (a + 1).sin()), (n * 0, y))
        return z, (y * 3).cos() + z

    call = planned(f, torch.tensor(2), torch.randn(5), verify=True)
    held = []
    for n in (2, 0, 0, 1, 3, 0):
        x = torch.randn(5)
        want_z = x * 2
        for _ in range(n):
            want_z = (want_z + 1).sin()
        held.append((call(torch.tensor(n), x), (want_z, (x * 2 * 3).cos() + want_z)))
    for got, want in held:
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.spec("IR-62", "IR-64", "RT-31")
def test_the_larger_branch_counts_and_lies_in_the_surrounding_slab():
    def f(x: Tensor) -> Tensor:
        y = x * 2
        z = torch.cond(x.sum() > 0, lambda a: ((a * 3).sin() + a).exp() * 2, lambda a: (a - 1) * 2, (y,))
        return z + y

    call = planned(f, torch.randn(1024), verify=True)
    for sign in (1, -1, 1, -1, 1, -1):
        x = torch.rand(1024) * sign
        assert torch.equal(call(x), f(x))
    frame = call.executor.latest
    yes, no = frame.inner[0]
    assert yes.slab is frame.slab and no.slab is frame.slab
    assert yes.placement.nbytes > 0 and no.placement.nbytes > 0
    b = frame.built.slabs[0]["cpu"]
    assert frame.placement.capacity[b] == max(yes.placement.nbytes, no.placement.nbytes)
    own = sum(frame.placement.capacity) - frame.placement.capacity[b]
    assert frame.placement.nbytes <= own + frame.placement.capacity[b]


@pytest.mark.spec("IR-62", "RT-31")
def test_a_branch_whose_sizes_stay_follows_the_slab_that_moves():
    def f(x: Tensor, y: Tensor) -> Tensor:
        a, b = x * 2, y * 3
        z = torch.cond(y.sum() > 0, lambda t: ((t * 3).sin() + t).exp() * 2, lambda t: ((t - 1) * 2).cos() * 3, (b,))
        return (a + 1).sum() + z * a.mean()

    call = planned(f, torch.randn(10), torch.randn(16), shapes=(({0: torch.export.Dim.DYNAMIC}, None),), verify=True)
    for n, sign in ((1000, 1), (10, -1), (1000, -1), (10, 1), (1000, 1), (1000, -1), (10, 1), (500, -1), (1000, 1)):
        x, y = torch.randn(n), (torch.rand(16) + 0.1) * sign
        for _ in range(3):
            assert torch.equal(call(x, y), f(x, y))


@pytest.mark.spec("RT-31", "IR-62")
def test_a_block_s_own_slab_that_is_too_small_goes_before_another_is_made(monkeypatch: pytest.MonkeyPatch):
    """At sizes that come for the first time the surrounding slab has no room yet for a branch."""

    def f(x: Tensor) -> Tensor:
        y = x * 2
        return torch.cond(x.sum() > 0, lambda a: ((a * 3).sin() + a).exp() * 2, lambda a: (a - 1) * 2, (y,)) + y

    call = planned(f, torch.randn(16))
    for n in (16, 16, 1000):
        call(torch.rand(n))
    frame = call.executor.latest
    branch = frame.inner[0][0]
    assert branch.owns == {"cpu"}
    more, before = 2 * branch.slab.nbytes, StorageWeakRef(branch.slab.storage)

    def make(nbytes: int, device: str) -> Slab:
        assert before.expired()
        return Slab(nbytes, device)

    monkeypatch.setattr("lowtide.executor.frame.Slab", make)
    branch.placement = replace(branch.placement, parts={"cpu": replace(branch.placement, nbytes=more)})
    branch._inner_room(frame)
    assert branch.slab.nbytes == more and branch.owns == {"cpu"}


@pytest.mark.spec("IR-64", "RT-28")
def test_a_branch_that_returns_what_it_was_given():
    def f(x: Tensor) -> Tensor:
        y = x * 2
        z = torch.cond(x.sum() > 0, lambda a: a.clone(), lambda a: a + 1, (y,))
        return (z * 2).sin() + z

    call = planned(f, torch.randn(8), verify=True)
    for sign in (1, 1, -1, 1, -1):
        x = torch.rand(8) * sign
        assert torch.equal(call(x), f(x))


@pytest.mark.spec("IR-64", "RT-31", "G1")
def test_branches_whose_results_differ_in_size():
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        z = torch.cond(x.sum() > 0, lambda a: a[:3] + 1, lambda a: (a[:5] - 1).exp(), (y,))
        w = torch.cond(x[0] > 0, lambda a: a.sin(), lambda a: a * 3, (z,))  # in the order of the program
        return (w * 2 + z).tanh(), y.cos()

    call = planned(f, torch.randn(8), verify=True)
    for k, n in enumerate((8, 8, 9, 6, 8, 12, 7)):
        x = torch.rand(n) * (1 if k % 3 else -1)
        for got, want in zip(call(x), f(x), strict=True):
            assert torch.equal(got, want)


@pytest.mark.spec("IR-65", "RT-28", "G1")
def test_one_value_carried_twice_becomes_two():
    def f(n: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        turn = lambda i, a, b: (i + 1, (a + b).sin(), b * 2)  # noqa: E731
        _, a, b = torch._higher_order_ops.while_loop(lambda i, a, b: i < n, turn, (n * 0, y, y.clone()))
        return (a * b).cos() + y, b - a

    call = planned(f, torch.tensor(2), torch.randn(40), verify=True)
    for n in (2, 0, 1, 3, 0):
        x = torch.randn(40)
        y = x * 2
        a, b = y, y
        for _ in range(n):
            a, b = (a + b).sin(), b * 2
        for got, want in zip(call(torch.tensor(n), x), ((a * b).cos() + y, b - a), strict=True):
            assert torch.equal(got, want)


# ------------------------------------------------------------------------------------------------ side by side


@pytest.mark.spec("RT-30")
def test_a_call_inside_a_call_has_an_instance_of_its_own():
    inside: list[Any] = []

    @torch.library.custom_op("lowtide_rt::again", mutates_args=())
    def again(x: Tensor) -> Tensor:
        if len(inside) > 1 and x.shape[0] > 3:
            return inside[1](x[: x.shape[0] // 2]).sum() + x
        return x.clone()

    again.register_fake(lambda x: torch.empty_like(x))

    def f(x: Tensor) -> Tensor:
        y = x * 2
        return (torch.ops.lowtide_rt.again(y) + y).sin() * 2

    def want(x: Tensor) -> Tensor:
        y = x * 2
        deep = len(inside) > 1 and y.shape[0] > 3
        z = want(y[: y.shape[0] // 2]).sum() + y if deep else y
        return (z + y).sin() * 2

    call = planned(f, torch.randn(8))
    call(torch.randn(8))
    inside.extend([None, call])
    for n in (8, 8, 4, 9):
        x = torch.randn(n)
        assert torch.equal(call(x), want(x))
    assert call.told().instances >= 3


@pytest.mark.spec("RT-30")
def test_threads_that_swap_sizes_do_not_meet():
    call = planned(lambda x: ((x[x > 0] * 2 + 1).tanh() * 3).cumsum(0), torch.randn(40), recent_shapes=2)

    def work(seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        for k in range(40):
            x = torch.randn(3 + (seed * 7 + k) % 50, generator=draw)
            assert torch.equal(call(x), ((x[x > 0] * 2 + 1).tanh() * 3).cumsum(0))

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, k) for k in range(8)]:
            done.result()


@pytest.mark.spec("RT-16", "RT-26")
@pytest.mark.parametrize("name", ["detection", "nested", "ragged"])
def test_soak_live_bytes_are_flat(name: str):
    """Many runs at sizes that come again: after the first round nothing is added."""
    p, exported = suite()[name]
    call = plan_at_run_time(exported)
    torch.manual_seed(1)
    inputs = [p.draw(n) for n in (1, 5, 9, 3, 7)]

    def round_() -> None:
        for args in inputs:
            call(*args)

    for _ in range(4):
        round_()
    held = call.executor.held
    _, events = memory_events(lambda: [round_() for _ in range(60)] and None)
    assert sum(events) == 0
    assert call.executor.held == held and call.told().leaks == 0


@pytest.mark.slow
@pytest.mark.spec("RT-07", "RT-16", "RT-26")
def test_soak_of_twenty_thousand_runs():
    for name in ("detection", "ragged", "nested", "words"):
        p, exported = suite()[name]
        call = plan_at_run_time(exported, window=16, recent_shapes=8)
        torch.manual_seed(2)
        inputs = [p.draw(1 + n % 9) for n in range(50)]
        for args in inputs * 2:
            call(*args)
        lowtide.release_retained()

        def all_of_them(call: Any = call, inputs: Any = inputs) -> None:
            for k in range(5000):
                call(*inputs[k % 50])
            lowtide.release_retained()

        _, events = memory_events(all_of_them)
        assert sum(events) == 0, name
        assert call.told().leaks == 0


@pytest.mark.spec("RT-29")
def test_arguments_that_do_not_fit_are_refused():
    call = planned(chain, torch.randn(4, 4))
    call(torch.randn(4, 4))
    with pytest.raises(UserError, match="dimension 1"):
        call(torch.randn(4, 5))
    with pytest.raises(UserError, match="float64"):
        call(torch.randn(4, 4).double())
    call(torch.randn(4, 4))


@pytest.mark.spec("RT-15", "RT-31", "IR-65")
def test_sizes_that_grow_and_shrink_from_turn_to_turn(monkeypatch: pytest.MonkeyPatch):
    """In one run the same headers escape in one turn of a loop, and fit in the next: then they stand on the slab again."""
    plain, back = Frame.shape, [0]

    def shape(frame: Frame, segment: int, key: tuple[Any, ...]) -> None:
        earlier = bool(frame.escaped)
        plain(frame, segment, key)
        out = frame.shaper.escaped(segment)
        for i in frame.loaded.by_segment[segment]:
            assert frame.slab is None or frame.slab.has(frame.headers[i]) == (i not in out)
        back[0] += earlier and not out

    monkeypatch.setattr(Frame, "shape", shape)

    def turn(i: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        kept = a[a > i % 3 - 1]
        more = ((kept * 2 + 1).tanh() * kept).cumsum(0) - kept
        return i + 1, a * 0.9 + (more * 0.1).sum()

    def f(n: Tensor, x: Tensor) -> Tensor:
        y = x * 1.5
        return torch._higher_order_ops.while_loop(lambda i, a: i < n, turn, (n * 0, y))[1] + y

    def eager(n: int, x: Tensor) -> Tensor:
        i, a = torch.tensor(0), x * 1.5
        for _ in range(n):
            i, a = turn(i, a)
        return a + x * 1.5

    call = planned(f, torch.tensor(3), torch.randn(64), verify=True)
    torch.manual_seed(5)
    for n, scale in ((3, 0.01), (3, 0.01), (6, 3.0), (6, 3.0), (7, 1.0), (5, 0.1), (6, 5.0)):
        x = torch.randn(64) * scale - scale
        torch.testing.assert_close(call(torch.tensor(n), x), eager(n, x), rtol=0, atol=0)
    assert call.told().escapes > 0 and back[0] > 0
