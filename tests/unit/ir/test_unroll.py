"""Reductions written out: the same numbers, and no loop where it does not pay."""

from __future__ import annotations

import numpy as np
import pytest

from built import sum_over
from lowtide.ir.build import LoopBuilder
from lowtide.ir.index import flatten
from lowtide.ir.interpret import NUMPY, interpret
from lowtide.ir.loops import Loop, check_loop
from lowtide.ir.unroll import MOST_POINTS, unrolled


def rows(kind: str, dtype: str, inner: tuple[int, ...], many: int = 7) -> Loop:
    """A row's reduction of x + position, less the row's number."""
    b = LoopBuilder((many,))
    b.inputs, b.outputs = [dtype], [dtype]
    at = b.stage(inner)
    x = b.load(0, dtype, flatten((*b.rows, *at), (inner[0] * inner[1], inner[1], 1)))
    x = b.op("add", dtype, x, b.cast(b.index(at[1]), dtype))
    found = b.reduce(kind, x)
    b.stage()
    b.store(1, b.rows[0], b.op("sub", dtype, found, b.cast(b.index(b.rows[0]), dtype)))
    return b.build()


@pytest.mark.spec("IR-31")
@pytest.mark.parametrize("dtype", ["f32", "i32"])
@pytest.mark.parametrize("kind", ["sum", "prod", "max", "min"])
@pytest.mark.parametrize("inner", [(1, 1), (1, 3), (2, 4)], ids=str)
def test_the_same_numbers_without_a_reduction(kind: str, dtype: str, inner: tuple[int, int]):
    loop = rows(kind, dtype, inner)
    found = unrolled(loop)
    check_loop(found)
    assert found.pointwise and found.stages[0].inner == (7,)
    x = np.random.default_rng(0).integers(-2, 3, (7, *inner)).astype(NUMPY[dtype])
    if dtype == "f32":
        x[1, 0, -1] = x[2, -1, 0] = np.nan
        x[3], x[4, 0, 0] = -np.inf, np.inf
    results = []
    for each in (loop, found):
        out = np.zeros(7, NUMPY[each.outputs[0]])
        interpret(each, [x.reshape(-1), out])
        results.append(out)
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6)


@pytest.mark.spec("IR-31")
def test_truth_values_and_bits():
    for kind, dtype in (("any", "bool"), ("xor", "u8")):
        b = LoopBuilder((4,))
        b.inputs, b.outputs = [dtype], [dtype]
        (r,) = b.stage((3,))
        found = b.reduce(kind, b.load(0, dtype, flatten((*b.rows, r), (3, 1))))
        b.stage()
        b.store(1, b.rows[0], found)
        x = np.array([0, 0, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1], NUMPY[dtype])
        out = np.zeros(4, NUMPY[dtype])
        loop = unrolled(b.build())
        interpret(loop, [x, out])
        assert loop.pointwise and out.tolist() == [0, 1, 1 if kind == "any" else 0, 1]


@pytest.mark.spec("IR-31")
def test_what_stays_a_loop():
    assert unrolled(rows("sum", "f32", (1, MOST_POINTS))).pointwise
    for inner in ((1, MOST_POINTS + 1), (2, 0), (MOST_POINTS, 2)):
        loop = rows("sum", "f32", inner)
        assert unrolled(loop) is loop  # many points, or none
    b = LoopBuilder((4,))
    b.inputs, b.outputs = ["f32"], ["f32"]
    (r,) = b.stage((2,))
    most = b.reduce("sum", b.load(0, "f32", flatten((*b.rows, r), (2, 1))))
    (r,) = b.stage((2,))
    at = flatten((*b.rows, r), (2, 1))
    b.store(1, at, b.op("sub", "f32", b.load(0, "f32", at), most))
    loop = b.build()
    assert unrolled(loop) is loop  # it writes at the points that it reduces
    b = LoopBuilder((4,))
    b.inputs, b.outputs = ["f32"], ["i64"]
    (r,) = b.stage((2,))
    at = b.reduce("argmax", b.load(0, "f32", flatten((*b.rows, r), (2, 1))), "i64")
    b.stage()
    b.store(1, b.rows[0], at)
    loop = b.build()
    assert unrolled(loop) is loop  # positions
    loop = sum_over(2)
    assert unrolled(loop) is loop  # one result
