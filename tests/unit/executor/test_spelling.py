"""Operations that are said more quickly than by a call, and that they mean the same."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from running import D, planned  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]


@pytest.mark.spec("RT-02", "RT-13", "G1", "IR-59")
def test_slices_of_everything_and_picking_by_tensors():
    def f(x: Tensor, m: Tensor, i: Tensor) -> tuple[Tensor, ...]:
        y = x[:, None] * 2 + x[:, 0:2, None].sum()
        picked = (y[m], y[i], x[m][:, 1:], x[i, i % 3], x[:, i % 3], torch.nonzero(m))
        count = m.sum().item()
        torch._check(count >= 0)
        torch._check(count <= 100)
        return (*(p * 1 for p in picked), x[:], torch.arange(count) * 2 + count)

    draw = torch.Generator().manual_seed(0)
    call = None
    for n in (5, 5, 9, 3, 2, 5):
        x, m = torch.randn(n, 3, generator=draw), torch.rand(n, generator=draw) > 0.4
        m[0] = True
        i = torch.randint(0, n, (4,), generator=draw)
        if call is None:
            D = torch.export.Dim.DYNAMIC
            call = planned(f, x, m, i, shapes=(({0: D}, {0: D}, None),), verify=True)
        for got, want in zip(call(x, m, i), f(x, m, i), strict=True):
            assert torch.equal(got, want) and got.stride() == want.stride()
    source = call.executor.plan.built.loaded.code.source
    assert "op_aten_nonzero(" not in source and "slice_5 = args_0" in source
    assert "torch_index_select(args_0, 0, torch_nonzero(args_1).view(-1))" in source and "= args_0[args_2, " in source


@pytest.mark.spec("RT-18")
def test_a_slice_of_everything_that_is_returned_is_a_view_of_its_own():
    call, x = planned(lambda x: (x[:], x.sin() * 2), torch.randn(4)), torch.randn(4)
    for _ in range(3):
        got, _ = call(x)
        assert got is not x and got.data_ptr() == x.data_ptr()


@pytest.mark.spec("RT-02", "RT-04", "G3", "IR-60")
@pytest.mark.parametrize("verify", [False, True])
def test_a_row_that_data_picks_is_a_view_whose_place_is_read_off_it(verify: bool):
    def f(x: Tensor, i: Tensor) -> tuple[Tensor, ...]:
        y = (x * 2).tanh()
        row = y[i.item()]
        part = row[1:]  # of a view whose place was not known before
        z = (y + 1).sin() * 0.5  # new bytes while the row is alive
        return part.exp() + 1, z.sum() + row.sum(), x[i.item()] * 3, (row * 2).square().sum()

    whole = torch.randn(9, 4)
    call = planned(f, whole[1:6], torch.tensor(2), shapes=(({0: D}, None),), verify=verify)
    for rows, i in ((5, 2), (5, 0), (5, -1), (5, 4), (7, 6), (3, -3), (7, 1), (5, 3)):
        x = whole[1 : 1 + rows]  # begins in the middle of its storage
        for got, want in zip(call(x, torch.tensor(i)), f(x, torch.tensor(i)), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)
    source = call.executor.plan.built.loaded.code.source
    assert "storage_offset()" in source
    with pytest.raises(IndexError):
        call(whole[:3], torch.tensor(5))
    assert call.told().leaks == call.told().copies == 0
