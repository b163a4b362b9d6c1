"""Tensors for the table of cases: values that a seed decides, with huge, tiny and special ones where asked for."""

from __future__ import annotations

import itertools
from typing import Any

import torch

Call = tuple[str, tuple[Any, ...], dict[str, Any]]
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
I64, I32, U8, BOOL = torch.int64, torch.int32, torch.uint8, torch.bool
FLOATS = (F32, F64, BF16, F16)
INTS = (I64, I32, torch.int16, torch.int8, U8)
_numbers = itertools.count()


def t(*size: int, dtype: torch.dtype = F32, edge: bool = False, low: float = -3, high: float = 3) -> torch.Tensor:
    """A tensor."""
    g = torch.Generator().manual_seed(next(_numbers))
    if dtype == BOOL:
        return torch.rand(size, generator=g) < 0.5
    if not dtype.is_floating_point:
        return torch.randint(max(int(low), 0) if dtype == U8 else int(low), int(high) + 1, size, generator=g).to(dtype)
    x = torch.rand(size, generator=g, dtype=torch.float64) * (high - low) + low
    if edge and x.numel() >= 8:
        special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e30, -1e30, 1e-30])
        x.view(-1)[:: max(1, x.numel() // 8)][:8] = special[: len(x.view(-1)[:: max(1, x.numel() // 8)][:8])].double()
    return x.to(dtype)
