"""Fusion, in-place and reuse on and off in every combination: equal to eager, and equal bit for bit among those that run
the same kernels."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lowtide.core.options import Options
from switched import Switched

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


class Net(nn.Module):
    """A little of everything that fuses: rows, columns, softmax, statistics that change, a value that is read far away."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 24), nn.Linear(24, 24)
        self.norm, self.batch = nn.LayerNorm(24), nn.BatchNorm1d(24)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.gelu(self.norm(self.first(x))) + x
        weights = torch.softmax(h @ h.t(), -1)
        y = self.batch(weights @ self.second(h)) * torch.sigmoid(h)
        return torch.cat([y.tanh(), y - h.mean(0)], 1)


def iteration(net: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Loss, gradients and statistics of one iteration; then what the net gives in inference. Leaves its statistics as they
    were."""
    before = copy.deepcopy(net.state_dict())
    net.train().zero_grad(set_to_none=True)
    loss = call(x).square().sum()
    loss.backward()
    out = [
        loss.detach(),
        *(p.grad for p in net.parameters() if p.grad is not None),
        *(b.clone() for b in net.buffers()),
    ]
    net.eval()
    with torch.no_grad():
        out.append(call(x))
    net.load_state_dict(before)
    return out


@pytest.mark.spec("G1")
def test_every_combination_of_switches() -> None:
    torch.manual_seed(3)
    net, x = Net(), torch.randn(40, 24)
    want = iteration(net, net, x)
    noise = 1e-5 * max(float(t.abs().max()) for t in want)  # some gradients are zero but for rounding
    every = [
        Options(kernels="loops", fuse=fuse, inplace=inplace, slabs=slabs, reorder=reorder, verify=True)
        for fuse, inplace, slabs in itertools.product((True, False), (True, False), ("auto", "none"))
        for reorder in ((True, False) if fuse else (True,))
    ]
    switched = Switched(every)
    torch.compiler.reset()
    call = torch.compile(net, backend=switched, dynamic=False, fullgraph=True)
    seen: dict[tuple[str, ...], list[Tensor]] = {}
    for options in every:
        switched.options = options
        got = iteration(net, call, x)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-4, atol=noise)
        first = seen.setdefault(switched.kernels(), got)
        assert all(torch.equal(a, b) for a, b in zip(got, first, strict=True)), options
    assert len(switched.graphs) == 2 and len(seen) >= 2  # training and inference; fused and not
