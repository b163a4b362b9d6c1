"""What the tests of running programs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lowtide import plan_at_run_time

D = torch.export.Dim.DYNAMIC


class Net(nn.Module):
    def __init__(self, f: Callable[..., Any]) -> None:
        super().__init__()
        self.f = f

    def forward(self, *args: Tensor) -> Any:
        return self.f(*args)


def planned(f: Callable[..., Any], *args: Tensor, shapes: Any = None, **policy: Any) -> Any:
    shapes = (tuple({0: D} if a.dim() else None for a in args),) if shapes is None else shapes
    with torch.no_grad():
        return plan_at_run_time(torch.export.export(Net(f), args, dynamic_shapes=tuple(shapes)), **policy)


def chain(x: Tensor) -> Tensor:
    y = (x * 2 + 1).tanh()
    z = (y * y).exp() - y
    return (z * 0.5).cos()
