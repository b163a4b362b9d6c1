"""A small net that saves activations of several sizes, and comparing two copies of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Compile = Callable[..., Any]


class Net(nn.Module):
    """Saves activations of several sizes, and has holes in time for a planner to reuse."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(width, 3 * width), nn.Linear(3 * width, width), nn.Linear(width, 4)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.one(x))
        h = self.norm(self.two(h * torch.sigmoid(h)) + x)
        return torch.softmax(self.three(F.gelu(h)), -1)


def pair() -> tuple[Net, Net]:
    torch.manual_seed(1)
    net = Net()
    return net, copy.deepcopy(net)


def loss_of(out: Tensor) -> Tensor:
    return (out * torch.arange(out.numel(), dtype=out.dtype).reshape(out.shape)).sum()


def same(a: Tensor, b: Tensor) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def same_gradients(a: nn.Module, b: nn.Module) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and q.grad is not None:
            same(p.grad, q.grad)


def inputs(count: int, rows: int = 6) -> list[Tensor]:
    return [torch.randn(rows, 16) for _ in range(count)]
