"""Wholes made of parts: what goes into a concatenation, a scatter or a gradient of a slice is only looked at in its part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

import lowtide

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("fresh_compiler")]

W, Z = torch.arange(32.0 * 64).view(32, 64), torch.full((32, 64), -1.0)
ROWS = torch.arange(1, 33)
WIDE, HALF, ONE = torch.tensor([70000]), torch.zeros(1, dtype=torch.float16), torch.zeros(1)

PROGRAMS: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "looked up by counting": (lambda w, z: torch.cat([functional.embedding(torch.arange(32), w), z], 0), (W, Z)),
    "looked up by counting, side by side": (
        lambda w, z: torch.cat([functional.embedding(torch.arange(32), w), z], 1),
        (W, Z),
    ),
    "looked up, -1 where nothing is read": (
        lambda i, w, z: torch.cat([functional.embedding(i - 1, w), z], 0),
        (ROWS, W, Z),
    ),
    "looked up in nothing, nowhere": (
        lambda i, w, z: torch.cat([functional.embedding(i, w), z], 0),
        (ROWS[:0], W[:0], Z),
    ),
    "five parts within two": (
        lambda w, z: torch.cat([torch.cat([w, z, w + 1, z * 2, w]), z]),
        (W, Z),
    ),
    "a narrower type within": (lambda i, h, x: torch.cat([torch.cat([i, h]), x]), (WIDE, HALF, ONE)),
    "other types scattered": (
        lambda w, i: (torch.slice_scatter(w, i.expand(4, 64), 0, 2, 6), torch.select_scatter(w, i.expand(64), 0, 3)),
        (W, WIDE),
    ),
    "sums of no sign": (lambda w: 1 / (-(w[:, :4] * 0)).sum(1), (W,)),
}


@pytest.mark.spec("IR-51", "IR-31")
@pytest.mark.parametrize("name", PROGRAMS)
def test_as_eager(name: str) -> None:
    f, given = PROGRAMS[name]
    with torch.no_grad():
        found = torch.compile(f, backend="lowtide", options={"verify": True})(*given)
        wanted = f(*given)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_what_is_read_is_still_checked() -> None:
    f = torch.compile(lambda i, w, z: torch.cat([functional.embedding(i, w), z], 0), backend="lowtide")
    with torch.no_grad(), pytest.raises(IndexError):
        f(ROWS, W, Z)


class Experts(torch.nn.Module):
    """Several linear layers side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.each = torch.nn.ModuleList(torch.nn.Linear(96, 64) for _ in range(4))
        self.out = torch.nn.Linear(256, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([f(x) for f in self.each], -1))


@pytest.mark.spec("IR-51")
def test_products_are_written_into_their_slices():
    """So the peak is the whole alone; copied, it was the whole and all parts."""
    x, model = torch.randn(8, 512, 96), Experts()
    with torch.no_grad():
        f = torch.compile(model, backend="lowtide", options={"verify": True})
        torch.testing.assert_close(f(x), model(x), rtol=0, atol=0)
        found = lowtide.memory_analysis(lambda: f(x))
    (graph,) = found.graphs
    assert graph.fallback is None and not graph.reasons
    whole, result = 8 * 512 * 256 * 4, 8 * 512 * 8 * 4
    assert found.promised_peak_bytes == found.measured_peak_bytes == whole + result


@pytest.mark.spec("IR-51")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_gradients_of_slices_that_products_filled(dtype: torch.dtype):
    """Heads of attention by hand, in training."""
    torch.manual_seed(0)
    x = torch.randn(2, 16, 12, dtype=dtype)
    weights = [torch.randn(12, 4, dtype=dtype, requires_grad=True) for _ in range(9)]

    def heads(x: torch.Tensor, *w: torch.Tensor) -> torch.Tensor:
        made = [((x @ q) @ (x @ k).mT).softmax(-1) @ (x @ v) for q, k, v in zip(w[:3], w[3:6], w[6:], strict=True)]
        return torch.cat(made, -1).square().mean()

    wanted = torch.autograd.grad(heads(x, *weights), weights)
    f = torch.compile(heads, backend="lowtide", options={"verify": True})
    found = torch.autograd.grad(f(x, *weights), weights)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
