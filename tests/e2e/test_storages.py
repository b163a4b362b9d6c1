"""Storages that a program puts under another tensor, or whose bytes come and go: nothing else is given their bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lowtide.runtime.records import records

pytestmark = [pytest.mark.torch, pytest.mark.spec("IR-54"), pytest.mark.usefixtures("fresh_compiler")]
OPTIONS = {"verify": True, "slabs": "one"}


def _replaced(x: Tensor) -> Tensor:
    """What follows would run in the bytes of the new storage, or over it, if these were free."""
    x.data = (x.data * 2).sin()
    y = x + 1
    for _ in range(3):
        y = (y.exp() * 0.1 + y).tanh()
    return y


def _replaced_by_a_part(x: Tensor) -> Tensor:
    x.data = (torch.cat([x.data, x.data]) * 2).cos()[1:3]
    y = x * 3
    return (y @ y.t()).relu() @ y


@pytest.mark.parametrize("kernels", ["loops", "aten"])
@pytest.mark.parametrize("f", [_replaced, _replaced_by_a_part], ids=lambda f: f.__name__[1:])
def test_what_a_tensor_is_given_stays_its_own(f, kernels: str):
    step = torch.compile(f, backend="lowtide", options={**OPTIONS, "kernels": kernels})
    given = [torch.arange(12.0).reshape(3, 4) / 10 for _ in range(4)]
    with torch.no_grad():
        for ours, eagers in zip(given[::2], given[1::2], strict=True):
            torch.testing.assert_close(step(ours), f(eagers))
            assert ours.stride() == eagers.stride()
        step(torch.ones(3, 4))  # a later call has bytes of its own
    for ours, eagers in zip(given[::2], given[1::2], strict=True):
        torch.testing.assert_close(ours, eagers)
    (record,) = records()
    assert record.fallback is None
    assert "aten.set_.source_Tensor" in {s.op.target for s in record.planned[0].schedule.steps}


def test_so_where_the_plan_is_made_as_it_runs():
    """The number of what is picked depends on data. What was noted in the first calls is planned in the later ones."""

    def f(x: Tensor) -> Tensor:
        x.data = (x.data * 2).sin()
        y = x[x > 0].exp()
        for _ in range(3):
            x = (x.exp() * 0.1 + x).tanh()
        return x.sum() + y.sum()

    step = torch.compile(f, backend="lowtide", options={"verify": True})
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), torch.no_grad():
        for k in range(5):
            ours, eagers = (torch.arange(2.0, 66.0).reshape(8, 8) / (10 + k) for _ in range(2))
            torch.testing.assert_close(step(ours), f(eagers))
            torch.testing.assert_close(ours, eagers)
            assert ours.untyped_storage().nbytes() == ours.nbytes, "not all that was planned with it"
    (record,) = records()
    assert record.at_run_time and record.fallback is None


def test_bytes_that_come_and_go_are_left_to_eager(caplog: pytest.LogCaptureFixture):
    """As sharded training has its weights: bytes for the call alone, filled from elsewhere."""

    def f(weight: Tensor, full: Tensor) -> Tensor:
        weight.untyped_storage().resize_(full.nbytes)
        weight.copy_(full)
        y = weight * 2 + full
        weight.untyped_storage().resize_(0)
        return y

    weight, full = torch.ones(4), torch.arange(4.0)
    weight.untyped_storage().resize_(0)
    step = torch.compile(f, backend="lowtide", options=OPTIONS)
    with torch.no_grad():
        for _ in range(2):
            assert step(weight, full).tolist() == [0.0, 3.0, 6.0, 9.0]
            assert weight.untyped_storage().nbytes() == 0
    (record,) = records()
    assert str(record.fallback).startswith("resize_ of a storage (test_storages.py:")
    assert "is left to eager" in caplog.text


def test_no_plan_is_made_for_a_captured_storage_whose_bytes_change():
    from torch.fx.experimental.proxy_tensor import make_fx

    from lowtide.core.errors import Unsupported
    from lowtide.frontend.fx_import import import_graph

    def f(x: Tensor) -> Tensor:
        torch.ops.inductor.resize_storage_bytes_.default(x, 64)
        return x * 2

    gm = make_fx(f, tracing_mode="fake")(nn.Parameter(torch.ones(4), requires_grad=False))
    with pytest.raises(Unsupported, match="gives a storage other bytes than were planned"):
        import_graph("g", [("inference", gm)])
