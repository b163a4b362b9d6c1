"""Special functions against numbers of many digits, and against eager where there are none: poles, infinities, NaN."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from built import build

sys.path.insert(0, str(Path(__file__).parent))

from evaluate import Run, by_oracle, call_kernel, graph_of, lower_call, lowered_results

from lowtide.core import native
from lowtide.lowering.lower import lower

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler"),
]
_rng = np.random.default_rng(3)
_BOTH = np.concatenate(
    [_rng.uniform(-30, 30, 150), _rng.normal(size=100), _rng.normal(size=20) * 1e-3, [1e-12, 19.99, 20.01]]
)
_RIGHT = np.abs(_BOTH)
_LEFT = np.concatenate([_RIGHT, -_rng.integers(0, 9, 60) - _rng.uniform(0.2, 0.8, 60)])
_ENDS = 2.0 ** -_rng.integers(3, 24, 60)
_WITHIN = np.concatenate([_rng.uniform(-1, 1, 150), 1 - _ENDS, _ENDS - 1, _ENDS])
_PROBABLE = np.concatenate([_rng.uniform(0, 1, 150), 10.0 ** _rng.uniform(-37, -1, 60), 1 - _ENDS])
Case = tuple[tuple[Any, ...], np.ndarray, Callable[[Any], Any], float]


def _inverse(tail: Any) -> Any:
    """Where the complementary error function is ``tail``, which is at most 1."""
    if tail == 0:
        return mpmath.inf
    guess = mpmath.sqrt(max(-mpmath.log(tail) - 1, mpmath.mpf("0.01")))
    return mpmath.findroot(lambda y: mpmath.log(mpmath.erfc(y)) - mpmath.log(tail), guess)


def _erfinv(x: Any) -> Any:
    return mpmath.sign(x) * _inverse(1 - abs(x)) if abs(x) > 0.5 else mpmath.erfinv(x)


def _ndtri(p: Any) -> Any:
    return -mpmath.sqrt(2) * _inverse(2 * p) if p < 0.5 else mpmath.sqrt(2) * _inverse(2 * (1 - p))


def _log_ndtr(x: Any) -> Any:
    return mpmath.log(mpmath.erfc(-x / mpmath.sqrt(2)) / 2)


# What is called, where, the exact function, and the largest error in units of the last place.
CASES: dict[str, Case] = {
    "erfinv.default": ((), _WITHIN, _erfinv, 8),
    "special_ndtri.default": ((), _PROBABLE, _ndtri, 8),
    "special_erfcx.default": ((), _RIGHT, lambda x: mpmath.exp(x * x) * mpmath.erfc(x), 8),
    "special_log_ndtr.default": ((), _BOTH, _log_ndtr, 8),
    "digamma.default": ((), _LEFT, lambda x: mpmath.digamma(x), 40),
    "polygamma.default 1": ((1,), _LEFT, lambda x: mpmath.polygamma(1, x), 16),
    "polygamma.default 2": ((2,), _LEFT, lambda x: mpmath.polygamma(2, x), 16),
    "polygamma.default 3": ((3,), _LEFT, lambda x: mpmath.polygamma(3, x), 30),
    "polygamma.default 4": ((4,), _LEFT, lambda x: mpmath.polygamma(4, x), 30),
    "polygamma.default 5": ((5,), _LEFT, lambda x: mpmath.polygamma(5, x), 30),
    "i0.default": ((), _BOTH, lambda x: mpmath.besseli(0, x), 8),
    "special_modified_bessel_i0.default": ((), _BOTH, lambda x: mpmath.besseli(0, x), 8),
    "special_i0e.default": ((), _BOTH, lambda x: mpmath.exp(-abs(x)) * mpmath.besseli(0, x), 8),
    "special_i1.default": ((), _BOTH, lambda x: mpmath.besseli(1, x), 8),
    "special_modified_bessel_i1.default": ((), _BOTH, lambda x: mpmath.besseli(1, x), 8),
    "special_i1e.default": ((), _BOTH, lambda x: mpmath.exp(-abs(x)) * mpmath.besseli(1, x), 8),
    "special_spherical_bessel_j0.default": ((), _RIGHT, lambda x: mpmath.sin(x) / x, 4),
}
SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, float("inf"), -float("inf"), float("nan"), 1.5, -1.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_errors_are_within_their_bounds(dtype: torch.dtype):
    digits = 24 if dtype == torch.float32 else 53
    made = []
    for name, (before, points, _, _) in CASES.items():
        x = torch.from_numpy(points).to(dtype)
        made.append(lower_call(f"aten.{name.partition(' ')[0]}", (*before, x)))
    build([loop for low, _, _ in made for loop in low.loops.values()], 2)
    wrong: list[str] = []
    with mpmath.workprec(200):
        for (name, (_, _, exact, bound)), (low, tensors, _) in zip(CASES.items(), made, strict=True):
            y = lowered_results(low, tensors, call_kernel)["y0"].tolist()
            x = tensors["x0"].tolist()
            for a, found in zip(x, y, strict=True):
                best = exact(mpmath.mpf(a))
                if abs(best) > torch.finfo(dtype).max or abs(best) < 2.0**-100:
                    continue
                unit = mpmath.ldexp(1, int(mpmath.floor(mpmath.log(abs(best), 2))) - digits + 1)
                # near a zero the argument's own rounding, and that of what is subtracted, is all that there is
                unit = (
                    max(unit, mpmath.ldexp(1, -digits)) if name.startswith(("digamma", "special_spherical")) else unit
                )
                if name.startswith("polygamma") and a < 0:  # what is added to its mirror image cancels there
                    unit = max(unit, mpmath.ldexp(abs(exact(1 - mpmath.mpf(a))), 1 - digits))
                if name == "special_log_ndtr.default":  # the root of 2 is rounded, and what it divides squared
                    unit *= 1 + a * a / 8
                error = abs(mpmath.mpf(found) - best) / unit if np.isfinite(found) else mpmath.inf
                if not error <= bound:
                    wrong.append(f"{name}({a!r}) = {found!r}, {float(error):.1f} units from {float(best)!r}")
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong[:40])


@pytest.mark.filterwarnings("ignore")
def test_ends_are_eagers():
    made = []
    for name, (before, _, _, _) in CASES.items():
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            if dtype == torch.bfloat16 and name.startswith("special_"):
                continue  # eager has none
            x = torch.tensor(SPECIAL, dtype=dtype)
            if name.startswith("polygamma"):
                x = x[(x > 0) & (x < 3) | x.isnan()]  # torch's own error next to poles is large, and its limit NaN
            made.append((name, *lower_call(f"aten.{name.partition(' ')[0]}", (*before, x))))
    build([loop for _, low, _, _ in made for loop in low.loops.values()], 2)
    wrong: list[str] = []
    for name, low, tensors, eager in made:
        rtol = 1e-2 if eager.dtype == torch.bfloat16 else 1e-5
        for run in (call_kernel, by_oracle):
            found = lowered_results(low, tensors, run)["y0"]
            near = torch.isclose(found, eager, rtol=rtol, atol=1e-6, equal_nan=True)
            wrong += [
                f"{run.__name__}: {name}({a}) {eager.dtype}: {f}, not {e}"
                for a, f, e, n in zip(tensors["x0"], found, eager, near, strict=True)
                if not n
            ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("run", [call_kernel, by_oracle])
def test_poles_of_derivatives_have_eagers_sign(run: Run):
    """From the second derivative on; of the first, eager has large numbers at the negative ones."""
    x = torch.tensor([0.0, -0.0, -1.0, -2.0])
    made = [lower_call("aten.polygamma.default", (order, x)) for order in (2, 3, 4, 5)]
    build([loop for low, _, _ in made for loop in low.loops.values()], 2)
    for low, tensors, eager in made:
        assert torch.equal(lowered_results(low, tensors, run)["y0"], eager)


@pytest.mark.parametrize("order", [6, -1])
def test_other_derivatives_than_anybody_needs_are_a_library_call(order: int):
    x = torch.ones(3)
    graph, _ = graph_of("aten.polygamma.default", (order, x), {}, x)
    low = lower(graph)
    assert not low.loops and f"derivative number {order}" in str(low.reasons[0])
