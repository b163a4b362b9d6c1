"""Tiles of rows of which some accesses run across: against the oracle, whatever the sizes; and which loops have one."""

from __future__ import annotations

import numpy as np
import pytest

from built import build, call, run
from lowtide.codegen.cpp import kernel
from lowtide.core import native
from lowtide.ir.interpret import NUMPY, interpret
from lowtide.ir.loops import Loop, check_loop, parse_loop
from lowtide.ir.tiles import astray, tile
from lowtide.schedule.rules import CACHED

HELD = CACHED.held_nbytes
pytestmark = [pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler"), pytest.mark.spec("SC-10")]


def crossed(rows: int, width: int, more: int = 1, dtype: str = "f32") -> Loop:
    """``more`` matrices side by side: rows less their sums, with what lies turned added before; the result as it is and
    turned, and the sums and extremes of its columns."""
    at, turned = f"((i0*{rows * width})+(i1*{width})+r0)", f"((i0*{rows * width})+(r0*{rows})+i1)"
    loop = parse_loop(f"""loop [{more}, {rows}] in({dtype}, {dtype}) out({dtype}, {dtype}, {dtype}, {dtype})
  stage [{width}]
    v0: {dtype} = load 0 [{at}]
    v1: {dtype} = load 1 [{turned}]
    v2: {dtype} = add v0 v1
    v3: {dtype} = reduce sum v2
  stage [{width}]
    v4: {dtype} = load 0 [{at}]
    v5: {dtype} = load 1 [{turned}]
    v6: {dtype} = add v4 v5
    v7: {dtype} = sub v6 v3
    v8: {dtype} = store 2 [{at}] v7
    v9: {dtype} = store 3 [{turned}] v7
    v10: {dtype} = fold 4 [r0] v7
    v11: {dtype} = fold_max 5 [r0] v7
""")
    check_loop(loop)
    return loop


def compared(loop: Loop, given: list[np.ndarray], sizes: list[int]) -> None:
    """The kernel of a loop, built before, against the oracle."""
    made = [np.full(n, 77, given[0].dtype) for n in sizes]
    want = [*given, *(m.copy() for m in made)]
    interpret(loop, want)
    call(loop, *given, *made)
    for got, there in zip(made, want[len(given) :], strict=True):
        np.testing.assert_allclose(got, there, rtol=1e-4, atol=1e-3 if got.dtype.kind == "f" else 0)


def test_rows_and_what_lies_turned():
    """Sizes that are no multiples of a tile's, and fewer rows than it has."""
    sizes = [(16, 16, 1), (17, 33, 2), (100, 257, 1), (600, 130, 1), (33, 1500, 3)]
    cases = [(s, dtype) for dtype in ("f32", "f64", "i32") for s in sizes]
    loops = [crossed(rows, width, more, dtype) for (rows, width, more), dtype in cases]
    build(loops, 2)
    rng = np.random.default_rng(0)
    for loop, ((rows, width, more), dtype) in zip(loops, cases, strict=True):
        assert tile(loop, HELD) is not None and kernel(loop).text.count("turn(") == 2
        n = more * rows * width
        given = [(rng.normal(size=n) * 9).astype(NUMPY[dtype]) for _ in range(2)]
        compared(loop, given, [n, n, width, width])


def test_the_number_of_threads_does_not_show():
    """Blocks of tiles, of which folds are joined, follow from sizes alone."""
    torch = pytest.importorskip("torch")
    loop = crossed(600, 130)
    build([loop])
    given = [np.random.default_rng(k).normal(size=600 * 130).astype("f4") for k in range(2)]
    results: list[bytes] = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made = [np.zeros(n, "f4") for n in (600 * 130, 600 * 130, 130, 130)]
            call(loop, *given, *made)
            results.append(b"".join(x.tobytes() for x in made))
    finally:
        torch.set_num_threads(before)
    assert len(set(results)) == 1


def test_results_in_the_memory_of_what_is_read_for_the_last_time():
    """Each at the points that read it: what lies turned is read ahead of its tile and stored behind it."""
    rows, width = 100, 257
    loop = crossed(rows, width)
    build([loop])
    given = [np.random.default_rng(k).normal(size=rows * width).astype("f4") for k in range(2)]
    want = [*(x.copy() for x in given), *(np.zeros(n, "f4") for n in (rows * width, rows * width, width, width))]
    interpret(loop, want)
    columns = [np.zeros(width, "f4") for _ in range(2)]
    call(loop, *given, *given, *columns)
    for got, there in zip((*given, *columns), want[2:], strict=True):
        np.testing.assert_allclose(got, there, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "bool"])
