"""MemoryPlan's own figures: the peak, its first step, and looking a place up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.plan.plan import MemoryPlan, Place


def plan(live: tuple[int, ...], *places: Place) -> MemoryPlan:
    return MemoryPlan("cpu", places, (), live, 0, 0, "none")


@pytest.mark.spec("G9")
@given(st.lists(st.integers(0, 9), max_size=6).map(tuple))
def test_the_promise_is_the_most_at_any_step(live: tuple[int, ...]):
    made = plan(live)
    assert all(n <= made.promised_nbytes for n in live)
    if live:
        assert live[made.peak_step] == made.promised_nbytes
        assert all(n < made.promised_nbytes for n in live[: made.peak_step])
    else:
        assert made.promised_nbytes == made.peak_step == 0


def test_places_are_found_by_storage():
    a, b = Place("a", 8, 0, 2, "fresh"), Place("b", 4, 1, 3, "over", "a")
    made = plan((8, 8, 4), a, b)
    assert made.place["a"] is a and made.place["b"] is b
    assert "c" not in made.place
