"""The independent checker refuses every kind of wrong order, and agrees with the rules written out naively."""

from __future__ import annotations

import random

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_oracle import Rules

from lowtide.core.errors import VerifyError
from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.order.check import check_order

G = MemoryGraph(
    (Buffer("x", 1), Buffer("x2", 1, alias_of="x"), Buffer("y", 1), Buffer("v", 1, alias_of="y")),
    (
        Node("make", (), ("x",)),
        Node("over", (), ("x2",)),
        Node("y", (), ("y",)),
        Node("read", ("v",)),
        Node("wait", after=("y",)),
    ),
)


@pytest.mark.spec("G6")
@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1, 2, 3], "permutation: wait is missing"),
        ([0, 1, 2, 3, 3], "permutation: read stands at 3 and at 4"),
        ([0, 1, 2, 3, 9], "permutation: position 4 holds 9"),
        ([0, 1, 2, 3, -1], "permutation: position 4 holds -1"),
        ([1, 0, 2, 3, 4], "alias: over at 0 writes x2 over x, but make runs later, at 1"),
        ([0, 1, 3, 2, 4], "read: read at 2 reads v, but y runs later, at 3"),
        ([0, 1, 4, 2, 3], "after: wait at 2 comes after y, but y runs later, at 3"),
    ],
)
def test_wrong_orders_are_refused(order: list[int], message: str):
    check_order(G, [0, 1, 2, 3, 4])
    with pytest.raises(VerifyError, match=message):
        check_order(G, order)


@pytest.mark.spec("G6")
@given(st.sampled_from(("plain", "mutating", "scratch")), st.integers(0, 10**6), st.integers(1, 10))
def test_agrees_with_the_rules(shape: str, seed: int, n: int):
    g, rng = graphs.make(shape, seed, n), random.Random(seed)
    needs = Rules(g).needs
    assert [set(p) for p in g.predecessors] == needs
    for _ in range(20):
        order = list(range(len(g.nodes)))
        for _ in range(rng.randint(0, 3)):
            if len(order) > 1:
                t = rng.randrange(len(order) - 1)
                order[t], order[t + 1] = order[t + 1], order[t]
        right = all(needs[i] <= set(order[:t]) for t, i in enumerate(order))
        if right:
            check_order(g, order)
        else:
            with pytest.raises(VerifyError):
                check_order(g, order)
