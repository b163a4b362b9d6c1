"""Numbers that are read off tensors: sizes and bounds that follow from them, and checks at run time."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from running import D, planned  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]


@pytest.mark.spec("IR-59")
def test_an_element_that_is_read_is_a_size_and_a_factor():
    def f(x: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        n, scale = m.sum().item(), x.amax().item()
        y = torch.arange(n) * 2 + n
        return y, (x * scale).exp(), torch.zeros(n, 3) + scale, y.sum() + n * 4

    draw = torch.Generator().manual_seed(0)
    call = planned(f, torch.randn(6, generator=draw), torch.ones(5, dtype=torch.int64), shapes=((None, None),))
    for count in (5, 2, 0, 4, 2):
        x, m = torch.randn(6, generator=draw), (torch.arange(5) < count).long()
        for got, want in zip(call(x, m), f(x, m), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.spec("IR-60")
def test_slices_whose_bounds_are_data():
    """Below, negative, inside and beyond, with a step; compiled once."""

    def f(x: Tensor, i: Tensor) -> tuple[Tensor, ...]:
        n = i.item()
        return x[:n] * 2, x[n:].exp(), x[n::2] + 1

    call = planned(f, torch.randn(7), torch.tensor(3), shapes=(({0: D}, None),))
    x = torch.randn(7)
    for n in (3, 0, 7, 12, -2, -7, -30, 3):
        for got, want in zip(call(x, torch.tensor(n)), f(x, torch.tensor(n)), strict=True):
            assert got.shape == want.shape, (n, got.shape, want.shape)
            torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.spec("IR-61")
def test_a_check_that_nothing_depends_on_is_made_with_its_message():
    def f(x: Tensor, i: Tensor) -> Tensor:
        n = i.item()
        torch._check(n <= 4)
        torch.ops.aten._assert_async.msg(x.sum() > 0, "the sum is not above zero")
        return x * 2 + 1

    call = planned(f, torch.ones(3), torch.tensor(2))
    x = torch.ones(3)
    for _ in range(3):  # noted first, planned then
        assert torch.equal(call(x, torch.tensor(4)), x * 2 + 1)
        with pytest.raises(RuntimeError, match=r"<= 4"):
            call(x, torch.tensor(5))
        with pytest.raises(RuntimeError, match="the sum is not above zero"):
            call(-x, torch.tensor(1))


@pytest.mark.spec("IR-61")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("kernels", ["loops", "aten"])
def test_a_check_in_a_program_that_is_planned_ahead(kernels: str):
    def f(x: Tensor) -> Tensor:
        torch._assert_async(x.sum() > 0, "the sum is not above zero")
        return x * 2 + 1

    g = torch.compile(f, backend="lowtide", options={"kernels": kernels, "verify": True})
    x = torch.ones(3)
    for _ in range(2):
        assert torch.equal(g(x), x * 2 + 1)
        with pytest.raises(RuntimeError, match="the sum is not above zero"):
            g(-x)
