"""The JSON form of problems and plans."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowtide.core.codec import dumps, loads
from lowtide.core.errors import FileError
from lowtide.plan.check import check
from lowtide.plan.pack import pack
from lowtide.plan.problem import PackBuffer, PackProblem
from lowtide.plan.problem_json import parse_plan, parse_problem, plan_value, problem_value

SMALLEST = '{"version": 1, "capacity": null, "buffers": [{"id": "a", "size": 64, "intervals": [[0, 3]]}]}'


def test_defaults():
    assert parse_problem(loads(SMALLEST)) == PackProblem((PackBuffer("a", 64, ((0, 3),)),))


buffers = st.builds(
    PackBuffer,
    st.text(max_size=5),
    st.integers(0, 1 << 60),
    st.lists(st.integers(-99, 99), min_size=2, max_size=2, unique=True).map(lambda x: (tuple(sorted(x)),)),
    st.sampled_from([1, 64, 512]),
    st.none() | st.integers(0, 5).map(lambda k: 512 * k),
    windows=st.sampled_from([(), (None,), ((0, 0),)]),
    arms=st.sampled_from([(), (("if", 0),), (("if", 1), ("in", 2))]),
    hint=st.none() | st.integers(0, 9),
    line=st.none() | st.text(max_size=5),
)


@pytest.mark.spec("PP-35")
@settings(max_examples=200, deadline=None)
@given(st.lists(buffers, unique_by=lambda b: b.id, max_size=5), st.none() | st.integers(0, 1 << 50))
def test_what_is_written_reads_back_equal(some, capacity):
    pairs = ((some[0].id, some[1].id),) if len(some) > 1 and some[1].size <= some[0].size else ()
    problem = PackProblem(tuple(some), capacity, pairs, pairs)
    assert parse_problem(loads(dumps(problem_value(problem)))) == problem


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"version": 2}, "version"),
        ({"buffers": None}, "buffers"),
        ({"colour": 1}, "top level"),
        ({"capacity": -1}, "capacity"),
        ({"merges": [["a", "b"]]}, "merges[0]"),
        ({"merges": [["a"]]}, "merges[0]"),
        ({"buffers": [{"id": "a", "size": 1}]}, "buffers[0]"),
        ({"buffers": [{"id": "a", "size": -1, "intervals": []}]}, "buffers[0].size"),
        ({"buffers": [{"id": "a", "size": 1, "intervals": [[3, 1]]}]}, "buffers[0].intervals"),
        ({"buffers": [{"id": "a", "size": 1, "intervals": [[0, True]]}]}, "buffers[0].intervals[0][1]"),
        ({"buffers": [{"id": "a", "size": 1, "intervals": [], "alignment": 0}]}, "buffers[0].alignment"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(change, place):
    with pytest.raises(FileError) as caught:
        parse_problem(loads(json.dumps({**json.loads(SMALLEST), **change}), "p.json"))
    assert caught.value.place == place


@pytest.mark.spec("PP-35", "G9")
def test_a_plan_file_carries_all_that_a_checker_needs():
    problem = PackProblem(
        (PackBuffer("a", 64, ((0, 3),)), PackBuffer("b", 100, ((2, 5),)), PackBuffer("c", 9, ((4, 6),)))
    )
    text = dumps(plan_value(problem, pack(problem)))
    read, offsets, height = parse_plan(loads(text))
    assert read == problem
    check(read, offsets, height=height)
    pool = json.loads(text)["pools"][0]
    assert pool["lower_bound"] <= pool["height"] <= pool["unshared"]
    assert pool["occupancy"] == [[0, 64], [2, 164], [3, 100], [4, 109], [5, 9], [6, 0]]
