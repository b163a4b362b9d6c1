"""Memory plans as JSON come back equal, and what is wrong is refused with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.codec import dumps
from lowtide.core.errors import FileError
from lowtide.plan.memory_plan_json import load
from lowtide.plan.plan import MemoryPlan, Place, Slab

SMALL = st.integers(0, 99)


@st.composite
def plans(draw: st.DrawFn) -> MemoryPlan:
    """Plans of every shape that the types allow; right for no schedule."""
    spans = st.tuples(SMALL, SMALL).map(sorted)
    slabs = draw(
        st.lists(st.builds(lambda n, s, k: Slab(n, "cpu", s[0], s[1], k), SMALL, spans, st.booleans()), max_size=2)
    )
    number = st.none() | st.integers(0, len(slabs) - 1) if slabs else st.none()
    place = st.builds(
        lambda n, b, s, how, over, k, o, e: Place(n, b, s[0], s[1], how, over, k, o, e),
        st.text(max_size=3), SMALL, spans, st.sampled_from(("fresh", "over", "slab")), st.none() | st.just("x"),
        number, SMALL, st.booleans(),
    )  # fmt: skip
    candidates = draw(st.dictionaries(st.text(max_size=4), SMALL, max_size=3))
    live = tuple(draw(st.lists(SMALL, max_size=4)))
    places = tuple(draw(st.lists(place, max_size=3)))
    return MemoryPlan("cpu", places, tuple(slabs), live, draw(SMALL), draw(SMALL), "auto", tuple(candidates.items()))


@given(plans())
def test_plans_come_back(plan: MemoryPlan):
    assert load(dumps(plan.to_json())) == plan


def test_further_devices_and_allocators_may_be_left_out():
    top = json.loads(dumps(PLAN.to_json()))
    del top["others"], top["slabs"][0]["allocator"]
    assert load(json.dumps(top)) == PLAN
    more = replace(PLAN, slabs=(replace(PLAN.slabs[0], allocator="symm"),), others=(PLAN.devices[0],))
    assert load(dumps(more.to_json())) == more


PLAN = MemoryPlan("cpu", (Place("x", 8, 0, 2, "slab", None, 0),), (Slab(64, "cpu", 0, 2),), (64, 32), 8, 64, "one")
FAULTS: list[tuple[Callable[[Any], object], str]] = [
    (lambda t: t.update(version=2), "version"),
    (lambda t: t.update(promised_nbytes=63), "promised_nbytes"),
    (lambda t: t.update(candidates={"a": -1}), "candidates.a"),
    (lambda t: t["live"].append(1.5), "live[2]"),
    (lambda t: t["slabs"][0].update(end=-1), "slabs[0].end"),
    (lambda t: t["places"][0].update(first=3), "places[0].end"),
    (lambda t: t["places"][0].update(slab=1), "places[0].slab"),
    (lambda t: t["places"][0].update(how="else"), "places[0].how"),
    (lambda t: t["places"][0].pop("over"), "places[0]"),
]


@pytest.mark.parametrize(("damage", "place"), FAULTS, ids=[place for _, place in FAULTS])
def test_faults_are_refused_with_their_place(damage: Callable[[Any], object], place: str):
    top = json.loads(dumps(PLAN.to_json()))
    damage(top)
    with pytest.raises(FileError) as refused:
        load(json.dumps(top))
    assert refused.value.place == place
