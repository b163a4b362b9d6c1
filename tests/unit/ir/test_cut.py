"""Stages in pieces: no question is left that has one answer in a piece, and every number stays."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowtide.ir.build import LoopBuilder
from lowtide.ir.cut import cut
from lowtide.ir.graph import int_of
from lowtide.ir.guards import narrowed
from lowtide.ir.index import add, flatten
from lowtide.ir.interpret import interpret
from lowtide.ir.loops import Loop, check_loop
from lowtide.ir.symbolic import Dim, symbol


def compare(b: LoopBuilder, op: str, e: Dim, m: int) -> int:
    return b.op(op, "bool", b.index(e), b.counted(m))


def halves(n: int = 64, at: int = 32, outer: tuple[int, ...] = (), more: tuple[int, ...] = (5,)) -> Loop:
    """Two tensors side by side, doubled: [.., at] and [.., n - at]."""
    b = LoopBuilder(outer)
    b.inputs, b.outputs = ["i64", "i64"], ["i64"]
    inner = b.stage((*more, n))
    r, rows = inner[-1], (*b.rows, *inner[:-1])
    sizes = (*outer, *more)

    def place(width: int, e: Dim) -> Dim:
        strides = [width]
        for m in reversed(sizes[1:]):
            strides.insert(0, strides[0] * m)
        return flatten((*rows, e), (*strides[: len(sizes)], 1))

    first = compare(b, "lt", r, at)
    x = b.load(0, "i64", place(at, r), first)
    y = b.load(1, "i64", place(n - at, add(r, -at)), compare(b, "ge", add(r, -at), 0))
    z = b.op("where", "i64", first, x, y)
    b.store(2, place(n, r), b.op("add", "i64", z, z))
    return b.build()


def same(loop: Loop, other: Loop, elements: int = 4096) -> None:
    check_loop(other)
    rng = np.random.default_rng(0)
    given = [rng.integers(-99, 99, elements) for _ in loop.dtypes]
    a, b = [x.copy() for x in given], [x.copy() for x in given]
    interpret(loop, a)
    interpret(other, b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.spec("IR-39")
@pytest.mark.parametrize("outer", [(), (3,)])
def test_a_concatenation_is_done_part_by_part(outer: tuple[int, ...]) -> None:
    loop = halves(outer=outer)
    made = cut(loop)
    same(loop, made)
    assert {x.op for x in made.body} == {"load", "add", "store"}
    assert all(not x.args for x in made.body if x.op == "load")
    wanted = ((5, 32), (5, 32)) if outer else ((32,), (32,))  # a stage alone: the parts of a row one after the other
    assert tuple(s.inner for s in made.stages) == wanted
    assert made.outer == (outer or (5,))


@pytest.mark.parametrize(("n", "at"), [(64, 8), (64, 60), (20, 10)])
def test_pieces_of_few_points_are_not_worth_it(n: int, at: int) -> None:
    loop = halves(n, at)
    assert cut(loop) is loop


@pytest.mark.parametrize("kind", ["reduce", "scan", "accumulate", "fold"])
def test_what_takes_all_points_together_is_not_cut(kind: str) -> None:
    b = LoopBuilder((4,))
    b.inputs, b.outputs = ["i64"], ["i64"]
    (r,) = b.stage((64,))
    (i,) = b.rows
    x = b.load(0, "i64", flatten((i, r), (64, 1)), compare(b, "lt", r, 32))
    if kind == "reduce":
        v = b.reduce("sum", x)
        b.stage()
        b.store(1, i, v)
    elif kind == "scan":
        b.store(1, flatten((i, r), (64, 1)), b.scan("sum", x))
    elif kind == "accumulate":
        b.store(1, flatten((i, r), (64, 1)), x, add=True)
    else:
        b.body.append(type(b.body[0])("fold", "i64", (x,), r, 1))
    loop = b.build()
    check_loop(loop)
    assert cut(loop) is loop


OPERATIONS: dict[str, Callable[[int, int], bool]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
}


@st.composite
def guarded(draw: Callable[..., int]) -> Loop:
    """Elements chosen by several comparisons with one another, at random."""
    dice = random.Random(draw(st.integers(0, 2**32)))
    b = LoopBuilder()
    b.inputs, b.outputs = ["i64", "i64"], ["i64", "i64"]
    i, r = b.stage((3, 96))
    place = flatten((i, r), (96, 1))
    tests = [
        compare(
            b,
            dice.choice(list(OPERATIONS)),
            add(dice.choice((r, r, i, add(r, r))), dice.randint(-40, 40)),
            dice.randint(-20, 120),
        )
        for _ in range(3)
    ]
    tests.append(b.op(dice.choice(("and", "or")), "bool", dice.choice(tests), dice.choice(tests)))
    tests.append(b.op("not", "bool", dice.choice(tests)))
    x = b.load(0, "i64", place, dice.choice(tests) if dice.random() < 0.7 else None)
    y = b.load(1, "i64", place, dice.choice(tests))
    z = b.op("where", "i64", dice.choice(tests), x, y)
    z = b.op("add", "i64", z, b.cast(dice.choice(tests), "i64"))
    b.store(2, place, z, where=dice.choice(tests) if dice.random() < 0.5 else None)
    w = b.load(2, "i64", place)
    b.store(3, place, b.op("where", "i64", dice.choice(tests), w, x))
    return b.build()


@given(guarded())
@settings(deadline=None, max_examples=150)
def test_pieces_compute_the_same(loop: Loop) -> None:
    same(loop, cut(loop))


def test_an_answer_in_front_of_the_ranges_is_there_for_all_pieces() -> None:
    b = LoopBuilder((4,))
    b.inputs, b.outputs = ["i64", "i64"], ["i64", "i64"]
    (i,) = b.rows
    b.stage()
    always = b.op("lt", "bool", b.index(i), b.counted(4))
    b.store(2, i, b.load(0, "i64", i, always))
    (r,) = b.stage((64,))
    place = flatten((i, r), (64, 1))
    half = b.op("lt", "bool", b.index(r), b.counted(32))
    b.store(3, place, b.op("add", "i64", b.load(0, "i64", i, always), b.load(1, "i64", place, half)))
    loop = b.build()
    assert len(cut(loop).stages) == 3
    same(loop, cut(loop))


@given(
    st.integers(-5, 70), st.integers(-5, 70), st.sampled_from(sorted(OPERATIONS)), st.sampled_from(sorted(OPERATIONS))
)
@settings(deadline=None, max_examples=100)
def test_narrowed_ranges_hold_all_points_at_which_the_guard_does(m: int, k: int, first: str, second: str) -> None:
    b = LoopBuilder()
    b.inputs, b.outputs = ["i64"], ["i64"]
    (r,) = b.stage((64,))
    guard = b.op("and", "bool", compare(b, first, r, m), compare(b, second, add(r, 3), k))
    there, ranges, back = narrowed(b.body, guard, b.ranges)
    points = [x for x in range(64) if OPERATIONS[first](x, m) and OPERATIONS[second](x + 3, k)]
    if not there:
        assert not points or (points[0], points[-1]) == (0, 63)
        return
    (low,) = _offsets(there["r0"])
    assert there["r0"] == add(symbol("r0_"), low)
    assert back["r0_"] == add(symbol("r0"), -low)
    assert not points or (points[0], points[-1]) == (low, low + int_of(ranges["r0_"]) - 1)


def _offsets(e: Dim) -> list[int]:
    if isinstance(e, int) or e.op == "sym":
        return [0]
    return [a for a in e.args if isinstance(a, int)]
