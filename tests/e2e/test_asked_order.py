"""What a program asks of the order of its operations with ``torch.fx.traceback.annotate``, and what it gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch.fx.traceback import annotate

from lowtide.runtime.records import records

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

SAID: list[str] = []


@torch.library.custom_op("lowtide_tests::say", mutates_args=())
def say(x: torch.Tensor, word: str, rows: int) -> torch.Tensor:
    """Rows of ones, as many as asked for, and a word on the side that no schema tells of."""
    SAID.append(word)
    return x.new_ones(rows, x.shape[1])


@say.register_fake
def _(x: torch.Tensor, word: str, rows: int) -> torch.Tensor:
    return x.new_empty(rows, x.shape[1])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    SAID.clear()
    yield
    torch.compiler.reset()


def words(asks: bool) -> list[str]:
    """The order in which a compiled program speaks, whose least peak asks for the second word first."""

    def maybe(said: dict[str, str]) -> AbstractContextManager[object]:
        return annotate(said) if asks else nullcontext()

    @torch.compile(backend="lowtide", options={"verify": True})
    def f(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        large = x @ w
        with maybe({"stage": "first"}):
            a = say(x, "first", 4096)
        with maybe({"lowtide_after": "stage=first"}):
            b = say(large, "second", 1)
        return a, b

    with torch.no_grad():
        f(torch.randn(2048, 64), torch.randn(64, 512))
    found = list(SAID)
    torch.compiler.reset()
    SAID.clear()
    return found


@pytest.mark.spec("SC-05")
def test_operators_whose_effects_no_schema_tells_run_as_asked() -> None:
    assert words(asks=False) == ["second", "first"]
    assert words(asks=True) == ["first", "second"]


@pytest.mark.spec("SC-09", "SC-05")
def test_groups_stay_together_in_forward_and_backward() -> None:
    """A product that could run between two members runs elsewhere; where others were captured in between, there are two."""

    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with annotate({"lowtide_group": "pair"}):
            a = (x @ w).sin()
            b = (a @ w).exp()
        c = b.cos() @ w
        with annotate({"lowtide_group": "pair"}):
            d = (c @ w).tanh()
        return (d * b).sum()

    given = [torch.randn(64, 64, requires_grad=True), (torch.randn(64, 64) / 8).requires_grad_()]
    got = torch.autograd.grad(torch.compile(f, backend="lowtide", options={"verify": True})(*given), given)
    torch.testing.assert_close(got, torch.autograd.grad(f(*given), given), rtol=1e-4, atol=1e-4)
    made = records()[-1].planned[0].schedule
    forward = [s.op.group for s in made.steps if s.section == 0]
    assert {"pair", "pair.2"} <= {*forward}
    for name in ("pair", "pair.2"):
        places = [k for k, g in enumerate(forward) if g == name]
        assert places == list(range(places[0], places[-1] + 1)) and len(places) >= 2 - (name == "pair.2")
    assert any(s.op.group for s in made.steps if s.section == 1)
