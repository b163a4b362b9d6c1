"""Wholes made of parts: what goes into a concatenation, a scatter or a gradient of a slice is only looked at in its part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

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
