"""Generated C++ against the oracle, on random loops; and what its text promises."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ir"))

from random_loops import FLOATS, INTS, random_loop

from built import build, call, run, sum_over
from lowtide.codegen.cpp import kernel
from lowtide.core import native
from lowtide.ir.build import LoopBuilder
from lowtide.ir.index import flatten
from lowtide.ir.interpret import interpret
from lowtide.ir.loops import Loop, parse_loop

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")


def both(seeds: range, dtypes: tuple[str, ...]):  # type: ignore[no-untyped-def]
    made = [random_loop(s, dtypes) for s in seeds]
    build((loop for loop, _ in made), 2)
    for loop, buffers in made:
        a, b = [x.copy() for x in buffers], [x.copy() for x in buffers]
        interpret(loop, a)
        call(loop, *b)
        yield loop, a, b


@pytest.mark.spec("IR-29", "IR-31", "IR-32")
def test_whole_numbers_bit_for_bit():
    for loop, a, b in both(range(120), INTS):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y, err_msg=str(loop))


@pytest.mark.spec("IR-29")
def test_floats_within_rounding():
    for loop, a, b in both(range(1000, 1080), (*INTS[:1], *FLOATS)):
        for x, y in zip(a, b, strict=True):
            if x.dtype.kind == "f":
                scale = np.max(np.abs(x[np.isfinite(x)]), initial=1.0)
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * scale, err_msg=str(loop))


def _copy(n: int, m: int) -> Loop:
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32"], ["f32"]
    i, j = b.stage((n, m))
    b.store(1, flatten((i, j), (1, n)), b.load(0, "f32", flatten((i, j), (m, 1))))
    return b.build()


def test_loops_over_other_sizes_have_the_same_text():
    a, b = kernel(_copy(30, 50)), kernel(_copy(70, 20))
    assert a.name == b.name and a.text == b.text and a.params != b.params


@pytest.mark.spec("G10", "IR-29")
def test_nothing_happens_over_no_points():
    loop = _copy(0, 50)
    run(loop, np.zeros(0, "f4"), np.zeros(0, "f4"))


@pytest.mark.spec("IR-33", "IR-34")
def test_a_sum_does_not_depend_on_the_number_of_threads():
    import torch

    loop = sum_over(1_000_003)
    build([loop])
    x = np.random.default_rng(0).normal(size=1_000_003).astype("f4")
    results = set()
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = np.zeros(1, "f4")
        call(loop, x, y)
        results.add(float(y[0]))
    torch.set_num_threads(before)
    assert len(results) == 1
    assert abs(results.pop() - x.astype("f8").sum()) < 1e-2


@pytest.mark.spec("IR-22")
def test_an_index_out_of_range_is_reported_and_not_followed():
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32", "i64"], ["f32"]
    (r,) = b.stage((3,))
    i = b.load(1, "i64", r)
    inside = b.op("and", "bool", b.op("ge", "bool", i, b.const("i64", 0)), b.op("lt", "bool", i, b.const("i64", 4)))
    b.check(inside)
    at = b.op("where", "i64", inside, i, b.const("i64", 0))
    from lowtide.ir.symbolic import symbol

    b.store(2, r, b.load(0, "f32", symbol(f"v{at}")))
    loop = b.build()
    build([loop])
    for given, expected in (([0, 3, 1], 0), ([0, 4, 1], 1), ([-1, 0, 0], 1)):
        picked = np.zeros(3, "f4")
        assert call(loop, np.arange(4, dtype="f4"), np.array(given), picked) == expected
        if not expected:
            np.testing.assert_array_equal(picked, [0, 3, 1])


@pytest.mark.spec("IR-31")
def test_what_a_stage_of_one_point_loads_is_there_for_later_stages():
    summed = "  stage []\n    v0: f32 = load 0 [0]\n    v1: f32 = reduce sum v0\n"
    added = "  stage []\n    v2: i64 = load 1 [0]\n    v3: f32 = accumulate 2 [v2] v1\n"
    used = "  stage []\n    v4: i64 = add v2 v2\n    v5: f32 = mul v0 v1\n    v6: f32 = store 2 [v4] v5\n"
    loop = parse_loop(f"loop [] in(f32, i64) out(f32)\n{summed}{added}{used}")
    out = np.zeros(3, "f4")
    run(loop, np.full(1, 3, "f4"), np.full(1, 1, "i8"), out)
    assert out.tolist() == [0, 3, 9]
