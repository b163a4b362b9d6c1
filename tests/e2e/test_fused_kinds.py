"""Each kind of fusion by an example: how many kernels there are, and that the numbers are eager's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from lowtide import backend
from lowtide.runtime.records import records
from lowtide.schedule.cost import Machine

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def usual_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pays is decided by the machine's rates, and kernels are counted here: so they are the same everywhere."""
    monkeypatch.setattr(backend, "machine", Machine)


Function = Callable[..., Any]


def heads(x: torch.Tensor) -> Any:
    h = functional.gelu(x)
    return h, h.view(64, 6, 8).sum(-1)


def middle(x: torch.Tensor) -> Any:
    h = x.view(8, 8, 48).exp()
    return h, h.sum(1)


def several(x: torch.Tensor) -> Any:
    h = x.exp()
    return h.sum(1), h * 2, h.amax(1), h.cos()


def turned(x: torch.Tensor) -> Any:
    h = x.exp()
    return h, h.t().contiguous() * 2


def first(x: torch.Tensor) -> Any:
    h = x.exp()
    return h, h.sum(0), (h * x).sum(0)


def rows_turned(x: torch.Tensor) -> Any:
    h = torch.softmax(x, -1)
    return h, h.t().contiguous()


def added_turned(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x[:48] + x[:48].t(), -1)


def greatest(x: torch.Tensor) -> Any:
    h = torch.softmax(x, -1)
    return h, h.amax(0), x.amin(0)


def rows(x: torch.Tensor) -> Any:
    h = functional.layer_norm(x.sin(), (48,))
    return h, torch.softmax(h, -1)


def rotated(x: torch.Tensor) -> torch.Tensor:
    return x * x.cos() + torch.cat((-x[:, 24:], x[:, :24]), 1) * x.sin()


INFERENCE: dict[str, Function] = {
    "one after another": lambda x: x.exp().sin() * x.cos(),
    "siblings that share what they read": lambda x: (x.exp(), x.sum(1)),
    "several results of one loop": lambda x: (x + 1, x * 2, x > 0),
    "one producer into several consumers": several,
    "through another order of loops": turned,
    "rows, and the same turned": rows_turned,
    "rows of a sum with what lies turned": added_turned,
    "rows, and the greatest and least of columns": greatest,
    "reduced over both axes, as many rows as columns": lambda x: (x[:48].sum(1), x[:48].sum(0), x[:48].amax(0)),
    "over ranges that are split": heads,
    "reduced over the last axis": lambda x: torch.softmax(x, -1) * x,
    "reduced over the first axis": first,
    "reduced over a middle axis": middle,
    "rows one after another": rows,
    "halves of rows, each in the place of the other": rotated,
}


@pytest.mark.spec("SC-10", "SC-24", "SC-25", "SC-27", "SC-51")
@pytest.mark.parametrize("name", INFERENCE)
def test_one_kernel(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 48)
    torch.compiler.reset()
    with torch.no_grad():
        got = torch.compile(INFERENCE[name], backend="lowtide", options={"kernels": "loops", "verify": True})(x)
        want = INFERENCE[name](x)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    (made,) = (p.schedule for r in records() for p in r.planned)
    assert [s.loop is not None for s in made.steps] == [True], [s.op.name for s in made.steps]


@pytest.mark.spec("SC-31", "SC-33")
def test_what_only_later_stages_of_a_row_read_has_no_memory() -> None:
    """The softmax reads the layer norm's result three times, and writes over what the layer norm was given."""
    x = torch.randn(64, 48)
    torch.compiler.reset()
    with torch.no_grad():
        got = torch.compile(lambda x: rows(x)[1], backend="lowtide", options={"kernels": "loops", "verify": True})(x)
    torch.testing.assert_close(got, rows(x)[1], rtol=1e-5, atol=1e-5)
    (made,) = (p for r in records() for p in r.planned)
    assert len(made.schedule.steps) == 1
    assert made.plan.promised_nbytes == 64 * 48 * 4


# What stands in front of a product, and the passes in which the gradients of all of it are computed.
TRAINING: dict[str, tuple[Function, int]] = {
    "layer norm of a sum": (lambda x, w, b: functional.layer_norm(x + x.sin(), (48,), w, b), 1),
    "softmax": (lambda x, w, b: torch.softmax(x * w + b, -1), 1),
    "bias and activation": (lambda x, w, b: functional.gelu(x + b) * w, 1),
    "root mean square": (lambda x, w, b: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * w + b, 1),
    "halves of rows, each in the place of the other": (lambda x, w, b: rotated(x * w) + b, 1),
}


@pytest.mark.spec("SC-25", "SC-52")
@pytest.mark.parametrize("name", TRAINING)
def test_gradients_of_rows_and_of_what_all_rows_share_share_a_pass(name: str) -> None:
    """The peak is in what comes behind, a product and its exponentials, so that it forbids nothing here."""
    torch.manual_seed(0)
    function, passes = TRAINING[name]
    given = [torch.randn(96, 48), torch.randn(48), torch.randn(48)]
    wide = torch.randn(48, 512) / 10

    def loss(*mine: torch.Tensor) -> torch.Tensor:
        return (function(*mine) @ wide).exp()

    def gradients(f: Function) -> list[torch.Tensor]:
        mine = [t.clone().requires_grad_() for t in given]
        f(*mine).sum().backward()
        return [t.grad for t in mine if t.grad is not None]

    torch.compiler.reset()
    got = gradients(torch.compile(loss, backend="lowtide", options={"kernels": "loops", "verify": True}))
    torch.testing.assert_close(got, gradients(loss), rtol=1e-4, atol=1e-4)
    backward = [s for r in records() for p in r.planned for s in p.schedule.steps if s.section]
    product = next(k for k, s in enumerate(backward) if s.loop is None)
    behind = [s.loop for s in backward[product + 1 :]]
    assert len(behind) == passes, [s.op.name for s in backward]
    assert behind[0] is not None and "fold" in {x.op for x in behind[0].body}
