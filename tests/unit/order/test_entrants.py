"""The classic orders: valid, deterministic, golden on small graphs, and not quadratic where they once were."""

from __future__ import annotations

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.memory.flat import flatten, peak_bytes
from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.order import entrants
from lowtide.order.check import check_order

SHAPES = st.sampled_from(sorted(graphs.SHAPES))


@pytest.mark.spec("PK-09", "PK-10", "PK-11", "PK-12", "G6")
@given(SHAPES, st.integers(0, 10**6), st.integers(1, 60))
def test_every_order_is_valid(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    for entrant in entrants.ENTRANTS.values():
        order = entrant(flatten(g))
        check_order(g, order)
        assert order == entrant(flatten(g))


def names(g: MemoryGraph, order: list[int]) -> str:
    return " ".join(g.nodes[i].name for i in order)


def tree(*sizes: int) -> MemoryGraph:
    """Two chains a0 a1 and b0 b1 joined by j; sizes of a0 a1 b0 b1 j."""
    n = ("a0", "a1", "b0", "b1", "j")
    buffers = tuple(Buffer(f"{x}.", s, output=x == "j") for x, s in zip(n, sizes, strict=True))
    return MemoryGraph(
        buffers,
        (
            Node("a0", (), ("a0.",)),
            Node("b0", (), ("b0.",)),
            Node("a1", ("a0.",), ("a1.",)),
            Node("b1", ("b0.",), ("b1.",)),
            Node("j", ("a1.", "b1."), ("j.",)),
        ),
    )


@pytest.mark.spec("PK-10")
def test_bfs_lets_two_chains_take_turns():
    g = tree(1, 1, 1, 1, 1)
    assert names(g, entrants.bfs(flatten(g))) == "a0 b0 a1 b1 j"


@pytest.mark.spec("PK-11")
def test_dfs_finishes_the_small_branch_first():
    g = tree(9, 9, 2, 2, 1)
    assert names(g, entrants.dfs(flatten(g))) == "b0 b1 a0 a1 j"
    g = tree(1, 1, 20, 20, 1)
    assert names(g, entrants.dfs(flatten(g))) == "a0 a1 b0 b1 j"


@pytest.mark.spec("PK-11")
def test_dfs_needs_no_recursion():
    n = 5000
    buffers = tuple(Buffer(f"b{i}", n - i) for i in range(n))
    nodes = tuple(Node(f"n{i}", (f"b{i - 1}",) if i else (), (f"b{i}",)) for i in range(n))
    flat = flatten(MemoryGraph(buffers, nodes))
    assert entrants.dfs(flat) == entrants.postorder(flat) == list(range(n))


@pytest.mark.spec("PK-09")
def test_lpmf_prefers_what_fits_under_the_peak_and_then_what_adds_least():
    # peak so far is 10 at the start (an output of 10 must come): the node that adds 1 goes first, then 3, then 20.
    buffers = (
        Buffer("big", 20),
        Buffer("out", 10, output=True),
        Buffer("three", 3),
        Buffer("one", 1),
        Buffer("end", 0),
    )
    g = MemoryGraph(
        buffers,
        (
            Node("big", (), ("big",)),
            Node("three", (), ("three",)),
            Node("one", (), ("one",)),
            Node("out", (), ("out",)),
            Node("end", ("big", "three", "one"), ("end",)),
        ),
    )
    assert names(g, entrants.lpmf(flatten(g))) == "one three out big end"


@pytest.mark.spec("PK-09")
def test_lpmf_counts_what_a_last_reader_frees():
    buffers = (Buffer("x", 50, input=True, freeable=True), Buffer("y", 30, output=True), Buffer("z", 1, output=True))
    g = MemoryGraph(buffers, (Node("cheap", (), ("z",)), Node("frees", ("x",), ("y",))))
    assert names(g, entrants.lpmf(flatten(g))) == "cheap frees"  # neither fits: the smaller
    buffers = (Buffer("w", 40, input=True, freeable=True), *buffers)
    g = MemoryGraph(buffers, (Node("drop", ("w",)), Node("cheap", (), ("z",)), Node("frees", ("x",), ("y",))))
    assert names(g, entrants.lpmf(flatten(g))) == "drop frees cheap"


@pytest.mark.spec("PK-12")
def test_eager_free_leaves_program_order_only_to_free():
    buffers = (
        Buffer("x", 50, input=True, freeable=True),
        Buffer("a", 10, output=True),
        Buffer("b", 10, output=True),
        Buffer("c", 10, output=True),
    )
    nodes = (Node("a", (), ("a",)), Node("b", (), ("b",)), Node("frees", ("x",), ("c",)))
    g = MemoryGraph(buffers, nodes)
    assert names(g, entrants.eager_free(flatten(g))) == "frees a b"
    assert peak_bytes(flatten(g), entrants.eager_free(flatten(g))) < peak_bytes(flatten(g), [0, 1, 2])
    dear = MemoryGraph((*buffers[:3], Buffer("c", 11, output=True)), nodes)
    assert names(dear, entrants.eager_free(flatten(dear))) == "a b frees"  # 61 bytes are more than has been needed yet


@pytest.mark.spec("PK-12")
def test_list_scheduling_frees_most_first_and_breaks_ties_by_users():
    buffers = (
        Buffer("x", 5, input=True, freeable=True),
        Buffer("y", 9, input=True, freeable=True),
        Buffer("a", 1),
        Buffer("b", 1),
    )
    nodes = (
        Node("five", ("x",)),
        Node("a", (), ("a",)),
        Node("b", (), ("b",)),
        Node("nine", ("y",)),
        Node("u", ("a", "b")),
        Node("v", ("b",)),
    )
    g = MemoryGraph(buffers, nodes)
    assert names(g, entrants.listed(flatten(g))) == "nine five b v a u"


@pytest.mark.spec("PK-09")
def test_wide_graphs_are_not_rescanned(monkeypatch: pytest.MonkeyPatch):
    """Work per node stays the same as the number of ready nodes grows: counted, not timed."""
    work: dict[int, int] = {}
    for n in (500, 4000):
        calls = 0
        original = entrants._Ranked._lift

        def counted(self: entrants._Ranked, rank: int) -> None:
            nonlocal calls
            calls += 1
            original(self, rank)  # noqa: B023

        monkeypatch.setattr(entrants._Ranked, "_lift", counted)
        entrants.lpmf(flatten(graphs.independent(n)))
        monkeypatch.setattr(entrants._Ranked, "_lift", original)
        work[n] = calls
    assert work[4000] <= 10 * work[500]
