"""Reductions at the edges of their sizes and values, through the generated kernels."""

from __future__ import annotations

import functools
import operator
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from built import build, call

sys.path.insert(0, str(Path(__file__).parent))

from evaluate import by_oracle, call_kernel, graph_of, lower_call, lowered_results

from lowtide.core import native
from lowtide.ir.build import LoopBuilder
from lowtide.ir.index import flatten
from lowtide.ir.interpret import NUMPY, interpret
from lowtide.ir.loops import Loop
from lowtide.ir.normal import normalise
from lowtide.lowering.lower import lower
from lowtide.lowering.reduction import Parts, parts

pytestmark = [pytest.mark.torch, pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")]


@pytest.mark.spec("IR-31")
def test_no_element_one_and_several():
    """Results have the destination's dtype, also of nothing; one element, or the values of a few, need no reduction."""
    targets = {"sum.dim_IntList": [1], "prod.dim_int": 1, "any.dim": 1, "all.dim": 1}
    choose = {"amax.default": [1], "amin.default": [1], "argmax.default": 1, "argmin.default": 1}
    calls = [
        (f"aten.{name}", (torch.ones(5, n, dtype=dtype) * 3, dim))
        for n in (0, 1, 3, 1000)
        for name, dim in (targets | (choose if n else {})).items()
        for dtype in (torch.bool, torch.int32)
        if "prod" not in name or dtype != torch.bool
    ]
    lowered = [lower_call(*c) for c in calls]
    build([loop for low, _, _ in lowered for loop in low.loops.values()], 2)
    for (target, (x, _)), (low, tensors, expected) in zip(calls, lowered, strict=True):
        (loop,) = low.loops.values()
        few = x.shape[1] in (1, 3) and "arg" not in target
        assert loop.pointwise == few, target
        if not few:
            assert (loop.outer, loop.stages[0].inner) == ((5,), (x.shape[1],))
            assert any(i.op == "reduce" for i in normalise(loop).body) == (x.shape[1] != 1), target
        for run in (call_kernel, by_oracle):
            found = lowered_results(low, tensors, run)["y0"]
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, msg=lambda m, t=target, x=x: f"{t} {x.dtype} {x.shape}: {m}")


@pytest.mark.spec("IR-31")
@pytest.mark.parametrize("target", ["amax.default", "amin.default", "argmax.default", "argmin.default"])
def test_nothing_has_no_greatest_element(target: str):
    """ATen says so itself; the rule leaves it to it."""
    x, dim = torch.zeros(3, 0), [1] if "arg" not in target else 1
    with pytest.raises((IndexError, RuntimeError)):
        lower_call(f"aten.{target}", (x, dim))
    graph, _ = graph_of(f"aten.{target}", (x, dim), {}, torch.zeros(3))
    found = lower(graph)
    assert not found.loops and "no element to choose from" in found.reasons[0].because


KINDS = ("sum", "prod", "max", "min", "argmax", "argmin")


def folds(dtype: str, rows: int, width: int, form: str) -> tuple[Loop, list[str]]:
    """Every combination of rows of one matrix: each row by itself, columns of its transpose, or one row as the whole."""
    kinds = [*KINDS, "welford.mean"] if dtype[0] == "f" else [*KINDS, "xor"]
    b = LoopBuilder(() if form == "whole" else (rows,))
    b.inputs, b.outputs = [dtype], ["i64" if k.startswith("arg") else dtype for k in kinds]
    (r,) = b.stage((width,))
    index = flatten((*b.rows, r), {"whole": (1,), "rows": (width, 1), "columns": (1, rows)}[form])
    x = b.load(0, dtype, index)
    found = [
        b.several("welford", x)[0] if k == "welford.mean" else b.reduce(k, x, "i64" if k.startswith("arg") else dtype)
        for k in kinds
    ]
    b.stage()
    for k, v in enumerate(found):
        b.store(1 + k, b.rows[0] if b.rows else 0, v)
    return b.build(), kinds


