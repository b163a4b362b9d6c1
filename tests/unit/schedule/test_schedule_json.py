"""Schedules as JSON come back equal, and what is wrong is refused with its place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.errors import FileError
from lowtide.core.reason import Reason
from lowtide.ir.graph import Graph, specialise
from lowtide.schedule.json import dump, load, to_json
from lowtide.schedule.schedule import OpFacts, schedule
from strategies import example, static_graphs

FACTS = st.builds(
    OpFacts,
    out=st.none() | st.just("aten.add.out"),
    out_name=st.sampled_from(("out", "result")),
    workspace=st.sampled_from((0, 64)),
    out_workspace=st.sampled_from((0, 128)),
    overwrite=st.none() | st.just("aten.add_.Tensor"),
    pointwise=st.booleans(),
    restride=st.sampled_from(((), (0,), (0, 2))),
    note=st.none() | st.just(Reason("a", "b", "c")),
)


@given(static_graphs(), st.data())
def test_schedules_come_back(graph: Graph, data: st.DataObject):
    made = schedule(graph, {op.name: data.draw(FACTS) for op in graph.ops if data.draw(st.booleans())})
    back = load(dump(made))
    assert back == made
    assert dump(back) == dump(made)


def test_every_fact_is_written():
    other = OpFacts("o", "n", 1, 2, "v", True, (0,), Reason("a", "b"))
    for f in dataclasses.fields(OpFacts):
        assert getattr(other, f.name) != getattr(OpFacts(), f.name)
    made = schedule(specialise(example(), {"s0": 2}), {"h": other})
    assert load(dump(made)).steps[0].facts == other


FAULTS: list[tuple[Callable[[Any], object], str]] = [
    (lambda t: t.update(version=3), "version"),
    (lambda t: t.update(kind="graph"), "kind"),
    (lambda t: t["graph"].update(name=1), "graph.name"),
    (lambda t: t["steps"][0].update(op="gx"), "steps[0].op"),
    (lambda t: t["steps"][0].update(section=-1), "steps[0].section"),
    (lambda t: t["steps"][0].update(inplace=[["x"]]), "steps[0].inplace[0]"),
    (lambda t: t["steps"][0]["facts"].update(pointwise=1), "steps[0].facts.pointwise"),
    (lambda t: t["steps"][0]["facts"].update(speed=1), "steps[0].facts"),
    (lambda t: t["reasons"].append({}), "reasons[0]"),
]


@pytest.mark.parametrize(("damage", "place"), FAULTS, ids=[place for _, place in FAULTS])
def test_faults_are_refused_with_their_place(damage: Callable[[Any], object], place: str):
    top = json.loads(json.dumps(to_json(schedule(specialise(example(), {"s0": 2}), {}))))
    damage(top)
    with pytest.raises(FileError) as refused:
        load(json.dumps(top))
    assert refused.value.place == place
