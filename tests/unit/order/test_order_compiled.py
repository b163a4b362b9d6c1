"""The compiled search and bounds against their twins in Python: same answers, same counts of steps."""

from __future__ import annotations

import random

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core import native
from lowtide.core.errors import BuildError
from lowtide.memory.flat import build, flatten, live_bytes
from lowtide.order import compiled as module
from lowtide.order import engine
from lowtide.order.bounds import cut_in_python
from lowtide.order.compiled import compiled, library
from lowtide.order.contract import contracted
from lowtide.order.engine import reorder
from lowtide.order.exact import close, go_on, narrow
from lowtide.order.masks import masks_of, topological

SHAPES = st.sampled_from(sorted(graphs.SHAPES))
needs_compiler = pytest.mark.skipif(library() is None, reason="no C++ compiler")


def same(shape: str, seed: int, n: int, steps: int, shrunk: bool) -> None:
    flat = flatten(graphs.make(shape, seed, n))
    if shrunk:
        flat = contracted(masks_of(flat)).flat
    ready = compiled(flat)
    assert ready is not None
    order = topological(flat)
    mine = narrow(masks_of(flat), order, 0, steps)
    assert ready.close(order, 0, steps, go_on) == (mine.order, mine.peak, mine.bound, mine.steps)
    found, twin = [-1] * flat.n, [-1] * flat.n
    live = live_bytes(flat, order)
    assert ready.cut(order, live, 0, steps, found) == cut_in_python(flat, order, live, 0, steps, twin)
    assert found == twin


@needs_compiler
@pytest.mark.spec("PK-12", "PK-18")
@given(SHAPES, st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 30_000), st.booleans())
def test_same_answers_and_same_steps(shape: str, seed: int, n: int, steps: int, shrunk: bool):
    same(shape, seed, n, steps, shrunk)


@needs_compiler
@pytest.mark.spec("PK-18")
def test_same_where_implied_orderings_are_looked_for():
    flat = flatten(graphs.make("gnp", 37, 34))
    assert narrow(masks_of(flat), topological(flat), 0, 150_000).tight
    same("gnp", 37, 34, 150_000, False)


@needs_compiler
@pytest.mark.slow
@pytest.mark.spec("PK-12", "PK-18")
@pytest.mark.parametrize("shape", sorted(graphs.SHAPES))
def test_same_on_larger_graphs_and_longer_searches(shape: str):
    for seed in range(6):
        same(shape, seed, random.Random(seed).randint(60, 300), 300_000, bool(seed % 2))


@needs_compiler
def test_the_caller_ends_it_between_steps():
    flat = flatten(graphs.make("scratch", 9, 54))
    order = topological(flat)
    told: list[tuple[int, int, int]] = []

    def once(*at: int) -> bool:
        told.append(at)
        return False

    ready = compiled(flat)
    assert ready is not None
    _, peak, bound, steps = ready.close(order, 0, 10**9, once)
    assert len(told) == 1
    assert told[0][0] <= steps < 2 * module._EVERY
    assert bound <= told[0][2] or peak >= bound


@needs_compiler
def test_sums_beyond_64_bits_are_left_to_python():
    huge = build([[], [0]], [1 << 62, 1 << 62], [[0], [0, 1]], [[0], [1]], [False, True], [0, 0], [[], []])
    assert compiled(huge) is None
    g = graphs.make("plain", 1, 9)
    wide = type(g)(tuple(type(b)(b.name, b.nbytes << 56, input=b.input, output=b.output) for b in g.buffers), g.nodes)
    small, large = reorder(g), reorder(wide)
    assert (large.status, large.peak) == ("OPTIMAL", small.peak << 56)


def test_without_a_compiler_the_search_runs_in_python(monkeypatch: pytest.MonkeyPatch):
    g = graphs.make("gnp", 5, 14)
    expected = reorder(g, budget_steps=20_000)

    def refused(*_: object) -> object:
        raise BuildError("no compiler here")

    monkeypatch.setattr(native, "load", refused)
    native.opened.cache_clear()
    try:
        assert library() is None
        assert module.why_not() == "no compiler here"
        assert engine.default_budget(100) == 3_000_000
        assert reorder(g, budget_steps=20_000) == expected
    finally:
        native.opened.cache_clear()


@needs_compiler
@pytest.mark.spec("PK-18")
@given(SHAPES, st.integers(0, 10**6), st.integers(1, 60))
def test_nobody_waits_for_a_library_that_is_being_built(shape: str, seed: int, n: int):
    graph = graphs.make(shape, seed, n)
    wanted = reorder(graph, budget_steps=3_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_beside", {module.SEARCH})
        patch.setattr(native, "opened", lambda _: pytest.fail("waited for the library"))
        assert reorder(graph, budget_steps=3_000) == wanted


@needs_compiler
@pytest.mark.spec("PK-18")
def test_a_search_that_outlasts_the_build_is_begun_again():
    flat = flatten(graphs.make("gnp", 37, 34))
    wanted = close(flat, topological(flat), 0, 60_000)
    beside = {module.SEARCH}

    def built(steps: int, _peak: int, _bound: int) -> bool:
        if steps > 5_000:
            beside.clear()
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_beside", beside)
        found = close(flat, topological(flat), 0, 60_000, built)
    assert not beside
    assert (found.order, found.peak) == (wanted.order, wanted.peak)
    assert (found.bound, found.steps) == (wanted.bound, wanted.steps)
