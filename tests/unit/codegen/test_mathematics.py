"""The functions of kernel.h against double precision: rounding bounds, infinities, not-a-numbers, denormal numbers."""

from __future__ import annotations

import numpy as np
import pytest

from lowtide.codegen.cpp import kernel
from lowtide.codegen.cpp_source import kernel_sources
from lowtide.core import native
from lowtide.ir.build import LoopBuilder
from lowtide.ir.interpret import interpret
from lowtide.ir.loops import Loop
from lowtide.runtime import kernels

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")

# Largest error in units of 2^-23 of the result.
BOUNDS = {"exp": 2.0, "expm1": 2.5, "log": 1.5, "log1p": 2.5, "tanh": 3.0, "erf": 3.0, "sigmoid": 2.5, "rsqrt": 1.5}
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 88.72, 88.73, 89.5, -87.4, -103.9, -104.1, -150.0, 1e30, -1e30]
EDGES += [9.01, 9.02, 9.03, 3.91, 3.92, 3.93, 1e-38, 1e-42, -1e-42, 3.4e38, -3.4e38, 0.5, -0.5]


def _function(op: str, dtype: str) -> Loop:
    b = LoopBuilder()
    b.inputs, b.outputs = [dtype], [dtype]
    (r,) = b.stage((POINTS.size,))
    b.store(1, r, b.op(op, dtype, b.load(0, dtype, r)))
    return b.build()


_rng = np.random.default_rng(0)
POINTS = np.concatenate(
    [np.linspace(-110, 110, 200_001), _rng.normal(size=100_000), _rng.normal(size=20_000) * 1e-4, EDGES]
).astype("f4")


@pytest.fixture(scope="module")
def loops() -> dict[str, Loop]:
    made = {op: _function(op, "f32") for op in BOUNDS}
    kernels.finish(kernels.start(kernel_sources([kernel(x) for x in made.values()], 1)))
    return made


@pytest.mark.spec("IR-29")
@pytest.mark.parametrize("op", BOUNDS)
def test_error_is_within_its_bound(op: str, loops: dict[str, Loop]):
    k = kernel(loops[op])
    y = np.zeros_like(POINTS)
    numbers = kernels.numbers(",".join(map(str, k.params)))
    kernels.function(k.name, k.buffers)(numbers, POINTS.ctypes.data, y.ctypes.data)
    wide = _function(op, "f64")
    exact = np.zeros(POINTS.size)
    interpret(wide, [POINTS.astype("f8"), exact])
    with np.errstate(over="ignore"):
        rounded = exact.astype("f4")
    np.testing.assert_array_equal(np.isnan(y), np.isnan(rounded))
    infinite = np.isinf(rounded)
    np.testing.assert_array_equal(y[infinite], rounded[infinite])
    there = np.isfinite(rounded)
    least = 2.0**-126 if op == "sigmoid" else 2.0**-149  # 1 / (1 + e^-x) is 0 where e^-x overflows, as in torch
    unit = np.maximum(np.abs(exact[there]) * 2.0**-23, least)
    error = np.abs(y[there] - exact[there]) / unit
    worst = int(error.argmax())
    assert error[worst] <= BOUNDS[op], (op, POINTS[there][worst], y[there][worst], exact[there][worst])
    if op in ("tanh", "erf"):
        assert np.abs(y[there]).max() <= 1
        assert set(np.abs(y[np.abs(POINTS) > 9.1])) == {1.0}
