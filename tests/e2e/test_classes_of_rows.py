"""A classifier of few classes over many rows: the gradient of its bias is summed in the pass that makes its gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lowtide import backend
from lowtide.runtime.records import records
from lowtide.schedule.cost import Machine

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.mark.spec("SC-52", "IR-33", "SC-25")
def test_few_long_columns_are_summed_along_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "machine", Machine)  # its rates decide, and must be the same everywhere
    torch.manual_seed(0)
    x, w = torch.randn(4099, 32), (torch.randn(64, 32) / 6).requires_grad_()
    bias = torch.randn(64, requires_grad=True)
    target = torch.softmax(torch.randn(4099, 64), -1)

    def loss(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return -(target * functional.log_softmax(functional.linear(x, w) + bias, -1)).sum()

    torch.compiler.reset()
    got = torch.autograd.grad(
        torch.compile(loss, backend="lowtide", options={"verify": True})(x, w, bias, target), (w, bias)
    )
    exact = torch.autograd.grad(loss(*(t.double() for t in (x, w, bias, target))), (w, bias))
    torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-4)
    made = records()[-1].planned[0].schedule
    reducing = [
        s for s in made.steps if s.section == 1 and s.loop is not None and "fold" in {i.op for i in s.loop.body}
    ]
    assert len(reducing) == 1, [s.op.name for s in made.steps]
    assert not any("_part" in o for s in made.steps for o in s.op.outputs if o is not None)
    torch.compiler.reset()
