"""Nodes that do not come in order: put in order by their names, against the definition of one, and cycles named."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.errors import FileError, VerifyError
from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.memory.json import dumps, loads
from lowtide.memory.sort import positions, sort

DIAMOND = (Node("d", ("b", "c"), ("d",)), Node("c", ("a",), ("c",)), Node("b", ("a",), ("b",)), Node("a", (), ("a",)))
NAMES = {n: Buffer(n, 4) for n in "abcd"}


@pytest.mark.spec("SC-22")
def test_a_node_moves_in_front_of_the_first_that_needs_it_and_others_stay():
    alone = (Node("first"), *DIAMOND, Node("last"))
    assert [alone[i].name for i in positions(alone, NAMES)] == ["first", "a", "c", "b", "d", "last"]
    in_order = (Node("x"), *DIAMOND[::-1], Node("w"))
    assert positions(in_order, NAMES) == tuple(range(6))


@pytest.mark.spec("SC-22")
def test_each_kind_of_need_is_kept():
    buffers = {b.name: b for b in (Buffer("x", 4), Buffer("new", 0, alias_of="x"), Buffer("view", 0, alias_of="new"))}
    given = (
        Node("late", ("view",)),
        Node("change", ("x",), ("new",), after=("early",)),
        Node("early", ("x",)),
        Node("make", (), ("x",)),
    )
    assert [given[i].name for i in positions(given, buffers)] == ["make", "early", "change", "late"]
    theirs = buffers | {"x": Buffer("x", 4, input=True)}
    assert [given[i].name for i in positions(given[:3], theirs)] == ["early", "change", "late"]
    overwrites = (Node("second", (), ("new",)), Node("make", (), ("x",)), Node("asks", ("new",)))
    assert positions((overwrites[2], *overwrites[:2]), buffers) == (2, 1, 0)


@pytest.mark.spec("SC-22")
def test_bytes_written_in_parts_wait_for_all_of_them_unless_the_list_says_otherwise():
    y = {"y": Buffer("y", 8)} | {n: Buffer(n, 0, alias_of="y") for n in ("left", "right")}
    left, right, user = Node("l", (), ("left",)), Node("r", (), ("right",)), Node("u", ("y",))
    assert positions((user, right, left), y) == (1, 2, 0)
    assert positions((left, user, right), y) == (0, 1, 2)


LATE, MAKE = Node("late", ("new",)), Node("make", (), ("x",))


@pytest.mark.spec("SC-22")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            (MAKE, LATE, Node("change", ("x",), ("new",))), (0, 2, 1), id="reader of new bytes before old ones go"
        ),
        pytest.param(
            (MAKE, Node("l", ("view",)), Node("c", ("x",), ("new",))), (0, 2, 1), id="another name of new bytes"
        ),
        pytest.param((Node("second", (), ("new",)), MAKE, LATE), (1, 0, 2), id="writes"),
    ],
)
def test_a_list_out_of_order_is_not_kept(given, expected):
    buffers = {b.name: b for b in (Buffer("x", 4), Buffer("new", 0, alias_of="x"), Buffer("view", 0, alias_of="new"))}
    assert positions(given, buffers) == expected


@pytest.mark.spec("SC-22")
def test_parts_of_which_the_second_is_read_too_early():
    y = {"y": Buffer("y", 8)} | {n: Buffer(n, 0, alias_of="y") for n in ("left", "right")}
    left, user, right = Node("l", (), ("left",)), Node("u", ("right",)), Node("r", (), ("right",))
    assert positions((left, user, right), y) == (0, 2, 1)
    assert positions((left, right, user), y) == (0, 1, 2)


@pytest.mark.spec("SC-22", "PK-14")
def test_a_cycle_is_named_and_nothing_is_left_out():
    given = (Node("free"), Node("p", ("b",), ("a",)), Node("q", ("a",), ("b",)))
    with pytest.raises(VerifyError, match=r"^cycle: p needs q needs p$"):
        positions(given, NAMES)
    buffers = [{"name": n, "nbytes": 1} for n in "ab"]
    nodes = [{"name": n.name, "reads": n.reads, "writes": n.writes} for n in given]
    with pytest.raises(FileError, match="nodes: not all nodes can run: cycle: p needs q needs p"):
        loads(json.dumps({"version": 1, "buffers": buffers, "nodes": nodes}))


@pytest.mark.spec("SC-22")
def test_long_chains_need_no_recursion():
    n = 50_000
    order, cycle = sort([[i + 1] if i + 1 < n else [] for i in range(n)])
    assert (order, cycle) == (tuple(range(n))[::-1], ())
    assert sort([[(i + 1) % n] for i in range(n)])[1] == (*range(n), 0)


@pytest.mark.spec("SC-22")
@given(st.sampled_from(sorted(graphs.SHAPES)), st.integers(0, 10**6), st.integers(1, 20))
def test_shuffled_graphs_get_an_order_that_keeps_every_need(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    # What only the order of a list says, an old value's readers among them, is said by names first.
    plain = tuple(
        replace(x, after=tuple(dict.fromkeys((*x.after, *(g.nodes[p].name for p in before)))))
        for x, before in zip(g.nodes, g.predecessors, strict=True)
    )
    shuffled = list(plain)
    random.Random(seed).shuffle(shuffled)
    found = loads(dumps(MemoryGraph(g.buffers, tuple(shuffled))))
    at = {x.name: i for i, x in enumerate(found.nodes)}
    assert sorted(found.nodes, key=lambda x: x.name) == sorted(plain, key=lambda x: x.name)
    assert all(at[a] < at[x.name] for x in plain for a in x.after)
    assert loads(dumps(found)) == found


@pytest.mark.spec("SC-22")
@given(
    st.sampled_from(["plain", "gnp", "layered", "series_parallel", "training", "wide"]),
    st.integers(0, 10**6),
    st.integers(1, 20),
)
def test_names_alone_say_who_needs_whom_where_nothing_is_written_over(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, n)
    shuffled = list(g.nodes)
    random.Random(seed).shuffle(shuffled)
    found = loads(dumps(MemoryGraph(g.buffers, tuple(shuffled))))
    needs = [{x.nodes[p].name for p in before} for x in (g, found) for before in x.predecessors]
    by_name = dict(zip((x.name for x in found.nodes), needs[len(g.nodes) :], strict=True))
    assert dict(zip((x.name for x in g.nodes), needs[: len(g.nodes)], strict=True)) == by_name
