"""Loops: their text, what makes one well formed, and that normalising keeps their meaning."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_loops import FLOATS, INTS, random_loop

from lowtide.codegen.cpp_ops import scalar
from lowtide.core.errors import VerifyError
from lowtide.ir.access import Element, accesses_of_loop
from lowtide.ir.build import LoopBuilder, compact
from lowtide.ir.index import flatten
from lowtide.ir.interpret import interpret
from lowtide.ir.loops import BITCASTS, Instr, Loop, Stage, check_loop, parse_loop
from lowtide.ir.normal import normalise, reindexed, reorder
from lowtide.ir.symbolic import Dim, evaluate, symbol

SEEDS = st.integers(0, 2**32)


def same_meaning(loop: Loop, other: Loop, buffers: list[np.ndarray]) -> None:
    """The other is well formed, and both leave the same in these buffers."""
    check_loop(other)
    a, b = [x.copy() for x in buffers], [x.copy() for x in buffers]
    interpret(loop, a)
    interpret(other, b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.spec("IR-03", "IR-09")
@settings(deadline=None, max_examples=150)
@given(SEEDS)
def test_text_reads_back(seed: int):
    loop, _ = random_loop(seed, (*INTS, *FLOATS))
    check_loop(loop)
    assert parse_loop(str(loop)) == loop
    assert hash(parse_loop(str(loop))) == hash(loop)


@pytest.mark.spec("IR-39")
@settings(deadline=None, max_examples=150)
@given(SEEDS)
def test_normalising_keeps_the_meaning(seed: int):
    loop, buffers = random_loop(seed, INTS)
    other = normalise(loop)
    same_meaning(loop, other, buffers)
    assert 1 not in other.outer and not any(1 in s.inner for s in other.stages)


@pytest.mark.spec("IR-39")
def test_a_transposed_copy_walks_the_stores():
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32"], ["f32"]
    i, j = b.stage((30, 50))
    b.store(1, flatten((i, j), (1, 30)), b.load(0, "f32", flatten((i, j), (50, 1))))
    stage = normalise(b.build()).stages[0]
    assert stage.inner == (50, 30)
    assert str(stage.body[1].index) == "((r0*30)+r1)"


@pytest.mark.spec("SC-49")
@pytest.mark.parametrize(
    ("strides", "order"),
    [
        ((60, 20, 5, 1), (2, 3, 4, 5)),  # channels first
        ((60, 1, 15, 3), (2, 4, 5, 3)),  # channels last
        ((1, 0, 0, 2), (3, 4, 5, 2)),  # ranges that nothing walks are outermost, as they stood
        ((20, 20, 5, 1), (2, 3, 4, 5)),  # a tie
    ],
)
def test_small_strides_are_innermost(strides: tuple[int, ...], order: tuple[int, ...]):
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32"], ["f32"]
    at = b.stage((2, 3, 4, 5))
    b.store(1, flatten(at, strides), b.load(0, "f32", flatten(at, strides)))
    assert reorder(b.build()).stages[0].inner == order


@pytest.mark.spec("SC-49")
def test_where_stores_and_loads_disagree_the_stores_decide():
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32", "f32"], ["f32"]
    i, j = b.stage((30, 50))
    loads = [b.load(k, "f32", flatten((i, j), (50, 1))) for k in (0, 1)]
    b.store(2, flatten((i, j), (1, 30)), b.op("add", "f32", *loads))
    assert reorder(b.build()).stages[0].inner == (50, 30)


@pytest.mark.spec("SC-49")
def test_the_order_can_be_left_as_it_stands():
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32"], ["f32"]
    i, j = b.stage((30, 50))
    b.store(1, flatten((i, j), (1, 30)), b.load(0, "f32", flatten((i, j), (50, 1))))
    assert [normalise(b.build(), ordered=o).stages[0].inner for o in (True, False)] == [(50, 30), (30, 50)]


@pytest.mark.spec("SC-49")
@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_a_new_order_of_loops_is_a_permutation(seed: int):
    loop, _ = random_loop(seed, INTS)
    other = reorder(loop)
    assert sorted(map(str, other.outer)) == sorted(map(str, loop.outer))
    for s, t in zip(other.stages, loop.stages, strict=True):
        assert sorted(map(str, s.inner)) == sorted(map(str, t.inner))
    assert reorder(other) == other


@pytest.mark.spec("SC-50")
@settings(deadline=None, max_examples=60)
@given(SEEDS, st.randoms(use_true_random=False))
def test_any_order_of_loops_computes_the_same_and_touches_the_same(seed: int, dice: random.Random):
    """And what it touches is read off the new indices: nothing is remembered of the old ones."""
    loop, buffers = random_loop(seed, INTS)

    def turned(sizes: tuple[Dim, ...], letter: str) -> tuple[list[int], dict[str, Dim]]:
        order = list(range(len(sizes)))
        dice.shuffle(order)
        return [int(str(sizes[k])) for k in order], {
            f"{letter}{k}": symbol(f"{letter}{j}") for j, k in enumerate(order)
        }

    outer, rows = turned(loop.outer, "i")
    kept = {"scan", "argmax", "argmin"}  # these count over their ranges in order
    inner: list[list[int]] = []
    points: list[dict[str, Dim]] = []
    for s in loop.stages:
        counts = any(x.op in kept or x.attr in kept for x in s.body)
        sizes, names = ([int(str(n)) for n in s.inner], {}) if counts else turned(s.inner, "r")
        inner.append(sizes)
        points.append(names)
    other = reindexed(loop, outer, rows, inner, points)
    same_meaning(loop, other, buffers)
    called = [str(k) for k in range(len(buffers))]
    was, now = (accesses_of_loop(x, called, merge=False) for x in (loop, other))
    for old, new in ((was.reads, now.reads), (was.writes, now.writes)):
        assert {elements(e) for e in old} == {elements(e) for e in new}


def elements(e: Element) -> tuple[str, frozenset[int]]:
    """The buffer and what is touched of it."""
    points = itertools.product(*(range(int(str(n))) for n in e.loops))
    return e.buffer, frozenset(evaluate(e.index, {f"d{k}": v for k, v in enumerate(p)}) for p in points)


def test_contiguous_dimensions_become_one():
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32"], ["f32"]
    i, j, k = b.stage((3, 4, 5))
    b.store(1, flatten((i, j, k), (20, 5, 1)), b.load(0, "f32", flatten((i, j, k), (20, 5, 1))))
    assert normalise(b.build()).stages[0].inner == (60,)


def _loop(*body: Instr, inner: tuple[int, ...] = (4,)) -> Loop:
    return Loop((), (Stage(inner, body),), ("f32",), ("f32",))


BROKEN = {
    "instruction": _loop(Instr("plus", "f32", (0, 0))),
    "dtype": _loop(Instr("load", "i64", index=symbol("r0"), attr=0)),
    "buffer": _loop(Instr("load", "f32", index=symbol("r0"), attr=7)),
    "index": _loop(Instr("load", "f32", index=symbol("r3"), attr=0)),
    "scope": Loop(
        (), (Stage((4,), (Instr("const", "f32", attr="1.0"),)), Stage((4,), (Instr("neg", "f32", (0,)),))), (), ()
    ),
}


@pytest.mark.spec("IR-31")
@pytest.mark.parametrize("clause", BROKEN)
def test_what_is_not_well_formed_is_refused(clause: str):
    with pytest.raises(VerifyError, match=clause):
        check_loop(BROKEN[clause])


@pytest.mark.spec("IR-31", "IR-72")
@pytest.mark.parametrize(
    "loop",
    [
        Loop((), (Stage((4,), (Instr("const", "object", attr="1"),)),), (), ()),
        Loop((), (Stage((4,), ()),), ("object",), ()),
        Loop((), (Stage((4,), ()),), (), ("object",)),
    ],
    ids=["an instruction", "an input", "an output"],
)
def test_loops_hold_numbers_and_no_objects(loop: Loop):
    with pytest.raises(VerifyError, match=r"'object'.* no dtype of numbers"):
        check_loop(loop)


@pytest.mark.parametrize(
    ("whose", "to"), [("f32", "i64"), ("f16", "i16"), ("bf16", "i16"), ("f32", "u32"), ("i32", "i32")]
)
def test_bits_are_those_of_a_number_that_code_generation_knows(whose: str, to: str):
    body = (Instr("load", whose, index=symbol("r0"), attr=0), Instr("bitcast", to, (0,)))
    with pytest.raises(VerifyError, match=r"bits of|cast to f32"):
        check_loop(Loop((), (Stage((4,), body),), (whose,), ()))


def test_the_bits_that_loops_may_take_are_those_that_code_generation_writes():
    for whose, to in BITCASTS:
        assert scalar(Instr("bitcast", to, (0,)), ["x"], [whose]).endswith("(x)")


def test_half_types_are_not_computed_in():
    with pytest.raises(VerifyError, match="cast to f32"):
        check_loop(
            Loop(
                (), (Stage((4,), (Instr("load", "bf16", index=0, attr=0), Instr("neg", "bf16", (0,)))),), ("bf16",), ()
            )
        )


@pytest.mark.parametrize(
    "text", ["loop", "loop [] in() out()\n  nonsense", "loop [] in() out()\n    v0: f32 = const 1.0"]
)
def test_text_that_is_no_loop(text: str):
    with pytest.raises(VerifyError, match="syntax"):
        parse_loop(text)


def test_what_nothing_needs_is_left_out():
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32", "f32"], ["f32"]
    (r,) = b.stage((8,))
    b.op("exp", "f32", b.load(0, "f32", r))
    b.store(2, r, b.load(1, "f32", r))
    loop, kept = compact(b.build())
    assert [x.op for x in loop.body] == ["load", "store"]
    assert kept == (1,) and loop.inputs == ("f32",)


def test_the_same_thing_is_computed_once():
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32"], ["f32"]
    (r,) = b.stage((8,))
    x, y = b.load(0, "f32", r), b.load(0, "f32", r)
    assert x == y and b.op("exp", "f32", x) == b.op("exp", "f32", y)


@pytest.mark.spec("IR-31")
def test_a_stage_of_one_point_reduces_to_its_value():
    b = LoopBuilder((4,))
    b.stage(())
    v = b.const("f32", 2.0)
    assert b.reduce("sum", v) == v
    assert b.body[b.reduce("argmax", v)].attr == "0"


def test_reductions_of_one_point_and_writes_that_cannot_meet_are_plain():
    loop = parse_loop(
        "loop [] in(bool, f32) out(f32)\n"
        "  stage [1]\n    v0: bool = load 0 [r0]\n    v1: i64 = cast v0\n    v2: i64 = reduce sum v1\n"
        "  stage [1]\n    v3: i64 = index [v2]\n    v4: f32 = load 1 [0]\n    v5: f32 = accumulate 2 [(v3+-1)] v4\n"
    )
    settled = normalise(loop)
    assert not any(x.op == "reduce" for x in settled.body)
    assert not any(s.ordered for s in settled.stages) and loop.stages[1].ordered
    assert not settled.pointwise
    for buffers in ([np.array([True]), np.float32([2.0]), np.float32([1.0])],):
        expected = [b.copy() for b in buffers]
        interpret(loop, expected)
        interpret(settled, buffers)
        assert buffers[2][0] == expected[2][0] == 3.0
