"""Reductions with several results of one pass: against double precision, in each shape of kernel, split and not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from built import build, run
from lowtide.codegen.cpp import kernel
from lowtide.core import native
from lowtide.core.errors import VerifyError
from lowtide.ir.build import LoopBuilder
from lowtide.ir.index import flatten
from lowtide.ir.interpret import interpret
from lowtide.ir.loops import SEVERAL, Loop, check_loop, parse_loop

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")
DTYPE = {"f32": "f4", "f64": "f8"}


def over(
    family: str, dtype: str, outer: tuple[int, ...], inner: tuple[int, ...], across: bool, operands: int = 1
) -> Loop:
    """The family over ``inner`` at each point of ``outer``, all its results stored. ``across``: memory runs along outer."""
    b = LoopBuilder(outer)
    b.inputs, b.outputs = [dtype] * operands, [dtype] * len(SEVERAL[family])
    r = b.stage(inner)
    order = (*inner, *outer) if across else (*outer, *inner)
    stride, step = [], 1
    for n in reversed(order):
        stride.insert(0, step)
        step *= n
    at = flatten((*r, *b.rows) if across else (*b.rows, *r), stride)
    made = b.several(family, *(b.load(k, dtype, at) for k in range(operands)))
    b.stage()
    rows, step = [], 1
    for n in reversed(outer):
        rows.insert(0, step)
        step *= n
    for k, v in enumerate(made):
        b.store(operands + k, flatten(b.rows, rows), v)
    return b.build()


def outputs(loop: Loop, given: list[np.ndarray], made: int) -> list[np.ndarray]:
    """The outputs of the kernel."""
    size = int(np.prod(loop.outer)) if loop.outer else 1
    out = [np.full(size, 7, given[0].dtype) for _ in range(made)]
    run(loop, *given, *out)
    return out


SHAPES = {
    "flat": ((), (70_001,), False),
    "flat, two ranges": ((), (37, 1031), False),
    "flat, one": ((), (1,), False),
    "flat, none": ((), (0,), False),
    "rows": ((5,), (1300,), False),
    "rows, two ranges": ((3, 2), (7, 601), False),
    "rows, one": ((6,), (1,), False),
    "rows, none": ((6,), (0,), False),
    "columns": ((77,), (613,), True),
    "columns, two ranges": ((4, 33), (9, 20), True),
}


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """All kernels of this file, compiled together."""
    cases = itertools.product(SEVERAL, DTYPE, SHAPES.values())
    loops = [over(f, t, *shape) for f, t, shape in cases]
    build(loops, 2)


def rows_of(x: np.ndarray, outer: tuple[int, ...], inner: tuple[int, ...], across: bool) -> np.ndarray:
    many = int(np.prod(outer)) if outer else 1
    return (x.reshape(-1, many).T if across else x.reshape(many, -1)).astype("f8")


@pytest.mark.spec("IR-36")
@pytest.mark.parametrize("dtype", DTYPE)
@pytest.mark.parametrize("shape", SHAPES)
def test_moments_far_from_zero(shape: str, dtype: str):
    outer, inner, across = SHAPES[shape]
    x = np.random.default_rng(0).normal(1e4, 1e-2, (int(np.prod((*outer, *inner))))).astype(DTYPE[dtype])
    mean, squares, weight = outputs(over("welford", dtype, outer, inner, across), [x], 3)
    exact = rows_of(x, outer, inner, across)
    n = exact.shape[1]
    np.testing.assert_array_equal(weight, n)
    np.testing.assert_allclose(mean, exact.mean(axis=1) if n else 0, rtol=1e-7 if dtype == "f32" else 1e-14)
    wanted = exact.var(axis=1) * n if n else np.zeros(len(mean))
    np.testing.assert_allclose(squares, wanted, rtol=1e-4 if dtype == "f32" else 1e-9, atol=1e-30)


@pytest.mark.spec("IR-35")
@pytest.mark.parametrize("dtype", DTYPE)
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-3])
@pytest.mark.parametrize("shape", SHAPES)
def test_exponents_of_extreme_logits(shape: str, scale: float, dtype: str):
    outer, inner, across = SHAPES[shape]
    rng = np.random.default_rng(1)
    x = (rng.normal(size=int(np.prod((*outer, *inner)))) * scale).astype(DTYPE[dtype])
    x[rng.random(x.size) < 0.2] = -np.inf
    most, total = outputs(over("softmax", dtype, outer, inner, across), [x], 2)
    exact = rows_of(x, outer, inner, across)
    top = exact.max(axis=1, initial=-np.inf)
    np.testing.assert_array_equal(most, top)
    with np.errstate(invalid="ignore"):
        wanted = np.where(exact == -np.inf, 0, np.exp(exact - np.where(top == -np.inf, 0, top)[:, None])).sum(axis=1)
    np.testing.assert_allclose(total, wanted, rtol=1e-5 if dtype == "f32" else 1e-13)


@pytest.mark.spec("IR-35", "IR-36")
@pytest.mark.parametrize("shape", ["flat", "rows", "columns"])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("family", SEVERAL)
def test_what_is_not_finite(family: str, shape: str, odd: float):
    outer, inner, across = SHAPES[shape]
    loop = over(family, "f32", outer, inner, across)
    x = np.random.default_rng(2).normal(size=int(np.prod((*outer, *inner)))).astype("f4")
    x[[3, 1100 if x.size > 2000 else 500]] = odd
    made = outputs(loop, [x], len(SEVERAL[family]))
    wanted = [np.zeros_like(m) for m in made]
    interpret(loop, [x, *wanted])
    for got, want in zip(made, wanted, strict=True):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(got[np.isinf(want)], want[np.isinf(want)])


@pytest.mark.spec("IR-34", "IR-36", "IR-35")
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("family", SEVERAL)
def test_parts_of_uneven_length_join_to_the_whole(family: str, across: bool):
    """Two layers: blocks of 100 points of 1003, the last of which has 3, and one of none; then their results joined."""
    rng = np.random.default_rng(3)
    x = rng.normal(1e4 if family == "welford" else 0, 1e-2 if family == "welford" else 300, (6, 1003)).astype("f4")
    many, parts = len(SEVERAL[family]), []
    for lo in range(0, 1200, 100):
        block = np.ascontiguousarray(x[:, lo : lo + 100].T if across else x[:, lo : lo + 100])
        width = block.shape[0 if across else 1]
        parts.append(outputs(over(family, "f32", (6,), (width,), across), [block.ravel()], many))
    joined = [np.stack([p[k] for p in parts], axis=0 if across else 1) for k in range(many)]
    second = over(family, "f32", (6,), (len(parts),), across, operands=many)
    got = outputs(second, [np.ascontiguousarray(j).ravel() for j in joined], many)
    whole = outputs(over(family, "f32", (6,), (1003,), False), [x.ravel()], many)
    for a, b in zip(got, whole, strict=True):
        # a part's mean is kept in f32, whose unit is a tenth of the deviation
        np.testing.assert_allclose(a, b, rtol=5e-3)
    wanted = [np.zeros(6, "f4") for _ in range(many)]
    interpret(second, [*(np.ascontiguousarray(j).ravel() for j in joined), *wanted])
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4)


@pytest.mark.spec("IR-36", "IR-35")
@pytest.mark.parametrize("family", SEVERAL)
def test_what_weighs_nothing_counts_nothing(family: str):
    """Masked parts may hold anything: numbers, infinities, not-a-numbers."""
    rows = {"welford": [[5.0, np.nan, 7.0, np.inf], [1.0, np.nan, 2.0, 3.0], [2.0, 0.0, 2.0, 0.0]]}
    rows["softmax"] = [[5.0, np.nan, 7.0, np.inf], [1.0, 0.0, 2.0, 0.0]]
    given = [np.float32(r) for r in rows[family]]
    got = outputs(over(family, "f32", (), (4,), False, operands=len(given)), given, len(given))
    wanted = [6.0, 7.0, 4.0] if family == "welford" else [7.0, 2 + np.exp(-2.0)]
    np.testing.assert_allclose([g[0] for g in got], wanted, rtol=1e-6)


@pytest.mark.spec("IR-35")
@pytest.mark.parametrize("family", SEVERAL)
def test_the_results_of_a_pass_are_outputs_of_one_kernel_and_one_pass(family: str):
    loop = over(family, "f32", (8,), (300,), False)
    assert len(loop.outputs) == len(SEVERAL[family]) and parse_loop(str(loop)) == loop
    check_loop(loop)
    assert kernel(loop).text.count("join_run(") == 1


@pytest.mark.spec("IR-35")
def test_a_pass_of_several_results_takes_what_it_is_defined_on():
    text = str(over("welford", "f32", (8,), (300,), False))
    with pytest.raises(VerifyError, match="no kind"):
        check_loop(parse_loop(text.replace("welford.mean", "welford.median")))
    with pytest.raises(VerifyError, match="operands"):
        check_loop(parse_loop(text.replace("welford.mean v0", "welford.mean v0 v0")))
    with pytest.raises(VerifyError, match="dtype"):
        check_loop(parse_loop(text.replace("in(f32)", "in(i64)").replace("v0: f32", "v0: i64")))


@pytest.mark.spec("IR-34")
@pytest.mark.parametrize("family", SEVERAL)
def test_the_number_of_threads_does_not_show(family: str):
    import torch

    loop = over(family, "f32", (), (70_001,), False)
    x = np.random.default_rng(0).normal(size=70_001).astype("f4")
    before, seen = torch.get_num_threads(), set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        seen.add(tuple(float(y[0]) for y in outputs(loop, [x], len(SEVERAL[family]))))
    torch.set_num_threads(before)
    assert len(seen) == 1
