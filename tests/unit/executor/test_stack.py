"""Loops that stack what they carry, as torch makes them of a ``while_loop`` that is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from lowtide.executor import frame  # noqa: E402
from lowtide.runtime.records import records  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def turned(x: Tensor, w: Tensor, count: Tensor) -> Tensor:
    """A loop that turns as often as ``count`` says, on a value whose strides are not those of a row."""

    def turn(i: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return i + 1, ((y @ w).tanh() * 2 + y).t().contiguous().t()

    _, y = torch._higher_order_ops.while_loop(
        lambda i, y: i < count, turn, (torch.zeros((), dtype=torch.int64), (x + 1).t().contiguous().t())
    )
    return (y * y).sum(1)


def unrolled(x: Tensor, w: Tensor, count: Tensor) -> Tensor:
    y = x + 1
    for _ in range(int(count)):
        y = (y @ w).tanh() * 2 + y
    return (y * y).sum(1)


def step(f: Any, x: Tensor, w: Tensor, turns: int) -> list[Tensor]:
    """The result, and the gradients of both operands."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = f(x, w, torch.tensor(turns))
    y.sum().backward()
    return [y.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad for t in (x, w))]


@pytest.mark.spec("IR-65", "RT-31", "G1")
def test_a_loop_is_trained_at_any_number_of_turns(monkeypatch: pytest.MonkeyPatch):
    copied: list[int] = []
    again = frame._with_rows
    monkeypatch.setattr(frame, "_with_rows", lambda t, count: (copied.append(count), again(t, count))[1])
    call = torch.compile(turned, backend="lowtide", fullgraph=True, options={"verify": True})
    torch.manual_seed(0)
    x, w = torch.randn(6, 8), torch.randn(8, 8) / 3
    for turns, moved in (
        (3, [2, 2, 4, 4, 3, 3]),
        (3, []),
        (5, [6, 6, 5, 5]),
        (5, []),
        (1, [1, 1]),
        (0, []),
        (1, []),
        (3, None),
    ):
        copied.clear()
        found = list(zip(step(call, x, w, turns), step(unrolled, x, w, turns), strict=True))
        for got, wanted in found if turns else found[:1]:  # torch's own gradient of no turn is that of one
            torch.testing.assert_close(got, wanted)
        assert moved is None or copied == moved, "where there are as many rows as before, they are made in their place"
    (record,) = records()
    assert record.fallback is None and len(record.at_run_time) == 2
    forward, backward = (tell() for tell in record.at_run_time)
    assert forward.runs == backward.runs == 8 and forward.reason is backward.reason is None
    assert forward.counts.managed > 0 and forward.leaks == forward.copies == 0
