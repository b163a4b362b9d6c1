"""Library calls are timed where somebody asks, each distinct one once; what somebody knows goes before that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lowtide
from lowtide.core.errors import UserError
from lowtide.ir.graph import Graph
from lowtide.ir.text import parse
from lowtide.runtime import calls
from lowtide.runtime.timing import call_seconds
from lowtide.schedule.estimate import estimates
from lowtide.schedule.schedule import schedule

pytestmark = pytest.mark.torch


def products(inner: int) -> Graph:
    """Two equal products, one with an operand of another size, a call that fails alone, and one from outside torch."""
    return parse(f"""graph g version 1
  section inference
    input %x: f32[6,{inner}]{{{inner},1}} @cpu
    input %w: f32[{inner},6]{{6,1}} @cpu
    input %v: f32[{inner},4]{{4,1}} @cpu
    %a: f32[6,6]{{6,1}} @cpu = aten.mm.default(%x, %w)
    %b: f32[6,6]{{6,1}} @cpu = aten.mm.default(%x, %w)
    %c: f32[6,4]{{4,1}} @cpu = aten.mm.default(%x, %v)
    %d: f32[6,6]{{6,1}} @cpu = aten.mm.default(%x, %x)
    %e: f32[6]{{1}} @cpu = mine.op.default(%x)
    %r: f32[6]{{1}} @cpu = aten.rand.default([6]) effect random
    return [%a, %b, %c, %d, %e, %r]
""")


@pytest.mark.spec("SC-62")
def test_each_distinct_call_is_timed_once_and_what_cannot_be_tried_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    real = calls.overload

    def counted(target: str) -> Any:
        called.append(target)
        return real(target)

    monkeypatch.setattr(calls, "overload", counted)
    state = torch.get_rng_state()
    found = call_seconds(schedule(products(11), {}))
    assert found.keys() == {"a", "b", "c", "r"}
    assert found["a"] == found["b"] > 0
    assert sorted(called) == ["aten.mm.default"] * 3 + ["aten.rand.default"]
    assert call_seconds(schedule(products(11), {})) == found
    assert len(called) == 4, "the same calls are remembered"
    assert torch.equal(torch.get_rng_state(), state)
    call_seconds(schedule(products(12), {}))
    assert len(called) == 8 - 1, "a draw of as many numbers is the same call, other sizes are others"


@pytest.mark.spec("SC-62")
def test_what_is_known_of_an_operation_stands_for_its_estimate() -> None:
    made = schedule(products(11), {})
    plain, told = estimates(made), estimates(made, known={"c": 0.25})
    assert told["c"].seconds == 0.25 and str(told["c"]).endswith("µs as given")
    assert told.keys() == plain.keys()
    assert {n for n in plain if told[n] != plain[n]} == {"c"}
    assert (told["c"].nbytes, told["c"].operations) == (plain["c"].nbytes, plain["c"].operations)
    with pytest.raises(UserError, match="no step is named 'elsewhere'"):
        estimates(made, known={"c": 0.25, "elsewhere": 1.0})


@pytest.mark.spec("SC-62", "SC-72")
def test_pictures_show_what_was_measured_and_what_somebody_knows(tmp_path: Path) -> None:
    torch.compiler.reset()
    x = torch.randn(6, 7)
    torch.compile(lambda x: (x @ x.t()) @ x, backend="lowtide")(x)

    def shown(**given: Any) -> tuple[int, str]:
        (path,) = lowtide.write_pictures(tmp_path, **given)
        text = path.read_text()
        return text.count("µs as given"), text

    assert shown()[0] == 0
    assert shown(measured=True)[0] == 2
    with pytest.raises(UserError, match="no step is named 'mm_2'; did you mean 'mm"):
        shown(seconds={"mm_2": 0.125})
    count, text = shown(seconds={"mm": 0.125})
    assert count == 1 and "1.25e+05 µs as given" in text
