"""Sums over outer points in a pass over them: against the oracle and exact sums, whatever the number of threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from built import build, call, run
from lowtide.codegen.cpp import kernel
from lowtide.core import native
from lowtide.core.errors import VerifyError
from lowtide.ir.interpret import NUMPY, interpret
from lowtide.ir.loops import Loop, check_loop, parse_loop

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")
ROWS = [(2, 5), (7, 16), (9, 1), (40, 300), (1000, 96), (129, 2730)]
MORE_ROWS = [(2, 1), (9, 300), (1000, 96)]
SUMMED, COMPARED = ("f32", "f64", "i64", "i32"), ("f32", "i64", "u8", "bool")
MANY, WIDTHS = (777, 200), {1000: True, 1 << 14: False}


def gradients(rows: int, width: int, dtype: str = "f32") -> Loop:
    """Of a normalisation of rows: that of its operand, and, summed over the rows, those of its weight and bias."""
    return parse_loop(f"""loop [{rows}] in({dtype}, {dtype}, {dtype}) out({dtype}, {dtype}, {dtype})
  stage [{width}]
    v0: {dtype} = load 0 [((i0*{width})+r0)]
    v1: {dtype} = load 1 [((i0*{width})+r0)]
    v2: {dtype} = mul v0 v1
    v3: {dtype} = reduce sum v2
    v4: {dtype} = fold 4 [r0] v2
    v5: {dtype} = fold 5 [r0] v0
  stage [{width}]
    v6: {dtype} = load 0 [((i0*{width})+r0)]
    v7: {dtype} = load 2 [r0]
    v8: {dtype} = mul v6 v7
    v9: {dtype} = sub v8 v3
    v10: {dtype} = store 3 [((i0*{width})+r0)] v9
""")


def extremes(rows: int, width: int, dtype: str) -> Loop:
    """The greatest and the least of each column."""
    return parse_loop(f"""loop [{rows}] in({dtype}) out({dtype}, {dtype})
  stage [{width}]
    v0: {dtype} = load 0 [((i0*{width})+r0)]
    v1: {dtype} = fold_max 1 [r0] v0
    v2: {dtype} = fold_min 2 [r0] v0
""")


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """The kernels of this file, compiled together."""
    loops = [gradients(*size, dtype) for size in ROWS for dtype in SUMMED]
    loops += [extremes(*size, dtype) for size in MORE_ROWS for dtype in COMPARED]
    build([*loops, gradients(*MANY), *map(kept_beside_folds, WIDTHS)], 2)


@pytest.mark.spec("IR-33", "IR-34", "SC-52")
@pytest.mark.parametrize("dtype", SUMMED)
@pytest.mark.parametrize(("rows", "width"), ROWS)
def test_sums_over_rows_beside_what_is_made_of_each(dtype: str, rows: int, width: int):
    rng = np.random.default_rng(0)
    whole = dtype[0] == "i"

    def data(n: int) -> np.ndarray:
        return (rng.integers(-9, 9, n) if whole else rng.normal(size=n)).astype(NUMPY[dtype])

    n = rows * width
    given = [data(n), data(n), data(width)]
    loop = gradients(rows, width, dtype)
    check_loop(loop)
    made = [np.full(k, 77, NUMPY[dtype]) for k in (n, width, width)]
    want = [*given, *(x.copy() for x in made)]
    interpret(loop, want)
    run(loop, *given, *made)
    for x, y in zip(want[3:], made, strict=True):
        if whole:
            np.testing.assert_array_equal(x, y)
        else:
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-4)
    exact = given[0].astype("f8").reshape(rows, width)
    assert (np.abs(made[2] - exact.sum(0)) <= 40 * 2.0**-23 * np.abs(exact).sum(0)).all()


@pytest.mark.spec("IR-33")
def test_elements_in_other_places_than_the_points_of_a_row():
    """Twelve heads of five, stored turned, over two outer ranges; one of the sums over part of what the rows hold."""
    loop = parse_loop("""loop [30, 7] in(f32) out(f32, f64)
  stage [12, 5]
    v0: f32 = load 0 [((i0*420)+(i1*60)+(r0*5)+r1)]
    v1: f32 = fold 1 [((r1*12)+r0)] v0
  stage [4]
    v2: f32 = load 0 [((i0*420)+(i1*60)+r0+3)]
    v3: f64 = cast v2
    v4: f64 = fold 2 [((r0*2)+1)] v3