def by_hand(kind: str, row: np.ndarray) -> object:
    odd = [i for i, v in enumerate(row.tolist()) if v != v]
    if kind == "welford.mean":
        with np.errstate(all="ignore"):
            return row.astype("f8").mean()
    if kind == "xor":
        return functools.reduce(operator.xor, row.tolist())
    if kind in ("sum", "prod"):
        with np.errstate(all="ignore"):
            return (np.sum if kind == "sum" else np.prod)(row, dtype=row.dtype)
    best = max if "max" in kind else min
    at = odd[0] if odd else row.tolist().index(best(row.tolist()))
    return at if kind.startswith("arg") else row[at]


def matrix(dtype: str) -> np.ndarray:
    kind = NUMPY[dtype]
    if dtype[0] == "f":
        inf, nan = np.inf, np.nan
        rows = [
            [-inf] * 5, [inf] * 5, [inf, -inf, 1, 2, 3], [1, nan, 3, nan, inf], [nan] * 5, [2, 2, 1, 2, 1],
            [-1e30, -2e30, -1e30, -3, -4], [-0.0, 0.0, -0.0, 0.0, 0.0], [0.5, -0.25, 3, 3, -7],
        ]  # fmt: skip
    else:
        lo, hi = np.iinfo(kind).min, np.iinfo(kind).max
        rows = [[lo] * 5, [hi] * 5, [lo, hi, hi, lo, 1], [3, 3, 2, 2, 3], [1, 0, 0, 1, 0], [hi, 2, 3, 4, 5]]
    return np.array(rows, kind)


@pytest.mark.spec("IR-32")
@pytest.mark.parametrize("dtype", ["u8", "i8", "i64", "f32"])
def test_every_way_to_combine_beside_a_fold_by_hand(dtype: str):
    """Extremes of the dtype are no neutral elements but values; NaN wins; of equal ones the first; of equal infinities the
    mean is that infinity."""
    x = matrix(dtype)
    rows, width = x.shape
    made = {form: folds(dtype, rows, width, form) for form in ("rows", "columns", "whole")}
    build((loop for loop, _ in made.values()), 2)
    for form, (loop, kinds) in made.items():
        for row in range(rows) if form == "whole" else (None,):
            given = np.ascontiguousarray(x.T if form == "columns" else x if row is None else x[row])
            many = rows if row is None else 1
            out = [np.zeros(many, "i8" if k.startswith("arg") else NUMPY[dtype]) for k in kinds]
            call(loop, given.reshape(-1), *out)
            for kind, found in zip(kinds, out, strict=True):
                wanted = np.array([by_hand(kind, r) for r in (x if row is None else x[row : row + 1])])
                said = f"{kind} of {dtype}, {form}"
                np.testing.assert_allclose(found.astype("f8"), wanted.astype("f8"), rtol=1e-6, err_msg=said)


@pytest.mark.spec("IR-32")
@pytest.mark.parametrize("dtype", ["u8", "i64", "f32"])
def test_of_nothing_there_is_the_neutral_element(dtype: str):
    least, most = (-np.inf, np.inf) if dtype == "f32" else (np.iinfo(NUMPY[dtype]).min, np.iinfo(NUMPY[dtype]).max)
    wanted = {"sum": 0, "prod": 1, "max": least, "min": most}
    b = LoopBuilder((3,))
    b.inputs, b.outputs = [dtype], [dtype] * len(wanted)
    (r,) = b.stage((0,))
    x = b.load(0, dtype, r)
    found = [b.reduce(k, x) for k in wanted]
    b.stage()
    for k, v in enumerate(found):
        b.store(1 + k, b.rows[0], v)
    loop = b.build()
    build([loop])
    for oracle in (False, True):
        out = [np.full(3, 7, NUMPY[dtype]) for _ in wanted]
        buffers = [np.zeros(1, NUMPY[dtype]), *out]
        if oracle:
            interpret(loop, buffers)
        else:
            call(loop, *buffers)
        assert [o.tolist() for o in out] == [[v] * 3 for v in wanted.values()]


