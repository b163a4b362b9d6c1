"""The engine against the exhaustive optimum, its promises, its budget and its record."""

from __future__ import annotations

import random

import graphs
import pytest
from exhaustive import least_peak, none_below
from hypothesis import given
from hypothesis import strategies as st
from order_oracle import optimum, replay

from lowtide.memory.flat import flatten, peak_bytes
from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.memory.json import dumps, loads
from lowtide.memory.lifetime import timeline
from lowtide.order.check import check_order
from lowtide.order.engine import reorder
from lowtide.order.entrants import ENTRANTS

SHAPES = st.sampled_from(sorted(graphs.SHAPES))


def judge(g: MemoryGraph, least: int | None = None) -> None:
    """The result is valid, true, and proved to be the exhaustive optimum ``least``."""
    found = reorder(g)
    check_order(g, found.order)
    assert max([*replay(g, list(found.order)), timeline(g, found.order).start]) == found.peak
    assert found.status == "OPTIMAL"
    assert found.peak == found.lower_bound == (optimum(g) if least is None else least)
    assert found.stopped_by == "proved"


@pytest.mark.spec("PK-12", "PK-16", "PK-18", "PK-19")
@given(SHAPES, st.integers(0, 10**6), st.integers(1, 12))
def test_equals_the_exhaustive_optimum(shape: str, seed: int, n: int):
    judge(graphs.make(shape, seed, n))


