"""Accesses: values that compare, recorded from loop bodies, against the addresses that loops really touch."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_loops import FLOATS, INTS, random_loop

from lowtide.core.errors import VerifyError
from lowtide.ir.access import (
    Accesses,
    Element,
    Whole,
    accesses_of_call,
    accesses_of_loop,
    element,
    merged,
    permutation,
)
from lowtide.ir.build import LoopBuilder
from lowtide.ir.graph import Op, Ref
from lowtide.ir.index import flatten
from lowtide.ir.loops import Loop
from lowtide.ir.normal import normalise
from lowtide.ir.symbolic import Dim, evaluate, parse_dim, symbol

SEEDS = st.integers(0, 2**32)


def of(index: str, *loops: tuple[str, int], mode: str | None = None) -> Element:
    return element("b", parse_dim(index), loops, mode)


def addresses(e: Element) -> list[int]:
    """Elements in the order in which the loops visit them."""
    ranges = [range(int(str(n))) for n in e.loops]
    return [evaluate(e.index, {f"d{k}": v for k, v in enumerate(p)}) for p in itertools.product(*ranges)]


@pytest.mark.spec("DP-01")
def test_the_same_elements_are_the_same_value():
    a = of("((x*12)+(y*4)+z)", ("x", 5), ("one", 1), ("y", 3), ("z", 4), ("unused", 9)).merged()
    b = of("w", ("w", 60))
    assert a == b and hash(a) == hash(b)
    assert a.renamed({"b": "c"}) != a and a.renamed({"b": "c"}).buffer == "c"
    assert of("w", ("w", 60), mode="accumulate") != of("w", ("w", 60), mode="store") != b
    assert of("(w+1)", ("w", 60)) != b != of("w", ("w", 59))


@pytest.mark.spec("DP-02")
def test_all_of_a_buffer_equals_no_elements():
    assert Whole("b") == Whole("b") != Whole("b", "accumulate")
    assert len({Whole("b"), of("w", ("w", 60)), of("0")}) == 3
    with pytest.raises(VerifyError, match="index"):
        _ = Whole("b").index
    assert Whole("b").renamed({"b": "c"}) == Whole("c")
    assert Whole("b", "accumulate").renamed({}).mode == "accumulate"


@pytest.mark.spec("DP-04")
def test_numbers_of_points_are_no_memory():
    b = LoopBuilder()
    b.outputs = ["i64"]
    (r,) = b.stage((8,))
    b.store(0, r, b.index(r))
    found = accesses_of_loop(b.build(), ["out"])
    assert found.reads == frozenset() and found.names == {"out"}
    assert found.computed == {(symbol("d0"), (8,))}


_ACCESS = st.builds(
    lambda n, i, loops, w: Whole(n) if w else element(n, flatten([symbol("x")], [i]), [("x", loops)]),
    st.sampled_from("abc"),
    st.integers(0, 2),
    st.integers(1, 3),
    st.booleans(),
)
_SETS = st.builds(
    lambda r, w: Accesses(frozenset(r), frozenset(w)), st.lists(_ACCESS, max_size=4), st.lists(_ACCESS, max_size=4)
)


@pytest.mark.spec("DP-05")
@settings(deadline=None, max_examples=60)
@given(_SETS, _SETS, _SETS, st.lists(_ACCESS, max_size=3))
def test_the_laws_of_sets(a: Accesses, b: Accesses, c: Accesses, more: list[Element]):
    assert merged([a, b]) == merged([b, a])
    assert merged([merged([a, b]), c]).writes == merged([a, b, c]).writes == a.writes | b.writes | c.writes
    assert merged([a, b, c]).reads == (a.reads | b.reads | c.reads) - merged([a, b, c]).writes
    assert merged([merged([a, b]), c]).reads == merged([a, b, c]).reads
    assert merged([a, Accesses()]).reads == a.reads - a.writes
    assert a.with_reads(more).without_reads(more).reads == a.reads - set(more)
    there, back = {"a": "x", "b": "y", "c": "z"}, {"x": "a", "y": "b", "z": "c"}
    assert a.renamed(there).renamed(back) == a
    assert a.renamed(there).names == {there[n] for n in a.names}


def test_what_a_member_writes_another_need_not_read_from_outside():
    stored, read = of("w", ("w", 60), mode="store"), of("w", ("w", 60))
    assert merged([Accesses(writes=frozenset({stored})), Accesses(reads=frozenset({read}))]).reads == frozenset()
    shifted = of("(w+1)", ("w", 60))
    assert merged([Accesses(writes=frozenset({stored})), Accesses(reads=frozenset({shifted}))]).reads == {shifted}


@pytest.mark.spec("DP-05", "IR-08")
def test_symbols_are_those_of_the_code_itself():
    n = symbol("s0")
    b = LoopBuilder((n,))
    b.inputs, b.outputs = ["f32"], ["f32"]
    (r,) = b.stage((symbol("s1"),))
    b.store(1, flatten((*b.rows, r), (symbol("s1"), 1)), b.load(0, "f32", r))
    found = accesses_of_loop(b.build(), ["x", "y"])
    assert found.symbols == {"s0", "s1"}
    # that x has s7 elements is no matter of the loop that reads s1 of them
    (read,) = found.reads
    assert read.count(None) is None and read.count(None, {"s1": 5}) == 5


def touched(loop: Loop) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """(buffer, element) of all loads and stores with a plain index, by brute force."""
    reads: set[tuple[int, int]] = set()
    writes: set[tuple[int, int]] = set()
    for s in loop.stages:
        for p in itertools.product(*(range(int(str(n))) for n in (*loop.outer, *s.inner))):
            at = {f"i{k}": v for k, v in enumerate(p[: len(loop.outer)])}
            at |= {f"r{k}": v for k, v in enumerate(p[len(loop.outer) :])}
            for x in s.body:
                if x.op in ("load", "store", "accumulate") and x.index is not None:
                    (writes if x.writes else reads).add((int(str(x.attr)), evaluate(x.index, at)))
    return reads, writes


@pytest.mark.spec("DP-06", "IR-09")
@settings(deadline=None, max_examples=60)
@given(SEEDS, st.booleans())
def test_recorded_accesses_are_the_addresses_that_are_touched(seed: int, merge: bool):
    loop, buffers = random_loop(seed, (*INTS, *FLOATS))
    names = [str(k) for k in range(len(buffers))]
    found = accesses_of_loop(loop, names, merge=merge)
    reads, writes = touched(loop)

    def all_of(accesses) -> set[tuple[int, int]]:
        return {(int(e.buffer), a) for e in accesses for a in addresses(e)}

    assert all_of(found.reads) == reads
    assert all_of(found.writes) == writes
    assert {x.mode for x in found.writes} <= {"store", "accumulate"}


@pytest.mark.spec("SC-53", "DP-06")
@settings(deadline=None, max_examples=40)
@given(SEEDS, st.sampled_from(["outer", "inner"]))
def test_accesses_with_only_some_axes_moving(seed: int, only: str):
    """They are those of the loop in which the other variables are 0."""
    loop, buffers = random_loop(seed, INTS)
    found = accesses_of_loop(loop, [str(k) for k in range(len(buffers))], only=only)
    outer = tuple(1 for _ in loop.outer) if only == "inner" else loop.outer
    stages = (replace(s, inner=tuple(1 for _ in s.inner)) if only == "outer" else s for s in loop.stages)
    reads, writes = touched(replace(loop, outer=outer, stages=tuple(stages)))
    assert {(int(e.buffer), a) for e in found.reads for a in addresses(e)} == reads
    assert {(int(e.buffer), a) for e in found.writes for a in addresses(e)} == writes


@pytest.mark.spec("SC-53")
def test_accesses_are_kept_for_each_question():
    loop, buffers = random_loop(0, INTS)
    names = [str(k) for k in range(len(buffers))]
    asked: list[dict[str, Any]] = [{}, {"merge": False}, {"only": "outer"}, {"only": "inner"}]
    found = [accesses_of_loop(loop, names, **a) for a in asked]
    again = [accesses_of_loop(replace(loop), list(names), **a) for a in asked]
    assert all(x is y for x, y in zip(found, again, strict=True))
    assert accesses_of_loop(loop, [f"x{n}" for n in names]).names == {f"x{n}" for n in found[0].names}


@pytest.mark.spec("DP-06")
@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_normalising_a_loop_changes_none_of_its_addresses(seed: int):
    loop, buffers = random_loop(seed, INTS)
    names = [str(k) for k in range(len(buffers))]
    a, b = (accesses_of_loop(x, names) for x in (loop, normalise(loop)))
    assert {(e.buffer, n) for e in a.writes for n in addresses(e)} == {
        (e.buffer, n) for e in b.writes for n in addresses(e)
    }


@pytest.mark.spec("DP-06", "IR-30")
def test_how_it_is_stored_is_part_of_a_write_and_hidden_variables_stay_at_0():
    b = LoopBuilder((3,))
    b.inputs, b.outputs = ["f32", "i64"], ["f32"]
    (r,) = b.stage((4,))
    at = b.load(1, "i64", r)
    b.store(2, flatten((*b.rows, symbol(f"v{at}")), (7, 1)), b.load(0, "f32", flatten((*b.rows, r), (4, 1))), add=True)
    loop = b.build()
    found = accesses_of_loop(loop, ["x", "at", "y"])
    (write,) = found.writes
    assert write.mode == "accumulate" and write.looked_up
    assert {r.buffer for r in found.reads} == {"x", "at", "y"}  # it adds to what it reads
    rows = accesses_of_loop(loop, ["x", "at", "y"], only="outer")
    assert Element("x", parse_dim("(d0*4)"), (3,)) in rows.reads
    points = accesses_of_loop(loop, ["x", "at", "y"], only="inner")
    assert Element("x", symbol("d0"), (4,)) in points.reads


@pytest.mark.spec("DP-07")
def test_nests_that_differ_by_order_agree_by_stride_only():
    a = of("((x*20)+(y*5)+z)", ("x", 3), ("y", 4), ("z", 2), mode="store")
    b = of("((x*20)+(y*5)+z)", ("z", 2), ("y", 4), ("x", 3), mode="store")
    assert a.merged() != b.merged() and a.by_stride() == b.by_stride()
    assert a.by_stride().mode == "store"
    assert sorted(addresses(a)) == sorted(addresses(b)) == sorted(addresses(a.by_stride()))
    assert of("(x+(y*4))", ("x", 4), ("y", 3)).by_stride() == of("w", ("w", 12))
    odd = of("((x//3)+y)", ("x", 6), ("y", 2))
    assert odd.by_stride() == odd.merged() == odd


@pytest.mark.spec("DP-07", "DP-01", "IR-20")
@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), min_size=1, max_size=4))
def test_normal_forms_keep_the_addresses(loops: list[tuple[int, int]]):
    index: Dim = flatten([symbol(f"x{k}") for k in range(len(loops))], [s for _, s in loops], 3)
    e = element("b", index, [(f"x{k}", n) for k, (n, _) in enumerate(loops)])
    every = itertools.product(*(range(n) for n, _ in loops))
    brute = [3 + sum(i * s for i, (_, s) in zip(p, loops, strict=True)) for p in every]
    assert set(addresses(e)) == set(brute)
    assert addresses(e.merged()) == addresses(e)
    assert sorted(addresses(e.by_stride())) == sorted(addresses(e))


@pytest.mark.spec("DP-08")
@pytest.mark.parametrize(
    ("access", "count"),
    [
        (of("((x*4)+y)", ("x", 3), ("y", 4)), 12),
        (of("x", ("x", 3), ("y", 4)), 3),  # broadcast along y
        (of("7", ("x", 3)), 1),
        (of("((x*2)+1)", ("x", 5)), 5),
        (of("v3", ("x", 3)), 100),  # looked up: anything of the buffer
        (Whole("b"), 100),
        (element("b", symbol("x"), [("x", parse_dim("(u0*2)"))]), None),  # not known, and not 0 either
    ],
)
def test_counts(access, count):
    assert access.count(100) == count


@pytest.mark.spec("DP-08")
def test_hints_are_asked_for_only_where_they_are_given():
    e = element("b", symbol("x"), [("x", parse_dim("(u0*2)"))])
    assert e.count(100, {"u0": 4}) == 8 and e.count(100, {"other": 4}) is None


@pytest.mark.spec("DP-09")
@pytest.mark.parametrize(
    ("e", "contiguous", "scalar", "looked_up", "unit", "offset"),
    [
        (of("x", ("x", 3)), True, False, False, True, 0),
        (of("(x+5)", ("x", 3)), True, False, False, True, 5),
        (of("5", ("x", 3)), True, True, False, False, 5),
        (of("(x*2)", ("x", 3)), False, False, False, False, 0),
        (of("((x*8)+y)", ("x", 3), ("y", 4)), False, False, False, True, 0),
        (of("((y*8)+x)", ("x", 3), ("y", 4)), False, False, False, False, 0),
        (of("((x*8)+v2)", ("x", 3)), False, False, True, False, None),
        (of("v2", ("x", 3)), False, False, True, False, None),
        (of("(x//2)", ("x", 6)), False, False, False, False, 0),
    ],
)
def test_kinds_of_access(e, contiguous, scalar, looked_up, unit, offset):
    assert (e.contiguous, e.scalar, e.looked_up, e.unit_stride, e.offset) == (
        contiguous, scalar, looked_up, unit, offset,
    )  # fmt: skip


@pytest.mark.spec("DP-10")
def test_random_orders_are_found_again():
    r = random.Random(0)
    for _ in range(200):
        rank = r.randint(1, 4)
        sizes = [r.randint(2, 5) for _ in range(rank)]
        strides = r.sample(range(1, 50), rank)
        order = list(range(rank))
        r.shuffle(order)
        index = flatten([symbol(f"x{k}") for k in range(rank)], strides, 2)
        loops = [(f"x{k}", sizes[k]) for k in range(rank)]
        a, b = element("b", index, loops), element("b", index, [loops[k] for k in order])
        assert permutation(a, b) == tuple(order)


@pytest.mark.spec("DP-10")
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (of("((x*4)+y)", ("x", 3), ("y", 4)), of("((x*4)+y)", ("x", 3))),  # other ranks
        (of("((x*4)+y)", ("x", 3), ("y", 4)), of("((x*5)+y)", ("x", 3), ("y", 4))),  # other strides
        (of("((x*4)+y)", ("x", 3), ("y", 4)), of("((x*4)+y)", ("y", 3), ("x", 4))),  # other sizes
        (of("(x+y)", ("x", 3), ("y", 4)), of("(x+y)", ("y", 4), ("x", 3))),  # a stride twice
        (of("((x*4)+y)", ("x", 3), ("y", 4)), of("((x*4)+y+1)", ("y", 4), ("x", 3))),  # elsewhere
        (Element("b", parse_dim("((d0*4)+d1)"), (1, 4)), Element("b", parse_dim("((d1*4)+d0)"), (4, 1))),  # one point
        (of("((x//2)+y)", ("x", 4), ("y", 3)), of("((x//2)+y)", ("y", 3), ("x", 4))),  # no strides
    ],
)
def test_what_strides_do_not_tell_is_refused(a, b):
    assert permutation(a, b) is None


@pytest.mark.spec("DP-02", "IR-44")
def test_a_call_needs_all_of_what_it_is_given_in_lists_and_keywords_too():
    op = Op("y", "aten.f", (Ref("a"), (Ref("b"), (Ref("c"), 3)), 1), (("w", Ref("d")),), ("y", None), mutates=("a",))
    found = accesses_of_call(op)
    assert found.reads == {Whole(n) for n in "abcd"}
    assert found.writes == {Whole("y", "store"), Whole("a", "store")}


@pytest.mark.spec("IR-29")
def test_nothing_is_touched_over_no_points():
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32"], ["f32"]
    (r,) = b.stage((0,))
    b.store(1, r, b.load(0, "f32", r))
    (write,) = accesses_of_loop(b.build(), ["x", "y"]).writes
    assert write.count(None) == 0 and addresses(write) == []