@pytest.mark.spec("IR-34")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_summed_in_single_precision_whatever_the_parts(dtype: torch.dtype):
    """A number of elements that no number of parts divides; the error is that of one rounding at the end."""
    n = 50_021
    x = (0.05 + 0.1 * torch.rand(n, generator=torch.Generator().manual_seed(0))).to(dtype)
    calls = [
        ("aten.sum.default", (x,)),
        ("aten.sum.dim_IntList", (x.expand(3, n).contiguous(), [1])),
        ("aten.sum.dim_IntList", (x[:, None].expand(n, 3).contiguous(), [0])),
    ]
    lowered = [lower_call(*c) for c in calls]
    build([loop for low, _, _ in lowered for loop in low.loops.values()], 2)
    exact = x.double().sum()
    for low, tensors, _ in lowered:
        found = lowered_results(low, tensors, call_kernel)["y0"].double()
        assert ((found - exact).abs() <= torch.finfo(dtype).eps / 2 * exact * 1.001).all(), (found, exact)


@pytest.mark.spec("IR-33")
@pytest.mark.parametrize(
    ("size", "stride", "dims", "wanted"),
    [
        ((100_000, 4), (4, 1), (0,), Parts(0, 128)),
        ((4, 100_000), (1, 4), (1,), Parts(1, 128)),  # the same bytes
        ((100_000, 100), (100, 1), (0,), Parts(0, 8)),
        ((5, 7, 20_000), (140_000, 1, 7), (0, 2), Parts(2, 73)),
        ((100_000, 200), (200, 1), (0,), None),  # columns enough for all threads
        ((4, 100_000), (100_000, 1), (1,), None),  # rows
        ((1_000, 4), (4, 1), (0,), None),  # not worth a second loop
        ((100_000, 1), (1, 1), (0,), None),  # one result: a loop without outer ranges is cut as it is
        ((64, 4, 600, 1), (2400, 1, 4, 1), (0, 2, 3), None),  # no dimension is long enough alone
    ],
    ids=str,
)
def test_what_is_cut_follows_from_the_layout(
    size: tuple[int, ...], stride: tuple[int, ...], dims: tuple[int, ...], wanted: Parts | None
):
    assert parts(size, stride, dims) == wanted


@pytest.mark.spec("IR-33", "IR-34")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_few_long_columns_are_cut_into_parts(dtype: torch.dtype):
    """A length that no number of parts divides: what is left over is reduced behind the parts."""
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(50_021, 3, generator=g) * 100).to(dtype)
    x[7, 1] = x[-1, 2] = 1000
    calls = [
        ("aten.sum.dim_IntList", (x, [0])),
        ("aten.amax.default", (x, [0], True)),
        ("aten.amin.default", (x.t(), [1])),
    ]
    if dtype.is_floating_point:
        calls.append(("aten.mean.dim", (x.view(50_021, 3, 1).expand(-1, 3, 2), [0, 2])))
    lowered = [lower_call(*c) for c in calls]
    build([loop for low, _, _ in lowered for loop in low.loops.values()])
    for (target, (given, dims, *_)), (low, tensors, expected) in zip(calls, lowered, strict=True):
        cut, _ = low.loops.values()
        assert len(cut.outer) == 1 + given.dim() - len(dims), target
        for run in (call_kernel, by_oracle):
            found = lowered_results(low, tensors, run)["y0"]
            if target == "aten.sum.dim_IntList" or "mean" in target:
                by = given.double() if dtype.is_floating_point else given
                exact = by.sum(dims) if "sum" in target else by.mean(dims)
                torch.testing.assert_close(found, exact.to(dtype))
            else:
                assert torch.equal(found, expected), target