@given(SHAPES, st.integers(0, 10**6), st.integers(1, 9))
def test_the_fast_oracle_is_the_slow_one(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    least = optimum(g)
    assert least_peak(g) == least
    assert none_below(g, least, 10**6) is True
    assert none_below(g, least + 1, 10**6) is False


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.spec("PK-12", "PK-18")
@pytest.mark.parametrize("shape", sorted(graphs.SHAPES))
def test_equals_the_exhaustive_optimum_on_thousands(shape: str):
    for seed in range(250):
        g = graphs.make(shape, seed, random.Random(f"{shape}/{seed}").randint(8, 14 if shape == "wide" else 20))
        judge(g, least_peak(g))


@pytest.mark.slow
@pytest.mark.spec("PK-12", "PK-18")
def test_most_graphs_of_40_to_60_nodes_are_proved():
    gaps: list[float] = []
    for shape in graphs.SHAPES:
        for seed in range(25):
            g = graphs.make(shape, seed, random.Random(f"{shape}/{seed}").randint(40, 60))
            found = reorder(g)
            assert none_below(g, found.peak, 3000) is not False or found.status == "FEASIBLE"
            gaps.append(found.gap)
    rest = [gap for gap in gaps if gap]
    assert len(rest) <= 0.1 * len(gaps)
    assert not rest or sum(rest) / len(rest) < 0.02


@pytest.mark.spec("PK-12", "PK-18")
@given(SHAPES, st.integers(0, 10**6), st.integers(20, 70))
def test_never_worse_than_an_entrant_and_never_below_the_bound(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    found = reorder(g, budget_steps=20_000)
    check_order(g, found.order)
    assert timeline(g, found.order).peak == found.peak >= found.lower_bound
    flat = flatten(g)
    for name, entrant in ENTRANTS.items():
        assert found.candidates[name] == peak_bytes(flat, entrant(flat)) >= found.peak
    assert found.candidates["search"] == found.peak
    assert (found.status == "OPTIMAL") == (found.peak == found.lower_bound)
    assert found.gap >= 0


@pytest.mark.spec("PK-12")
@pytest.mark.parametrize("shape", sorted(graphs.SHAPES))
def test_large_graphs_go_through_windows(shape: str):
    g = graphs.make(shape, 3, 400)
    found = reorder(g, budget_steps=30_000)
    check_order(g, found.order)
    assert timeline(g, found.order).peak == found.peak <= min(found.candidates.values())
    assert found.lower_bound <= found.peak


@pytest.mark.spec("PK-18")
def test_a_small_budget_gives_a_true_bound():
    for seed in range(20):
        g = graphs.make("scratch", seed, 12)
        best = optimum(g)
        for steps in (0, 50, 500):
            found = reorder(g, budget_steps=steps)
            assert found.lower_bound <= best <= found.peak
            assert found.status == "FEASIBLE" or found.peak == best


@pytest.mark.spec("PK-12", "PK-21")
def test_program_order_wins_ties():
    g = MemoryGraph(
        (Buffer("a", 4, output=True), Buffer("b", 4, output=True)), (Node("n", (), ("a",)), Node("m", (), ("b",)))
    )
    assert reorder(g).order == (0, 1)


@pytest.mark.spec("G7")
def test_same_graph_same_result():
    for shape in ("gnp", "checkpointed", "inplace"):
        g = graphs.make(shape, 5, 60)
        first, second = reorder(g, budget_steps=5000), reorder(loads(dumps(g)), budget_steps=5000)
        assert first == second


@pytest.mark.spec("PK-12")
def test_progress_is_told_and_the_budget_is_kept():
    g = graphs.make("scratch", 9, 54)
    told: list[tuple[int, int, int]] = []
    found = reorder(g, budget_steps=60_000, progress=lambda *x: told.append(x))
    assert found.stopped_by in ("budget", "stuck")
    assert found.steps < 150_000
    assert told
    assert all(bound <= peak for _, peak, bound in told)


def test_the_clock_stops_it_and_says_so():
    found = reorder(graphs.make("scratch", 9, 54), emergency_seconds=0.0)
    assert (found.status, found.stopped_by) == ("FEASIBLE", "clock")


@pytest.mark.spec("PK-17")
def test_one_device_alone_can_be_minimised():
    for seed in range(10):
        g = graphs.make("devices", seed, 9)
        cuda = reorder(g, device="cuda")
        assert (
            timeline(g, cuda.order, device="cuda").peak
            == cuda.peak
            <= timeline(g, reorder(g).order, device="cuda").peak
        )
        assert cuda.status == "OPTIMAL"


def first_fit_size(g: MemoryGraph, order) -> int:
    """A packed size that punishes late large nodes: never below the live peak."""
    return timeline(g, order).peak + sum(t * g.buffer[w].nbytes for t, i in enumerate(order) for w in g.nodes[i].writes)


@pytest.mark.spec("PK-12")
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_another_objective_is_never_worse_than_any_candidate(seed: int, n: int):
    g = graphs.make("plain", seed, n)
    found = reorder(g, objective=first_fit_size)
    check_order(g, found.order)
    assert found.peak == first_fit_size(g, found.order) <= min(found.candidates.values())
    flat = flatten(g)
    for name, entrant in ENTRANTS.items():
        assert found.candidates[name] == first_fit_size(g, entrant(flat))
    assert found.lower_bound <= found.peak
    assert found.status == "FEASIBLE" or found.peak == found.lower_bound


def test_nothing_to_order():
    found = reorder(MemoryGraph((), ()))
    assert (found.order, found.peak, found.status, found.gap) == ((), 0, "OPTIMAL", 0.0)


@pytest.mark.spec("PK-18")
def test_the_bound_has_the_name_of_its_argument():
    free = Buffer("x", 9, input=True, freeable=True)
    assert reorder(MemoryGraph((free, Buffer("y", 0)), (Node("n", ("x",), ("y",)),))).bound_name == "start"
    g = MemoryGraph((Buffer("y", 3, output=True),), (Node("n", (), ("y",)),))
    assert reorder(g).bound_name == "outputs"
    g = MemoryGraph((Buffer("y", 3), Buffer("z", 4)), (Node("n", (), ("y",)), Node("m", ("y",), ("z",), workspace=2)))
    assert (reorder(g).bound_name, reorder(g).peak) == ("working set", 9)
    chain = (Node("a", (), ("y",)), Node("b", (), ("z",), after=("a",)), Node("c", ("y", "z"), after=("b",)))
    g = MemoryGraph((Buffer("y", 3), Buffer("z", 4)), (chain[0], Node("b", (), ("z",), ("a",), 5), chain[2]))
    assert (reorder(g).bound_name, reorder(g).peak) == ("cut", 12)
