"""Fusion, in-place and reuse on and off in every combination: equal to eager, and equal bit for bit among those that run
the same kernels."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lowtide.runtime.records import records

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


def iteration(net: nn.Module, x: Tensor, options: dict[str, object] | None) -> list[Tensor]:
    """Loss, gradients and statistics of one iteration; then what the net gives in inference."""
    net = copy.deepcopy(net)
    torch.compiler.reset()
    f = net if options is None else torch.compile(net, backend="lowtide", options=options)
    loss = f(x).square().sum()
    loss.backward()
    out = [loss.detach(), *(p.grad for p in net.parameters() if p.grad is not None), *net.buffers()]
    net.eval()
    with torch.no_grad():
        return [*out, f(x)]


def kernels() -> frozenset[str]:
    """The generated sources that the graphs of now run, by content."""
    return frozenset(s.text for r in records() for p in r.planned for s in p.program.kernels)


@pytest.mark.spec("G1")
def test_every_combination_of_switches() -> None:
    torch.manual_seed(3)
    net, x = Net(), torch.randn(40, 24)
    want = iteration(net, x, None)
    noise = 1e-5 * max(float(t.abs().max()) for t in want)  # some gradients are zero but for rounding
    seen: dict[frozenset[str], list[Tensor]] = {}
    for fuse, inplace, slabs in itertools.product((True, False), (True, False), ("auto", "none")):
        for reorder in (True, False) if fuse else (True,):
            options: dict[str, object] = {
                "kernels": "loops", "fuse": fuse, "inplace": inplace, "slabs": slabs, "reorder": reorder, "verify": True,
            }  # fmt: skip
            got = iteration(net, x, options)
            assert all(r.fallback is None for r in records()), options
            for a, b in zip(got, want, strict=True):
                torch.testing.assert_close(a, b, rtol=2e-4, atol=noise)
            first = seen.setdefault(kernels(), got)
            assert all(torch.equal(a, b) for a, b in zip(got, first, strict=True)), options
    assert len(seen) >= 2  # fused and not
