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
from lowtide.ir.lowered import LOOP, Lowered, check_lowered
from lowtide.ir.verify import verify
from lowtide.schedule.depend import needed_operations
from lowtide.schedule.fusion import fuse_loops
from lowtide.schedule.inline import inline
from lowtide.schedule.schedule import schedule


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


@pytest.mark.spec("IR-02")
@given(programs())
@settings(max_examples=40, deadline=None)
def test_a_kernel_tells_what_was_put_into_it(lowered: Lowered) -> None:
    """Nothing is lost, and what is still there is in its own kernel alone; so also after fusion."""
    found = inline(lowered)
    for after in (found, fuse_loops(found, schedule(found.graph, {}, loops=found.loops)).lowered):
        before = found if after is not found else lowered
        inside = {n: (n, *after.members.get(n, ())) for n in after.loops}
        told = {m for names in inside.values() for m in names}
        needed = needed_operations(before.graph, LOOP) | {n for n, x in before.loops.items() if x.checks}
        assert {m for n in before.loops if n in needed for m in before.members.get(n, (n,))} <= told
        assert all(after.loops.keys() & set(names) == {n} for n, names in inside.items())


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


@pytest.mark.spec("IR-18")
def test_what_is_read_before_a_change_is_not_read_after_it() -> None:
    more = flat(1, 0, (16,), "a = load 0 r0; c = const 1; b = add a c; store 0 r0 b")
    same(made([(PLUS, "x", "y"), (more, "x", ""), (PLUS, "y", "z")], "z"), 3)
    same(made([(PLUS, "x", "y"), (PLUS, "y", "z"), (more, "x", "")], "z"), 3)  # put anywhere, it might pass the change
    same(made([(more, "x", ""), (PLUS, "x", "y"), (PLUS, "y", "z")], "z"), 2)


def remainders(count: int) -> Loop:
    """Something heavy: weight 10 for each."""
    steps = "; ".join(f"v{k + 1} = mod v{k} c" for k in range(count))
    return flat(1, 1, (16,), f"c = const 7; v0 = load 0 r0; {steps}; store 1 r0 v{count}")


def chain(count: int) -> Loop:
    """So many cheap instructions."""
    steps = "; ".join(f"v{k + 1} = add v{k} v{k}" for k in range(count - 2))
    return flat(1, 1, (16,), f"v0 = load 0 r0; {steps}; store 1 r0 v{count - 2}")


def total_of(count: int) -> Loop:
    """The sum of so many vectors."""
    loads = "; ".join(f"x{k} = load {k} r0" for k in range(count))
    sums = "; ".join(f"s{k} = add {f's{k - 1}' if k > 1 else 'x0'} x{k}" for k in range(1, count))
    return flat(count, 1, (16,), f"{loads}; {sums}; store {count} r0 s{count - 1}")


def vectors(count: int) -> str:
    return " ".join(f"x{k}" for k in range(count))


ROWS_OF_IT = flat(1, 1, (4, 16), "a = load 0 r1; store 1 16*r0+r1 a")
SEVENS = flat(0, 1, (16,), "c = const 7; store 0 r0 c")
ONE, TWO = [(PLUS, "y", "z")], [(PLUS, "y", "z"), (PLUS, "y", "w")]
DECISIONS = {
    "cheap, read twice": ([(PLUS, "x", "y"), *TWO], 2),
    "heavy, read once": ([(remainders(3), "x", "y"), *ONE], 1),
    "heavy, read twice": ([(remainders(3), "x", "y"), *TWO], 3),
    "not so heavy, read twice": ([(remainders(2), "x", "y"), *TWO], 2),
    "short, read once": ([(chain(110), "x", "y"), *ONE], 1),
    "long, read once": ([(chain(121), "x", "y"), *ONE], 2),
    "of 12 buffers, read once": ([(total_of(12), vectors(12), "y"), *ONE], 1),
    "of 13 buffers, read once": ([(total_of(13), vectors(13), "y"), *ONE], 2),
    "of three buffers, read twice": ([(total_of(3), vectors(3), "y"), *TWO], 3),
    "constant, read twice": ([(SEVENS, "", "y"), *TWO], 2),
}


@pytest.mark.spec("IR-28")
@pytest.mark.parametrize("name", DECISIONS)
def test_what_is_stored_and_what_is_computed_again(name: str) -> None:
    ops, kernels = DECISIONS[name]
    lowered = made(ops, " ".join(out for _, _, out in ops[1:]))
    same(lowered, kernels)
    assert inline(lowered) == inline(lowered)
    assert len(inline(lowered, {"y"}).loops) == len(ops), "what is to be stored is"


@pytest.mark.spec("IR-28")
def test_a_broadcast_counts_how_often_it_is_computed_not_its_readers() -> None:
    for loop, kernels in ((PLUS, 1), (remainders(1), 2)):
        ops = [(str(loop), ("x",), ("y",)), (str(ROWS_OF_IT), ("y",), ("z",))]
        lowered = program({"x": (16,), "y": (16,), "z": (4, 16)}, ops, "z", "i64")
        same(lowered, kernels)
