"""Operations that write their first argument: inputs and values of the program's own, read before and after."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from values import Compile, check

pytestmark = pytest.mark.torch


def _scattered(x: Tensor, v: Tensor, i: Tensor) -> tuple[Tensor, ...]:
    before = x.exp()
    x.scatter_(0, i[None].expand(2, -1), 7.0)
    x.scatter_add_(1, i[:, None] % 3, v[:, None])
    x.scatter_reduce_(0, i[None], v[None].expand(1, -1), "amax")
    return before, x.sin()


def _put(x: Tensor, v: Tensor, i: Tensor) -> tuple[Tensor, ...]:
    before = x.exp()
    x[:, i] = 3.0
    x.index_put_((i, i), v, accumulate=True)
    x[i, None] += 1.0
    y = x.cos()
    y.index_put_((i,), v[0])
    return before, x.sin(), y, y.index_add_(0, i, x[i]) * 2


def _copied(x: Tensor, v: Tensor, i: Tensor) -> tuple[Tensor, ...]:
    before = x.exp()
    x.copy_(v[0])
    middle = x + 1
    x[1:].copy_(x[:-1].clone().flip(0))
    return before, middle, x.sin()


def _drawn(x: Tensor, v: Tensor, i: Tensor) -> tuple[Tensor, ...]:
    before, y = x.exp(), v * 2
    x.bernoulli_(1.0)
    after = x * 3
    y.bernoulli_(0.0)
    return before, after, y


@pytest.mark.spec("IR-53", "IR-18", "G5")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kernels", ["loops", "aten"])
@pytest.mark.parametrize("f", [_scattered, _put, _copied, _drawn], ids=lambda f: f.__name__[1:])
def test_what_writes_its_first_argument(compiled: Compile, ours: bool, kernels: str, f) -> None:  # type: ignore[no-untyped-def]
    options = {"options": {"kernels": kernels, "verify": True}} if ours else {}
    check(compiled, f, torch.randn(4, 4), torch.randn(4), torch.tensor([2, 0, 3, 2]), mutates=True, **options)
