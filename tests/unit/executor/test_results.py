"""Results that are given their bytes though there are several, or though data decides their size; and carried values."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from running import D, planned  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from lowtide.executor import spelling  # noqa: E402
from lowtide.torch_compat import memory_events  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]


# ------------------------------------------------------------------------------------------------ several results


@pytest.mark.spec("RT-01", "RT-02", "RT-04")
def test_operations_with_several_results_write_them_into_the_slab():
    def f(x: Tensor) -> tuple[Tensor, ...]:
        v, i = (x * 2).topk(3)
        s, j = x.sort(-1)
        k, m = x.kthvalue(2)
        best, c = (x + 1).max(-1)  # the first leaves, the second stays
        return (v + 1).sum() + s.sin().sum() + k.exp(), i * 2, j + m[:, None], best, (c + 1) * k

    call = planned(f, torch.randn(6, 5), verify=True)
    kept = []
    for n in (6, 6, 9, 4, 2, 9, 6):
        x = torch.randn(n, 5)
        for got, want in zip(call(x), f(x), strict=True):
            assert torch.equal(got, want) and got.stride() == want.stride()
            kept.append((got, want))
    assert all(torch.equal(a, b) for a, b in kept)
    lives = call.executor.plan.built.lives
    assert {"topk_0", "topk_1", "sort_0", "sort_1", "kthvalue_0", "kthvalue_1", "max_1_1"} <= set(lives.order)
    assert "max_1_0" not in lives.buffer
    spans = {n: lives.lives[lives.buffer[n]] for n in ("topk_0", "topk_1", "sort_0", "sort_1")}
    assert spans["topk_0"].first == spans["topk_1"].first and spans["topk_0"].name != spans["topk_1"].name
    assert call.told().leaks == call.told().copies == 0


@pytest.mark.spec("RT-01", "RT-23")
def test_several_results_that_leave_lie_in_the_slab_of_results():
    call, x = planned(lambda x: (x * 2).sort(-1), torch.randn(4, 5), manage_outputs=True), torch.randn(4, 5)
    for _ in range(3):
        got, want = call(x), (x * 2).sort(-1)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    assert call.is_output_managed(got[0]) and call.is_output_managed(got[1])


# ------------------------------------------------------------------------------------------------ picking


@pytest.mark.spec("RT-01", "G1")
def test_rows_are_picked_by_a_faster_operation_where_no_index_is_negative():
    def f(x: Tensor, i: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        order, (values, back) = x[:, 0].argsort(), torch.unique(t, return_inverse=True)
        flat = x.reshape(-1).topk(3).indices
        y = x + 1
        picked = y[order], values[back], y[flat // 4], y[:, flat % 4], y[i], y[i // 2], y[order - 1]
        return tuple(p.float().sin() for p in picked)

    x, i, t = torch.randn(6, 4), torch.tensor([-1, 2, 0]), torch.randint(0, 3, (6,))
    call = planned(f, x, i, t, shapes=(({0: D}, None, {0: D}),), verify=True)
    for n in (6, 6, 3, 9):
        x, t = torch.randn(n, 4), torch.randint(0, 3, (n,))
        for got, want in zip(call(x, i, t), f(x, i, t), strict=True):
            assert torch.equal(got, want)
    source = call.executor.plan.built.loaded.code.source
    assert source.count("torch_index_select(") == 4 and source.count("index_Tensor_out(") == 3


# ------------------------------------------------------------------------------------------------ sizes that data decides


def chosen(x: Tensor) -> tuple[Tensor, ...]:
    keep = x[:, 0] > 0
    where = torch.nonzero(keep).squeeze(-1)
    rows, flat = (x * 2)[keep], torch.masked_select(x, x > 0.5)
    inner = (x + 1)[x > 1]
    return (rows + 1).sin(), where * 2, (flat.exp() - flat).sum(), inner.cos() + 1, rows.sum(0) * 3


def filled(n: int, positive: int) -> Tensor:
    """``n`` rows of which the first ones are above 1."""
    x = -torch.rand(n, 3)
    x[:positive] = torch.rand(positive, 3) + 1.1
    return x


@pytest.mark.spec("RT-01", "RT-02", "RT-15")
def test_results_whose_size_data_decides_lie_in_the_slab_and_grow_by_an_escape():
    call = planned(chosen, torch.randn(6, 3), verify=True)
    grew = []
    for positive in (4, 4, 4, 30, 30, 30, 0, 2, 40, 40, 1):
        x, before = filled(40, positive), call.told().escapes
        for got, want in zip(call(x), chosen(x), strict=True):
            assert torch.equal(got, want) and got.stride() == want.stride()
        grew.append(call.told().escapes > before)
    assert grew == [False, False, False, True, False, False, False, False, True, False, False]
    lives = call.executor.plan.built.lives
    assert {"nonzero", "index", "masked_select", "index_1"} <= set(lives.order) and not lives.outside
    assert call.told().leaks == call.told().copies == 0


@pytest.mark.spec("RT-13", "RT-15")
def test_in_a_later_run_they_take_no_memory_of_their_own():
    def f(x: Tensor) -> Tensor:
        return (torch.masked_select(x, x > 0) * 2).sum()

    call, x = planned(f, torch.randn(64)), torch.rand(4096) + 0.1
    for _ in range(4):
        call(x)
    _, events = memory_events(lambda: call(x))
    assert x.nbytes not in events, events  # what the operation needs besides has another size
    assert call.executor.is_managed(call.executor.latest.rooms[0])


@pytest.mark.spec("RT-15", "G1")
@given(runs=st.lists(st.tuples(st.integers(2, 12), st.integers(0, 12)), min_size=3, max_size=12))
@settings(max_examples=15, deadline=None, phases=[Phase.generate])
def test_any_sequence_of_sizes_that_data_decides(runs: list[tuple[int, int]]):
    if not _kept:
        _kept.append(planned(chosen, torch.randn(6, 3), verify=True, recent_shapes=3, window=4))
    for n, positive in runs:
        x = filled(n, min(n, positive))
        for got, want in zip(_kept[0](x), chosen(x), strict=True):
            assert torch.equal(got, want)


_kept: list[Any] = []


@pytest.mark.spec("RT-21", "RT-24")
def test_whoever_stands_in_a_room_keeps_it():
    def f(x: Tensor) -> Tensor:
        return (torch.masked_select(x, x > 0) * 2).sum()

    call, held = planned(f, torch.randn(64)), []

    class Holding(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if str(func).startswith("aten.mul"):
                held.append(args[0].view(-1))
            return func(*args, **(kwargs or {}))

    x = torch.arange(100.0) - 50
    for _ in range(5):
        call(x)
    with Holding():
        call(x)
    assert call.told().leaks == 1
    for k in range(5):
        assert call(x + k) == f(x + k)
    assert torch.equal(held[0], x[x > 0])


@pytest.mark.spec("RT-01", "RT-02")
def test_what_cannot_be_given_a_room_says_why():
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.unique(x) + 1, torch.nonzero(x)

    call, x = planned(f, torch.arange(6) % 3), torch.arange(6) % 3
    for _ in range(3):
        assert torch.equal(call(x)[0], f(x)[0]) and torch.equal(call(x)[1], f(x)[1])
    unique, leaves = call.told().outside
    assert "_unique2" in unique and "no form" in unique and "nonzero" in leaves and "leaves the program" in leaves


@pytest.mark.spec("RT-01")
@pytest.mark.parametrize("target", ["aten.nonzero.default", "aten.masked_select.default", "aten.index.Tensor"])
def test_a_form_that_writes_beside_its_room_is_found_out(target: str):
    assert spelling._tried_inside(target)
    plain = spelling.overload(target)
    args = {"aten.index.Tensor": (torch.ones(4), [torch.ones(4) > 0])}.get(target, (torch.ones(4),))
    args = (torch.ones(4), torch.ones(4) > 0) if target == "aten.masked_select.default" else args

    def elsewhere(*args: Any, out: Tensor) -> None:
        out.set_(plain(*args))

    def beyond(*args: Any, out: Tensor) -> None:
        torch.as_strided(out, (1,), (1,)).fill_(1) if out.untyped_storage().nbytes() else None
        elsewhere(*args, out=out)

    assert not spelling._keeps(elsewhere, plain, args) and not spelling._keeps(beyond, plain, args)
