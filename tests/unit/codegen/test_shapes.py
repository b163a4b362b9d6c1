"""Tiles that are turned, values kept along a row, and sums of columns: against the oracle, and exact sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

from built import build, run
from lowtide.codegen.cpp import kernel
from lowtide.core import native
from lowtide.ir.build import LoopBuilder
from lowtide.ir.index import flatten
from lowtide.ir.interpret import NUMPY, interpret
from lowtide.ir.loops import Loop
from lowtide.ir.symbolic import symbol

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")
TURNED, MATRICES = ("u8", "bool", "i16", "i32", "f32", "f64", "i64"), [(16, 16), (77, 130), (300, 67)]
HALVES, HALF = ("bf16", "f16"), (40, 33)
ROWS = (5, 77, 1024, 3000, 16384, 20_000)
LENGTHS, ACROSS = [(70_000,), (300, 7), (3, 90, 4), (2, 3)], (1, 20, 700)
ADDED = (1, 30, 1000)


def compare(loop: Loop, buffers: list[np.ndarray], **tolerance: float) -> list[np.ndarray]:
    a, b = [x.copy() for x in buffers], [x.copy() for x in buffers]
    interpret(loop, a)
    run(loop, *b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(y, x, **(tolerance or {"rtol": 0, "atol": 0}))
    return b


def turned_copy(dtype: str, n: int, m: int, deep: int = 2) -> Loop:
    b = LoopBuilder()
    b.inputs, b.outputs = [dtype], [dtype]
    d, i, j = b.stage((deep, n, m))
    b.store(1, flatten((d, i, j), (n * m, m, 1)), b.load(0, dtype, flatten((d, i, j), (n * m, 1, n))))
    return b.build()


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """The kernels of this file, compiled together."""
    loops = [turned_copy(dtype, *size) for dtype in TURNED for size in MATRICES]
    loops += [turned_copy(half, *HALF, 1) for half in HALVES] + [softmax(3, width) for width in ROWS]
    loops += [columns(sizes, across) for sizes in LENGTHS for across in ACROSS] + [added(width) for width in ADDED]
    build(loops, 2)


@pytest.mark.spec("IR-29", "IR-39")
@pytest.mark.parametrize("dtype", TURNED)
@pytest.mark.parametrize(("n", "m"), MATRICES)
def test_a_matrix_is_turned(dtype: str, n: int, m: int):
    loop = turned_copy(dtype, n, m)
    assert "turn(" in kernel(loop).text
    data = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, 2 * n * m).astype(NUMPY[dtype])
    compare(loop, [data, np.zeros_like(data)])


@pytest.mark.spec("IR-29")
@pytest.mark.parametrize("half", HALVES)
def test_half_types_are_turned(half: str):
    n, m = HALF
    loop = turned_copy(half, n, m, 1)
    data = np.random.default_rng(0).integers(0, 1000, n * m).astype("u2")
    out = np.zeros_like(data)
    run(loop, data, out)
    np.testing.assert_array_equal(out.reshape(n, m), data.reshape(m, n).T)


@pytest.mark.spec("IR-29")
def test_what_stands_between_turned_loads_and_the_store():
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32", "u8", "f32"], ["f32"]
    n, m = 150, 99
    i, j = b.stage((n, m))
    x = b.load(0, "f32", flatten((i, j), (1, n)))
    mask = b.cast(b.load(1, "u8", flatten((i, j), (1, n))), "f32")
    y = b.load(2, "f32", flatten((i, j), (m, 1)))
    b.store(3, flatten((i, j), (m, 1)), b.op("add", "f32", b.op("mul", "f32", x, mask), y))
    rng = np.random.default_rng(0)
    x_, y_ = (rng.normal(size=n * m).astype("f4") for _ in range(2))
    compare(b.build(), [x_, rng.integers(0, 2, n * m).astype("u1"), y_, np.zeros(n * m, "f4")], rtol=1e-6, atol=1e-6)


def softmax(rows: int, width: int) -> Loop:
    b = LoopBuilder((rows,))
    b.inputs, b.outputs = ["f32"], ["f32", "f32"]

    def powers(most: int | None) -> tuple[object, int]:
        (r,) = b.stage((width,))
        at = flatten((*b.rows, r), (width, 1))
        x = b.load(0, "f32", at)
        return at, x if most is None else b.op("exp", "f32", b.op("sub", "f32", x, most))

    most = b.reduce("max", powers(None)[1])
    total = b.reduce("sum", powers(most)[1])
    b.stage()
    b.store(2, b.rows[0], total)
    at, e = powers(most)
    b.store(1, at, b.op("div", "f32", e, total))  # type: ignore[arg-type]
    return b.build()


@pytest.mark.spec("IR-35")
@pytest.mark.parametrize("width", ROWS)
def test_a_row_keeps_what_a_later_stage_would_compute_again(width: int):
    loop = softmax(3, width)
    assert kernel(loop).text.count("exp_(") == (1 if width <= 16384 else 2)
    x = np.random.default_rng(0).normal(size=3 * width).astype("f4")
    x[:2] = 1e30, -1e30  # extreme logits
    compare(loop, [x, np.zeros(3 * width, "f4"), np.zeros(3, "f4")], rtol=3e-6, atol=1e-30)
    x[width + 1] = np.nan
    y = compare(loop, [x, np.zeros(3 * width, "f4"), np.zeros(3, "f4")], rtol=3e-6, atol=1e-30)[1]
    assert np.isnan(y[width : 2 * width]).all() and not np.isnan(y[:width]).any()


def columns(sizes: tuple[int, ...], across: int) -> Loop:
    """Sums and greatest of as many columns as lie side by side."""
    b = LoopBuilder((across,))
    b.inputs, b.outputs = ["f32"], ["f32", "f32"]
    inner = b.stage(sizes)
    stride, step = [], across
    for n in reversed(sizes):
        stride.insert(0, step)
        step *= n
    x = b.load(0, "f32", flatten((*inner, *b.rows), (*stride, 1)))
    total, most = b.reduce("sum", x), b.reduce("max", x)
    b.stage()
    b.store(1, b.rows[0], total)
    b.store(2, b.rows[0], most)
    return b.build()


@pytest.mark.spec("IR-33", "IR-34")
@pytest.mark.parametrize("sizes", LENGTHS)
@pytest.mark.parametrize("across", ACROSS)
def test_sums_of_columns_lose_nothing_to_their_length(sizes: tuple[int, ...], across: int):
    step = across * math.prod(sizes)
    data = (1 + np.random.default_rng(0).random(step)).astype("f4")
    results = [np.zeros(across, "f4"), np.zeros(across, "f4")]
    run(columns(sizes, across), data, *results)
    exact = data.reshape(-1, across).astype("f8").sum(0)
    assert (np.abs(results[0] - exact) <= 8 * 2.0**-23 * exact).all()
    np.testing.assert_array_equal(results[1], data.reshape(-1, across).max(0))


def added(width: int) -> Loop:
    """200 rows, each added where its number says."""
    b = LoopBuilder((width,))
    b.inputs, b.outputs = ["i64", "f32"], ["f32"]
    (r,) = b.stage((200,))
    at = b.load(0, "i64", r)
    v = b.load(1, "f32", flatten((r, *b.rows), (width, 1)))
    b.store(2, flatten((symbol(f"v{at}"), *b.rows), (width, 1)), v, add=True)
    return b.build()


@pytest.mark.spec("IR-30")
@pytest.mark.parametrize("width", ADDED)
def test_rows_are_added_where_an_index_says(width: int):
    rng = np.random.default_rng(0)
    buffers = [rng.integers(0, 9, 200), rng.normal(size=200 * width).astype("f4"), np.zeros(9 * width, "f4")]
    compare(added(width), buffers, rtol=1e-5, atol=1e-5)


@pytest.mark.spec("IR-37")
def test_running_results_along_rows_and_columns():
    made: list[tuple[Loop, list[np.ndarray]]] = []
    rng = np.random.default_rng(0)
    for dtype in ("i32", "f32"):
        for kind in ("sum", "prod", "max", "min"):
            for stride in ((40, 1), (1, 30)):
                b = LoopBuilder((30,))
                b.inputs, b.outputs = [dtype], [dtype]
                (r,) = b.stage((40,))
                at = flatten((*b.rows, r), stride)
                b.store(1, at, b.scan(kind, b.load(0, dtype, at)))
                x = rng.integers(-9, 9, 1200).astype(NUMPY[dtype]) if dtype == "i32" else rng.normal(size=1200)
                x = x.astype(NUMPY[dtype])
                if dtype == "f32":
                    x[37] = np.nan
                made.append((b.build(), [x, np.zeros_like(x)]))
    build((loop for loop, _ in made), 2)
    for loop, buffers in made:
        compare(loop, buffers, rtol=0 if loop.inputs == ("i32",) else 1e-5, atol=1e-6)
