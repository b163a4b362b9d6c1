"""The functions of kernel.h against double precision: rounding bounds, infinities, not-a-numbers, denormal numbers."""

from __future__ import annotations

import subprocess

import mpmath
import numpy as np
import pytest

from built import run
from lowtide.codegen.cpp import kernel
from lowtide.codegen.cpp_source import kernel_sources
from lowtide.core import native
from lowtide.ir.build import LoopBuilder
from lowtide.ir.interpret import interpret
from lowtide.ir.loops import Loop
from lowtide.program import Source
from lowtide.runtime import kernels

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")

# Largest error in units of 2^-23 of the result.
BOUNDS = {
    "sin": 2.0,
    "cos": 2.0,
    "exp": 2.0,
    "expm1": 2.5,
    "log": 1.5,
    "log1p": 2.5,
    "tanh": 3.0,
    "erf": 3.0,
    "exp2": 1.5,
    "log2": 2.0,
    "log10": 2.5,
    "tan": 3.0,
    "sigmoid": 2.5,
    "rsqrt": 1.5,
}
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 88.72, 88.73, 89.5, -87.4, -103.9, -104.1, -150.0, 1e30, -1e30]
EDGES += [9.01, 9.02, 9.03, 3.91, 3.92, 3.93, 1e-38, 1e-42, -1e-42, 3.4e38, -3.4e38, 0.5, -0.5]


def _elementwise(op: str, dtype: str, n: int, operands: int = 1) -> Loop:
    b = LoopBuilder()
    b.inputs, b.outputs = [dtype] * operands, [dtype]
    (r,) = b.stage((n,))
    b.store(operands, r, b.op(op, dtype, *(b.load(k, dtype, r) for k in range(operands))))
    return b.build()


def _apply(loop: Loop, given: list[np.ndarray]) -> np.ndarray:
    y = np.zeros_like(given[0])
    run(loop, *given, y)
    return y


@pytest.fixture(scope="module", autouse=True)
def sources() -> tuple[Source, ...]:
    """The functions over both types, and powers, compiled together. Kernels over other sizes have the same text."""
    loops = [_elementwise(op, t, 64) for op in {**BOUNDS, **WIDE_BOUNDS} for t in ("f32", "f64")]
    loops += [_elementwise("pow", t, 64, 2) for t in ("f32", "f64")]
    made = kernel_sources(list(map(kernel, loops)), 2)
    kernels.finish(kernels.start(made))
    return made


_rng = np.random.default_rng(0)
POINTS = np.concatenate(
    [np.linspace(-110, 110, 200_001), _rng.normal(size=100_000), _rng.normal(size=20_000) * 1e-4, EDGES]
).astype("f4")


@pytest.mark.spec("IR-29")
@pytest.mark.parametrize("op", BOUNDS)
def test_error_is_within_its_bound(op: str):
    y = _apply(_elementwise(op, "f32", POINTS.size), [POINTS])
    exact = np.zeros(POINTS.size)
    interpret(_elementwise(op, "f64", POINTS.size), [POINTS.astype("f8"), exact])
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


# -- double precision, and powers, against numbers of 200 bits ------------------------------------------------------

# Largest error in units of the last place of the result.
WIDE_BOUNDS = {
    "exp": 2.0, "expm1": 3.0, "log": 1.5, "log1p": 2.0, "tanh": 3.0, "sin": 2.5, "cos": 2.5, "sigmoid": 3.0, "exp2": 1.5,
    "log2": 2.5, "log10": 2.5, "tan": 3.5, "erf": 2.5,
}  # fmt: skip
_HUGE = 10.0 ** _rng.uniform(-300, 308, 500) * _rng.choice((-1.0, 1.0), 500)
# Among doubles, about the nearest to a multiple of pi / 2 that there is (J.-M. Muller, Elementary Functions).
_NEAR = [
    6381956970095103.0 * 2.0**797,
    np.pi / 2,
    np.pi,
    3 * np.pi / 2,
    22.0,
    355.0,
    5e-324,
    2.2e-308,
    1.7e308,
    2.0**53,
]
WIDE = np.concatenate(
    [_rng.normal(size=500) * 3, _rng.uniform(-750, 750, 500), _rng.normal(size=200) * 1e-3, _HUGE, _NEAR]
)


def _exact(op: str, x: float) -> mpmath.mpf:
    v = mpmath.mpf(x)
    if op == "sigmoid":
        return 1 / (1 + mpmath.exp(-v))
    least = {"log": 0, "log2": 0, "log10": 0, "log1p": -1}.get(op, -np.inf)
    if x <= least:
        return mpmath.nan if x < least else -mpmath.inf
    if op in ("exp2", "log2"):
        return mpmath.power(2, v) if op == "exp2" else mpmath.log(v, 2)
    return getattr(mpmath, op)(v)


def _units(found: np.ndarray, exact: list[mpmath.mpf]) -> np.ndarray:
    """Error in units of the last place, where the exact value is one of the dtype; the others are looked at."""
    one = found.dtype.type
    tiny, digits = (2.0**-149, 24) if one is np.float32 else (5e-324, 53)
    out = np.zeros(len(exact))
    for k, (y, e) in enumerate(zip(found.tolist(), exact, strict=True)):
        if mpmath.isnan(e) or mpmath.isinf(e) or mpmath.isinf(one(float(e))):
            wanted = float(e) if not mpmath.isnan(e) else np.nan
            assert np.array_equal(one(y), one(wanted), equal_nan=True), (k, y, wanted)
            continue
        unit = max(mpmath.ldexp(1, int(mpmath.floor(mpmath.log(abs(e), 2))) - digits + 1) if e else 0, mpmath.mpf(tiny))
        out[k] = abs(mpmath.mpf(y) - e) / unit if np.isfinite(y) else np.inf
    return out


