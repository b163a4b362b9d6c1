"""Views, windows, swaps and in-place bounds agree with a timeline made anew."""

from __future__ import annotations

import random

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.errors import BugError
from lowtide.memory.estimate import (
    Estimate,
    certain_pairs,
    device_peaks,
    inplace_bounds,
    last_users,
    lifts_others,
    live_before,
    running_totals,
    step_pairs,
    subprogram_workspace,
)
from lowtide.memory.flat import flatten
from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.memory.lifetime import lifetimes, timeline

SHAPES = st.sampled_from(sorted(graphs.SHAPES))


@pytest.mark.spec("PK-06", "PK-07", "PK-08")
@given(SHAPES, st.integers(0, 10**6), st.integers(1, 30))
def test_views_agree(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    line = timeline(g)
    totals, pairs = running_totals(line), step_pairs(line)
    assert len(totals) == len(g.nodes) + 1
    assert max(totals[:-1]) == max(a for a, _ in pairs)
    assert totals[-1] == pairs[-1][1] == sum(x.nbytes for x in lifetimes(g) if x.escapes)
    assert live_before(line)[1:] == tuple(after for _, after in pairs[:-1])
    assert live_before(line)[0] == line.start


@pytest.mark.spec("PK-06", "PK-07")
def test_views_of_nothing():
    g = MemoryGraph((Buffer("x", 4, input=True, freeable=True),), ())
    assert running_totals(timeline(g)) == (0,)
    assert step_pairs(timeline(g)) == live_before(timeline(g)) == ()


@pytest.mark.spec("PK-07")
def test_last_users():
    g = MemoryGraph(
        (Buffer("x", 1), Buffer("v", 1, alias_of="x")),
        (Node("a", (), ("x",)), Node("b", ("x",)), Node("c", ("v",))),
    )
    assert last_users(g, (0, 1, 2)) == {"x": 2}
    assert last_users(g, (0, 2, 1)) == {"x": 1}


@pytest.mark.spec("PK-07", "PK-08")
@given(SHAPES, st.integers(0, 10**6), st.integers(2, 30))
def test_swapping_neighbours_equals_a_new_timeline(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    flat, rng = flatten(g), random.Random(seed)
    estimate = Estimate(flat, range(flat.n))
    for _ in range(12):
        t = rng.randrange(flat.n - 1)
        if estimate.order[t] in flat.preds[estimate.order[t + 1]]:
            with pytest.raises(BugError):
                estimate.swap(t)
            continue
        estimate.swap(t)
        line = timeline(g, estimate.order)
        assert (estimate.live, estimate.after) == (list(line.live), list(line.after))
        assert estimate.peak == line.peak


@pytest.mark.spec("PK-08")
@given(SHAPES, st.integers(0, 10**6), st.integers(2, 30))
def test_a_window_is_judged_as_in_a_new_timeline(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    flat, rng = flatten(g), random.Random(seed)
    estimate = Estimate(flat, range(flat.n))
    start = rng.randrange(flat.n)
    width = rng.randint(1, min(8, flat.n - start))
    nodes = list(range(start, start + width))
    for _ in range(10):
        t = rng.randrange(max(1, width - 1))
        if width > 1 and nodes[t] not in flat.preds[nodes[t + 1]]:
            nodes[t], nodes[t + 1] = nodes[t + 1], nodes[t]
    order = [*range(start), *nodes, *range(start + width, flat.n)]
    line = timeline(g, order)
    assert estimate.window_peak(start, nodes) == max(line.live[start : start + width])
    before = timeline(g)
    assert estimate.order == list(range(flat.n))
    assert [estimate.before(t) for t in range(flat.n)] == list(live_before(before))
    assert estimate.window_peak(start, range(start, start + width)) == max(before.live[start : start + width])
    with pytest.raises(BugError):
        estimate.window_peak(start, [nodes[0]] * (width + 1))


@pytest.mark.spec("PK-16")
@given(st.sampled_from(("inplace", "training", "backward")), st.integers(0, 10**6), st.integers(1, 25))
def test_inplace_bounds_are_in_order(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    bounds = inplace_bounds(g)
    assert bounds.least <= bounds.certain <= bounds.most
    assert bounds.least == timeline(g).peak


@pytest.mark.spec("PK-16")
def test_a_pair_is_certain_if_all_other_users_come_before_in_every_order():
    buffers = (Buffer("x", 8), Buffer("y", 8, output=True), Buffer("z", 1))
    pair = (("x", "y"),)
    make, other = Node("make", (), ("x",)), Node("other", ("x",), ("z",))
    free = MemoryGraph(buffers, (make, other, Node("n", ("x",), ("y",), inplace=pair)))
    assert certain_pairs(free) == {}
    bounds = inplace_bounds(free)
    assert (bounds.most, bounds.certain, bounds.least) == (16, 16, 9)
    bound = MemoryGraph(buffers, (make, other, Node("n", ("x",), ("y",), after=("other",), inplace=pair)))
    assert certain_pairs(bound) == {2: pair}
    assert inplace_bounds(bound).certain == 9


@pytest.mark.spec("PK-17")
def test_every_device_has_a_peak_of_its_own():
    g = MemoryGraph((Buffer("a", 5), Buffer("b", 7, "cuda")), (Node("n", (), ("a", "b"), workspace=2, device="cuda"),))
    assert device_peaks(g) == {"cpu": 5, "cuda": 9}


@pytest.mark.spec("PK-17")
@pytest.mark.parametrize(("device", "lifted"), [("cpu", True), ("cuda", False)])
def test_what_is_better_for_one_device_may_lift_another(device: str, lifted: bool):
    """``c`` is read by the last node, and made later in the other order; ``d`` is then made before ``e`` is gone."""
    buffers = (Buffer("c", 8), Buffer("d", 4, "cuda"), Buffer("e", 4, "cuda"))
    nodes = (
        Node("c", (), ("c",)), Node("e", (), ("e",)), Node("drop", ("e",)), Node("d", (), ("d",)),
        Node("use", ("c", "d")),
    )  # fmt: skip
    g = MemoryGraph(buffers, nodes)
    order = [1, 3, 2, 0, 4]
    assert device_peaks(g, order) == {"cpu": 8, "cuda": 8} and device_peaks(g) == {"cpu": 8, "cuda": 4}
    assert lifts_others(g, order, device) is lifted


@pytest.mark.spec("PK-19")
def test_a_call_costs_the_peak_of_its_dearest_branch():
    small = MemoryGraph((Buffer("a", 5),), (Node("n", (), ("a",)),))
    large = MemoryGraph((Buffer("a", 5), Buffer("b", 6)), (Node("n", (), ("a",)), Node("m", ("a",), ("b",))))
    nbytes = subprogram_workspace((small, large))
    assert nbytes == 11
    g = MemoryGraph((Buffer("x", 1),), (Node("call", (), ("x",), workspace=nbytes), Node("use", ("x",))))
    assert timeline(g).live == (12, 1)
    assert subprogram_workspace(()) == 0