def test_narrow_types_are_turned_as_they_lie(dtype: str):
    rows, width = 70, 90
    loop = parse_loop(f"""loop [{rows}] in({dtype}) out({dtype})
  stage [{width}]
    v0: {dtype} = load 0 [((i0*{width})+r0)]
    v1: {dtype} = store 1 [(i0+(r0*{rows}))] v0
  stage [3]
    v2: {dtype} = load 0 [((i0*{width})+r0)]
    v3: i64 = cast v2
    v4: i64 = reduce sum v3
""")
    assert tile(loop, HELD) is not None and "turn(" in kernel(loop).text
    data = (
        np.random.default_rng(0).integers(0, 2, rows * width).astype("u2" if dtype in ("bf16", "f16") else NUMPY[dtype])
    )
    out = np.zeros_like(data)
    run(loop, data, out)
    np.testing.assert_array_equal(out.reshape(width, rows), data.reshape(rows, width).T)


def test_elements_stored_in_two_orders():
    loop = parse_loop("""loop [] in(f32) out(f32, f32)
  stage [130, 77]
    v0: f32 = load 0 [((r0*77)+r1)]
    v1: f32 = neg v0
    v2: f32 = store 1 [((r0*77)+r1)] v1
    v3: f32 = store 2 [(r0+(r1*130))] v0
""")
    assert "turn(" in kernel(loop).text
    build([loop])
    compared(loop, [np.random.default_rng(0).normal(size=130 * 77).astype("f4")], [130 * 77] * 2)


@pytest.mark.parametrize("outer", [True, False])
def test_what_goes_where_a_loaded_number_says_is_not_turned(outer: bool):
    """A row of a table, chosen by number, read across: its place is not known before a point."""
    loop = parse_loop(
        """loop [64] in(i64, f32, f32) out(f32)
  stage [32]
    v0: i64 = load 0 [0]
    v1: f32 = load 1 [((r0*256)+(v0*64)+i0)]
    v2: f32 = load 2 [((i0*32)+r0)]
    v3: f32 = add v1 v2
    v4: f32 = store 3 [((i0*32)+r0)] v3
"""
        if outer
        else """loop [] in(i64, f32, f32) out(f32)
  stage [64, 32]
    v0: i64 = load 0 [0]
    v1: f32 = load 1 [((r1*256)+(v0*64)+r0)]
    v2: f32 = load 2 [((r0*32)+r1)]
    v3: f32 = add v1 v2
    v4: f32 = store 3 [((r0*32)+r1)] v3
"""
    )
    assert tile(loop, HELD) is None and astray(loop, HELD) == 0
    build([loop])
    rng = np.random.default_rng(0)
    x, w, y = (rng.normal(size=n).astype("f4") for n in (64 * 32, 32 * 256, 64 * 32))
    number = np.array([2])
    want = [number, w, x, y.copy()]
    interpret(loop, want)
    call(loop, number, w, x, y)
    np.testing.assert_array_equal(y, want[-1])


def test_what_the_loop_reads_again_is_not_stored_late():
    """The second stage reads, of each row, what the first has stored turned."""
    loop = parse_loop("""loop [40] in(f32) out(f32, f32)
  stage [30]
    v0: f32 = load 0 [((i0*30)+r0)]
    v1: f32 = store 1 [(i0+(r0*40))] v0
  stage [30]
    v2: f32 = load 1 [(i0+(r0*40))]
    v3: f32 = neg v2
    v4: f32 = store 2 [((i0*30)+r0)] v3
""")
    assert tile(loop, HELD) is None and astray(loop, HELD) == 1
    build([loop])
    compared(loop, [np.random.default_rng(0).normal(size=1200).astype("f4")], [1200, 1200])


def test_a_tile_stays_in_cache_whatever_the_length_of_rows():
    points = {
        ("f32", 100): 32,
        ("f32", 1000): 32,
        ("f32", 4096): 16,
        ("f32", 4097): 0,
        ("f64", 1000): 32,
        ("f64", 3000): 0,
    }
    for (dtype, width), many in points.items():
        found = tile(crossed(400, width, dtype=dtype), HELD)
        assert (found.points if found is not None else 0) == many
    long = tile(crossed(4000, 1024), HELD)
    assert long is not None and long.points == 64 and long.nbytes(crossed(4000, 1024)) == HELD
    assert tile(crossed(400, 100), 1000) is None and astray(crossed(400, 100), 1000) == 2