@pytest.mark.spec("IR-29")
@pytest.mark.parametrize("op", WIDE_BOUNDS)
def test_double_precision(op: str):
    y = _apply(_elementwise(op, "f64", WIDE.size), [WIDE])
    with mpmath.workprec(1300 if op in ("sin", "cos", "tan") else 200):
        error = _units(y, [_exact(op, x) for x in WIDE.tolist()])
    least = np.abs(WIDE) < 700 if op == "sigmoid" else np.ones(WIDE.size, bool)  # 0 where e^-x overflows, as in torch
    worst = int(np.where(least, error, 0).argmax())
    assert error[worst] <= WIDE_BOUNDS[op], (op, WIDE[worst], y[worst], error[worst])
    ends = np.array([0.0, -0.0, np.inf, -np.inf, np.nan])
    with np.errstate(all="ignore"):
        wanted = np.zeros(5)
        interpret(_elementwise(op, "f64", 5), [ends, wanted])
    found = _apply(_elementwise(op, "f64", 5), [ends])
    np.testing.assert_array_equal(found, wanted)
    some = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(found[some]), np.signbit(wanted[some]))


@pytest.mark.spec("IR-29")
@pytest.mark.parametrize("op", ["sin", "cos", "tan"])
def test_single_precision_of_any_size(op: str):
    x = np.float32(10.0 ** _rng.uniform(-44, 38.5, 200_000) * _rng.choice((-1.0, 1.0), 200_000))
    x[:3] = [16367173.0 * 2.0**72, 3.4028234e38, 1e-45]  # the first is next to a multiple of pi / 2
    y = _apply(_elementwise(op, "f32", x.size), [x])
    exact = getattr(np, op)(x.astype("f8"))
    error = np.abs(y - exact) / np.maximum(np.abs(np.spacing(exact.astype("f4"))).astype("f8"), 2.0**-149)
    worst = int(error.argmax())
    assert error[worst] <= (3.0 if op == "tan" else 2.0), (x[worst], y[worst], exact[worst])


@pytest.mark.spec("IR-29")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_powers(dtype: str):
    wide = 38 if dtype == "f4" else 300
    a = np.concatenate(
        [10.0 ** _rng.uniform(-wide, wide, 500), 1 + _rng.normal(size=500) * 1e-4, _rng.uniform(0, 4, 500)]
    )
    largest = np.log(10.0**wide) / np.maximum(np.abs(np.log(np.abs(a))), 1e-300)
    b = _rng.uniform(-1.05, 1.05, a.size) * np.minimum(largest, 1e6)
    whole = _rng.random(a.size) < 0.3
    b[whole] = np.rint(b[whole])
    a[whole] *= _rng.choice((-1.0, 1.0), whole.sum())
    a, b = a.astype(dtype), b.astype(dtype)
    y = _apply(_elementwise("pow", "f32" if dtype == "f4" else "f64", a.size, 2), [a, b])
    with mpmath.workprec(400), np.errstate(over="ignore"):
        error = _units(
            y, [mpmath.power(mpmath.mpf(p), mpmath.mpf(q)) for p, q in zip(a.tolist(), b.tolist(), strict=True)]
        )
    worst = int(error.argmax())
    assert error[worst] <= 1.5, (a[worst], b[worst], y[worst], error[worst])


@pytest.mark.spec("IR-29")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_powers_at_the_ends(dtype: str):
    values = [0.0, 0.5, 1.0, 2.0, 3.0, 2.5, 1e30, 1e-30, 1e-40, np.inf, 2.0**24 + 2, 1023.0]
    some = np.array([s * v for v in values for s in (1, -1)] + [np.nan], dtype)
    a, b = (np.ascontiguousarray(x.ravel()) for x in np.meshgrid(some, some))
    with np.errstate(all="ignore"):
        wanted = np.power(a, b)
    found = _apply(_elementwise("pow", "f32" if dtype == "f4" else "f64", a.size, 2), [a, b])
    np.testing.assert_allclose(found, wanted, rtol=2e-7 if dtype == "f4" else 1e-15)
    zero = wanted == 0
    np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(wanted[zero]))


def test_vectors_have_no_calls(sources: tuple[Source, ...]):
    """What a compiler makes of loops over these functions calls no function of one number."""
    paths = [str(native.build(s.text, "kernels", s.flags)) for s in sources]
    command = ["nm", "-D", "--undefined-only", *paths]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    called = {line.split()[-1].partition("@")[0] for line in listed.splitlines() if " U " in line}
    assert called
    alone = {*WIDE_BOUNDS, "pow"} - {"sigmoid"}
    assert called.isdisjoint({*alone, *(f"{name}f" for name in alone), "fma"})


@pytest.mark.spec("IR-29")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_powers_of_two_are_exact(dtype: str):
    """2^x of a whole number, and the logarithm of what it gives, where torch's own functions are exact too."""
    lowest, highest = (-149, 127) if dtype == "f4" else (-1074, 1023)
    whole = np.arange(lowest, highest + 1, dtype=dtype)
    loop = "f32" if dtype == "f4" else "f64"
    powers = _apply(_elementwise("exp2", loop, whole.size), [whole])
    np.testing.assert_array_equal(powers, np.ldexp(np.ones_like(whole), whole.astype("i4")))
    np.testing.assert_array_equal(_apply(_elementwise("log2", loop, whole.size), [powers]), whole)