""")
    check_loop(loop)
    x = np.random.default_rng(0).normal(size=30 * 7 * 60).astype("f4")
    a, b = np.full(60, 7, "f4"), np.full(9, 7, "f8")
    run(loop, x, a, b)
    grid = x.reshape(210, 60).astype("f8")
    np.testing.assert_allclose(a.reshape(5, 12), grid.sum(0).reshape(12, 5).T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(b[1::2], grid.sum(0)[3:7], rtol=1e-4, atol=1e-4)
    assert (b[::2] == 7).all()


@pytest.mark.spec("IR-32")
def test_the_number_of_threads_does_not_show():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    rows, width = MANY
    given = [rng.normal(size=n).astype("f4") for n in (rows * width, rows * width, width)]
    results: list[bytes] = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made = [np.zeros(n, "f4") for n in (rows * width, width, width)]
            run(gradients(rows, width), *given, *made)
            results.append(b"".join(x.tobytes() for x in made))
    finally:
        torch.set_num_threads(before)
    assert len(set(results)) == 1


def kept_beside_folds(width: int) -> Loop:
    """Ten costly values of each element, added up twice, and the second time summed over the rows."""
    v, lines = 0, ["loop [9] in(f64) out(f64, f64)"]

    def put(text: str) -> int:
        nonlocal v
        lines.append(f"    v{v}: f64 = {text}")
        v += 1
        return v - 1

    def costly() -> int:
        found = put(f"load 0 [((i0*{width})+r0)]")
        total = put("const 0")
        for _ in range(10):
            found = put(f"sin v{found}")
            total = put(f"add v{total} v{found}")
        return total

    lines.append(f"  stage [{width}]")
    mean = put(f"reduce max v{costly()}")
    lines.append(f"  stage [{width}]")
    put(f"fold 1 [r0] v{put(f'sub v{costly()} v{mean}')}")
    lines.append("  stage []")
    put(f"store 2 [i0] v{mean}")
    return parse_loop("\n".join(lines) + "\n")


@pytest.mark.spec("IR-33")
@pytest.mark.parametrize(("width", "kept"), WIDTHS.items())
def test_what_lies_on_a_stack_fits_in_a_thread_s(width: int, kept: bool):
    """Partial results of as many elements as folds may have take 1 MiB of 2, so that nothing is kept along the row."""
    loop = kept_beside_folds(width)
    check_loop(loop)
    assert ("double row" in kernel(loop).text) == kept
    build([loop])
    x = np.random.default_rng(0).normal(size=9 * width)
    made = [np.zeros(width), np.zeros(9)]
    want = [x, *(m.copy() for m in made)]
    interpret(loop, want)
    before = threading.stack_size(2 << 20)
    try:
        thread = threading.Thread(target=call, args=(loop, x, *made))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    for got, there in zip(made, want[1:], strict=True):
        np.testing.assert_allclose(got, there, rtol=1e-9, atol=1e-9)


@pytest.mark.spec("SC-10")
@pytest.mark.parametrize(
    ("old", "new", "clause"),
    [
        ("fold 4", "fold 1", "buffer"),
        ("fold 5 [r0]", "fold 4 [r0]", "buffer"),
        ("fold 5 [r0]", "fold_max 4 [r0]", "buffer"),
        ("fold 4 [r0]", "fold_min 4 [i0]", "index"),
        ("fold 4 [r0]", "fold 4 [((i0*8)+r0)]", "index"),
        ("loop [3]", "loop []", "index"),
        ("f32", "f16", "dtype"),
    ],
)
def test_what_is_no_fold(old: str, new: str, clause: str):
    text = str(gradients(3, 8)).replace(old, new)
    with pytest.raises(VerifyError, match=clause):
        check_loop(parse_loop(text))


@pytest.mark.spec("SC-10")
@pytest.mark.parametrize("dtype", COMPARED)
@pytest.mark.parametrize(("rows", "width"), MORE_ROWS)
def test_extremes_over_rows(dtype: str, rows: int, width: int):
    loop = extremes(rows, width, dtype)
    check_loop(loop)
    rng, n = np.random.default_rng(0), rows * width
    x = (rng.normal(size=n) if dtype == "f32" else rng.integers(0, 2 if dtype == "bool" else 99, n)).astype(
        NUMPY[dtype]
    )
    if dtype == "f32":
        x -= 9 + 2 * width  # all below 0
        x[0] = np.nan
    made = [np.ones(width, NUMPY[dtype]) for _ in range(2)]
    want = [x, *(m.copy() for m in made)]
    interpret(loop, want)
    run(loop, x, *made)
    for got, there, extreme in zip(made, want[1:], (np.max, np.min), strict=True):
        np.testing.assert_array_equal(got, there)
        np.testing.assert_array_equal(got, extreme(x.reshape(rows, width), axis=0))
