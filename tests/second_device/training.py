"""Training on two devices, in a process of its own: autograd counts the devices when it first runs, and starts a thread for
each, so that one that is made known later has none. ``test_training.py`` starts it."""

from __future__ import annotations

import pytest
import torch
from checks import as_promised, compiled, planned

pytestmark = pytest.mark.torch


def test_a_training_step(device: str) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.here, self.there = torch.nn.Linear(32, 64), torch.nn.Linear(64, 64).to(device)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.here(x)).to(device)
            return torch.tanh(self.there(torch.relu(self.there(h)))).cpu().square().mean()

    net, x = Net(), torch.randn(16, 32)
    net(x).backward()
    wanted = [p.grad.cpu() for p in net.parameters()]
    call = compiled(net)

    def step() -> None:
        net.zero_grad()
        call(x).backward()

    for _ in range(3):
        step()
        for p, grad in zip(net.parameters(), wanted, strict=True):
            assert p.grad is not None and p.grad.device == p.device
            torch.testing.assert_close(p.grad.cpu(), grad)
    net.zero_grad()
    del grad, p
    one = torch.ones(())  # which autograd would make otherwise
    as_promised(lambda: call(x).backward(one))
    assert len(planned().schedule.graph.sections) == 2
