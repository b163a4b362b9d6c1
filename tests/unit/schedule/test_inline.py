"""Values that are computed where they are read: the same numbers, and nothing moves past a change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_programs import compute, one_by_one, programs
from small_loops import flat, nest
from test_fusion import program

from lowtide.ir.graph import Ref, Section
from lowtide.ir.loops import Loop
from lowtide.ir.lowered import Lowered, check_lowered
from lowtide.ir.verify import verify
from lowtide.schedule.inline import inline


@pytest.mark.spec("SC-31")
@given(programs(), st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_inlined_programs_compute_the_same(lowered: Lowered, seed: int) -> None:
    found = inline(lowered)
    verify(found.graph)
    check_lowered(found)
    want, got = compute(lowered), compute(found, one_by_one(seed))
    assert want.keys() == got.keys()
    for name, x in want.items():
        assert np.array_equal(x, got[name]), name


def made(ops: list[tuple[Loop, str, str]], keep: str, size: int = 16) -> Lowered:
    """Loops one after the other, over vectors."""
    names = dict.fromkeys(n for _, given_, out in ops for n in (*given_.split(), *out.split()))
    listed = [(str(loop), tuple(given_.split()), tuple(out.split())) for loop, given_, out in ops]
    return program(dict.fromkeys(names, (size,)), listed, keep, "i64")


def same(lowered: Lowered, kernels: int) -> None:
    """Inlining leaves so many kernels, which compute the same."""
    found = inline(lowered)
    verify(found.graph)
    check_lowered(found)
    assert len(found.loops) == kernels
    want, got = compute(lowered), compute(found, one_by_one(1))
    assert all(np.array_equal(x, got[name]) for name, x in want.items())


PLUS = flat(1, 1, (16,), "a = load 0 r0; c = const 5; b = add a c; store 1 r0 b")


def test_the_next_element_is_computed_where_it_is_read() -> None:
    same(made([(PLUS, "x", "y"), (flat(1, 1, (15,), "a = load 0 r0+1; store 1 r0 a"), "y", "z")], "z"), 1)


def test_a_value_from_the_middle_of_its_memory() -> None:
    """What is stored from element 4 on is read back at the places where it was stored."""
    behind = flat(1, 1, (8,), "a = load 0 r0; c = const 5; b = add a c; store 1 r0+4 b")
    same(made([(behind, "x", "y"), (flat(1, 1, (8,), "a = load 0 r0+4; store 1 r0 a"), "y", "z")], "z"), 1)


def test_a_read_that_happens_here_and_there_stays_one() -> None:
    """Where the reader does not read, its value is 0, whatever the producer would have computed."""
    some = flat(1, 1, (16,), "n = index r0; c = const 9; k = lt n c; a = load 0 r0 k; store 1 r0 a")
    same(made([(PLUS, "x", "y"), (some, "y", "z")], "z"), 1)


def test_both_conditions_hold_where_a_producer_reads_here_and_there_too() -> None:
    few = flat(1, 1, (16,), "n = index r0; c = const 12; k = lt n c; a = load 0 r0 k; d = add a c; store 1 r0 d")
    some = flat(1, 1, (16,), "n = index r0+8; c = const 16; k = lt n c; a = load 0 r0+8 k; store 1 r0 a")
    same(made([(few, "x", "y"), (some, "y", "z")], "z"), 1)


def test_what_is_returned_stays() -> None:
    same(made([(PLUS, "x", "y"), (PLUS, "y", "z")], "y z"), 2)


def test_a_sum_is_not_computed_where_it_is_read() -> None:
    total = nest((4,), 1, 1, ((4,), "a = load 0 4*i0+r0; s = reduce sum a"), ((), "store 1 i0 s"))
    same(made([(total, "x", "y"), (PLUS, "y", "z")], "z"), 2)


def test_nothing_is_computed_in_another_section() -> None:
    lowered = made([(PLUS, "x", "y"), (PLUS, "y", "z")], "z")
    first, second = lowered.graph.ops
    forward = Section("forward", (Ref("x"),), (first,), (Ref("y"),), (0,))
    backward = Section("backward", (Ref("y"),), (second,), (Ref("z"),))
    graph = type(lowered.graph)("g", lowered.graph.values, (forward, backward))
    assert len(inline(Lowered(graph, lowered.loops)).loops) == 2
