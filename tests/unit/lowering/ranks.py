"""Cases of choosing by rank, of the bits of numbers, and of divisors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from samples import BF16, F32, F64, INTS, U8, Call, t

NAN, INF = float("nan"), float("inf")


def unlike(*size: int, dtype: torch.dtype = F32) -> torch.Tensor:
    """Numbers no two of which are equal, in no order, both infinities and NaN among them."""
    many = torch.Size(size).numel()
    x = (torch.randperm(many, generator=torch.Generator().manual_seed(many)) - many // 3).to(dtype) / 7
    x[torch.arange(many) % 31 == 5] = NAN
    x[:2] = torch.tensor([INF, -INF])[: len(x[:2])]
    return x.view(size)


def calls() -> Iterator[Call]:
    """Overload, arguments, keyword arguments."""
    for d in (F32, BF16, U8):
        yield "aten.median.default", (t(260, 257, dtype=d, low=-90, high=90),), {}
    for x in (unlike(70001), torch.full((1 << 16,), NAN)):
        yield "aten.median.default", (x,), {}
        yield "aten.nanmedian.default", (x,), {}
    for d in INTS:
        a, b = t(60, dtype=d, low=-90, high=90), t(60, dtype=d, low=-12, high=12)
        for name in ("gcd", "lcm"):
            yield f"aten.{name}.default", (a, b), {}
    yield "aten.gcd.default", (torch.tensor([0, 7, 0, 2**62, -(2**62)]), torch.tensor([0, 0, -9, 2**40, 3 * 2**50])), {}
    ends = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38, 5e-324, INF, -INF, NAN, 2.0]
    for d in (F32, F64):
        x = torch.tensor(ends, dtype=d)
        yield "aten.nextafter.default", (x[:, None], x), {}
