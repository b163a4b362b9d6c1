"""Planning information."""

from __future__ import annotations

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.memory.lifetime import timeline
from lowtide.memory.planning import prepare


@pytest.mark.spec("PK-01", "PK-04", "PK-13")
@given(st.sampled_from(sorted(graphs.SHAPES)), st.integers(0, 10**6), st.integers(1, 25))
def test_neighbours_mirror_each_other(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    info = prepare(g)
    for i, node in enumerate(info.nodes):
        assert node.index == i
        assert i not in node.predecessors
        assert i not in node.successors
        assert all(i in info.nodes[s].predecessors for s in node.successors)
        assert all(i in info.nodes[p].successors for p in node.predecessors)
    for b in info.buffers.values():
        assert set(b.memory_successors) <= set(b.ordering_successors)
    assert info.baseline_peak == timeline(g).peak


@pytest.mark.spec("PK-01")
def test_a_mutated_version_hands_its_successors_to_the_storage():
    g = MemoryGraph(
        (Buffer("x", 8), Buffer("x1", 8, alias_of="x"), Buffer("x2", 8, alias_of="x1")),
        (Node("make", (), ("x",)), Node("m", ("x",), ("x1",)), Node("mm", ("x1",), ("x2",)), Node("use", ("x2",))),
    )
    buffers = prepare(g).buffers
    assert (buffers["x"].nbytes_on_create, buffers["x"].memory_successors) == (8, (1, 2, 3))
    assert (buffers["x2"].nbytes_on_create, buffers["x2"].nbytes_on_free, buffers["x2"].memory_successors) == (
        0,
        0,
        (3,),
    )


@pytest.mark.spec("PK-01")
def test_waiting_is_not_using():
    g = MemoryGraph((Buffer("x", 8),), (Node("make", (), ("x",)), Node("use", ("x",)), Node("wait", after=("make",))))
    x = prepare(g).buffers["x"]
    assert x.memory_successors == (1,)
    assert x.ordering_successors == (1, 2)


@pytest.mark.spec("PK-02")
def test_a_node_with_several_results_creates_their_sum_and_each_is_freed_by_itself():
    g = MemoryGraph(
        (Buffer("a", 10), Buffer("b", 20)),
        (Node("two", (), ("a", "b")), Node("use_b", ("b",)), Node("use_a", ("a",))),
    )
    info = prepare(g)
    assert info.nodes[0].nbytes_created == 30
    assert [info.buffers[n].nbytes_on_free for n in "ab"] == [10, 20]
    assert timeline(g).after == (30, 10, 0)


@pytest.mark.spec("PK-02")
def test_names_without_storage_cost_nothing():
    """A name for one of several results, a name for that name, and a result that is nothing."""
    g = MemoryGraph(
        (Buffer("a", 10), Buffer("a0", 10, alias_of="a"), Buffer("a00", 7, alias_of="a0"), Buffer("token", 0)),
        (Node("two", (), ("a", "token")), Node("use", ("a00",)), Node("wait", ("token",))),
    )
    info = prepare(g)
    assert [n.nbytes_created for n in info.nodes] == [10, 0, 0]
    assert [(info.buffers[n].nbytes_on_create, info.buffers[n].nbytes_on_free) for n in ("a0", "a00", "token")] == [
        (0, 0),
        (0, 0),
        (0, 0),
    ]
    assert info.buffers["a"].memory_successors == (1,)
    assert timeline(g).live == (10, 10, 0)


@pytest.mark.spec("PK-03")
def test_freeable_inputs_are_those_said_to_be_and_used():
    free = {"input": True, "freeable": True}
    g = MemoryGraph(
        (Buffer("primals_1", 4, **free), Buffer("saved", 4, input=True), Buffer("idle", 4, **free), Buffer("y", 1)),
        (Node("n", ("primals_1", "saved"), ("y",)),),
    )
    info = prepare(g)
    assert info.freeable_inputs == ("primals_1",)
    assert info.nodes[0].reads == ("primals_1",)
    assert info.buffers["saved"].nbytes_on_free == 0
