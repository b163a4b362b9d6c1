"""Results that are given their bytes though there are several, or though data decides their size; and carried values."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from running import D, planned  # noqa: E402
from torch import Tensor  # noqa: E402

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
