"""Division and remainder of whole numbers: generated kernels beside eager, down to what it raises."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from built import build

sys.path.insert(0, str(Path(__file__).parent))

from evaluate import by_oracle, call_kernel, lower_call, lowered_results

from lowtide.core import native

pytestmark = [pytest.mark.torch, pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")]

DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
TARGETS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("aten.div.Tensor_mode", {"rounding_mode": "floor"}), ("aten.div.Tensor_mode", {"rounding_mode": "trunc"}),
    ("aten.div.Tensor_mode", {"rounding_mode": None}), ("aten.div.Tensor", {}), ("aten.floor_divide.default", {}),
    ("aten.remainder.Tensor", {}), ("aten.fmod.Tensor", {}),
)  # fmt: skip
BY_NUMBERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("aten.div.Scalar_mode", {"rounding_mode": "floor"}), ("aten.div.Scalar_mode", {"rounding_mode": "trunc"}),
    ("aten.remainder.Scalar", {}), ("aten.fmod.Scalar", {}),
)  # fmt: skip


def edges(dtype: torch.dtype) -> list[int]:
    info = torch.iinfo(dtype)
    return sorted({n for n in (*range(-7, 8), 100, -100, info.max, info.max - 1, info.min, info.min + 1)
                   if info.min <= n <= info.max})  # fmt: skip


def pairs(a: torch.dtype, b: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Every edge by every edge but 0, and not the least number by -1, which stops ATen's process."""
    least = torch.iinfo(torch.promote_types(a, b)).min
    found = [(x, y) for x, y in itertools.product(edges(a), edges(b)) if y and (x, y) != (least, -1)]
    return torch.tensor([x for x, _ in found], dtype=a), torch.tensor([y for _, y in found], dtype=b)


def compiled(calls: Sequence[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> list[tuple[Any, Any, Any]]:
    lowered = [lower_call(*call) for call in calls]
    loops = [loop for low, _, _ in lowered for loop in low.loops.values()]
    build(loops, 2)
    return lowered


@pytest.mark.spec("IR-29")
@pytest.mark.filterwarnings("ignore")
def test_all_rounding_modes_of_all_dtypes_are_eagers() -> None:
    mixed = ((torch.int8, torch.uint8), (torch.int64, torch.int8), (torch.int32, torch.int16))
    calls = [
        (target, pairs(a, b), kwargs)
        for a, b in (*((t, t) for t in DTYPES), *mixed)
        for target, kwargs in TARGETS
    ]  # fmt: skip
    calls += [
        (target, (torch.tensor([x for x in edges(t) if (x, y) != (torch.iinfo(t).min, -1)], dtype=t), y), kwargs)
        for t, y in ((torch.uint8, 3), (torch.int32, -1), (torch.int64, -4))
        for target, kwargs in BY_NUMBERS
    ]
    for (target, args, kwargs), (low, tensors, expected) in zip(calls, compiled(calls), strict=True):
        for run in (call_kernel, by_oracle):
            found = lowered_results(low, tensors, run)["y0"]
            said = f"{run.__name__} {target} {kwargs} of {[getattr(a, 'dtype', a) for a in args]}"
            torch.testing.assert_close(found, expected, msg=lambda m, said=said: f"{said}: {m}")


@pytest.mark.spec("IR-29")
def test_the_least_number_by_minus_one_wraps_and_leaves_nothing() -> None:
    """ATen's own process is stopped by some of these; what wraps where it is not is what we give."""
    ones = {t: torch.full((3,), 1, dtype=t) for t in DTYPES[1:]}
    whole = [*TARGETS[:2], *TARGETS[4:]]
    calls = [(target, (one, one.clone()), kwargs) for one in ones.values() for target, kwargs in whole]
    for (target, (one, _), _), (low, tensors, _) in zip(calls, compiled(calls), strict=True):
        least = torch.full_like(one, torch.iinfo(one.dtype).min)
        names = list(tensors)
        given = {names[0]: least, names[1]: torch.full_like(one, -1)}
        found = lowered_results(low, given, call_kernel)["y0"]
        left = target.split(".")[1] in ("remainder", "fmod")
        assert torch.equal(found, torch.zeros_like(one) if left else least), (target, one.dtype)


DIVISIONS: dict[str, Callable[[Any, Any], torch.Tensor]] = {
    "floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "floor_divide": torch.floor_divide, "remainder": torch.remainder, "fmod": torch.fmod,
}  # fmt: skip


@pytest.mark.spec("IR-29", "G1")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", list(DIVISIONS))
def test_division_by_zero_is_raised_as_eager_does(name: str) -> None:
    def f(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q = DIVISIONS[name](x + 1, y)
        return torch.nn.functional.pad(q * 2, (1, 1)), z.gather(0, q.abs() % 3)

    g = torch.compile(f, backend="lowtide", options={"verify": True})
    x, y, z = torch.arange(-9, 9), torch.tensor([3, -2] * 9), torch.randn(3)
    for a, b in zip(g(x, y, z), f(x, y, z), strict=True):
        assert torch.equal(a, b)
    bad = y.clone()
    bad[5] = 0
    for call in (f, g):
        with pytest.raises(RuntimeError, match=r"^ZeroDivisionError"):
            call(x, bad, z)
    assert torch.equal(g(x, y, z)[0], f(x, y, z)[0])  # the next call is right


@pytest.mark.spec("IR-29", "G10")
@pytest.mark.usefixtures("fresh_compiler")
def test_division_by_the_number_zero_and_of_nothing() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x // 0

    g = torch.compile(f, backend="lowtide", dynamic=False)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        g(torch.arange(3))
    assert g(torch.arange(0)).shape == (0,)


@pytest.mark.spec("IR-29")
def test_only_whole_numbers_by_what_may_be_zero_are_checked() -> None:
    x, y = torch.arange(1, 5), torch.arange(1.0, 5)
    for args, checks in (((x, x), True), ((x, y), False), ((y, y), False)):
        low, _, _ = lower_call("aten.floor_divide.default", args)
        assert [loop.checks for loop in low.loops.values()] == [checks]
    low, _, _ = lower_call("aten.remainder.Scalar", (x, 3))
    assert [loop.checks for loop in low.loops.values()] == [False]
