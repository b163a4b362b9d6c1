"""Every case of the table: eager, the NumPy oracle and the generated C++ agree."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch

from built import build

sys.path.insert(0, str(Path(__file__).parent))

from cases import SECTIONS, Call
from evaluate import by_oracle, call_kernel, lower_call, lowered_results

from lowtide.runtime import kernels
from lowtide.runtime.calls import overload

pytestmark = pytest.mark.torch

# torch's own test-suite: relative, absolute
TOLERANCE = {
    torch.float32: (1.3e-5, 1e-5), torch.float64: (1e-7, 1e-7), torch.bfloat16: (1.6e-2, 1e-5),
    torch.float16: (2e-3, 1e-5),
}  # fmt: skip


def same(found: torch.Tensor, expected: torch.Tensor, what: str) -> str:
    """What differs, or nothing."""
    rtol, atol = TOLERANCE.get(expected.dtype, (0, 0))
    try:
        torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, equal_nan=True, check_stride=False)
    except AssertionError as e:
        return f"{what}: {str(e).splitlines()[0]} {' '.join(str(e).splitlines()[2:5])}"
    return ""


def results(lowered, tensors, expected, run, call: Call, what: str) -> list[str]:
    held = lowered_results(lowered, tensors, run)
    flat = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    wrong = ((k, same(held[f"y{k}"], e, what)) for k, e in enumerate(flat) if e is not None and e.numel())
    return [w for k, w in wrong if w and not as_near(call, k, held[f"y{k}"], flat[k])]


def as_near(call: Call, k: int, found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether a result is as near to what eager gives in a wider type as eager's own, which adds up in the narrow one."""
    wider = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}
    if expected.dtype not in wider:
        return False
    to = wider[expected.dtype]

    def wide(a):
        if isinstance(a, list | tuple):
            return [wide(x) for x in a]
        return a.to(to) if isinstance(a, torch.Tensor) and a.dtype == expected.dtype else a

    best = overload(call[0])(*wide(call[1]), **{n: wide(a) for n, a in call[2].items()})
    best = best if isinstance(best, torch.Tensor) else best[k]
    step = torch.finfo(expected.dtype).eps * best.abs()
    return bool(((found.to(to) - best).abs() <= (expected.to(to) - best).abs().max() + step).all())


def show(call: Call) -> str:
    def one(a: object) -> str:
        if isinstance(a, torch.Tensor):
            return f"{str(a.dtype).removeprefix('torch.')}{list(a.shape)}"
        return f"[{', '.join(map(one, a))}]" if isinstance(a, list | tuple) else str(a)

    return f"{call[0]}({', '.join(map(one, call[1]))}{''.join(f', {k}={one(v)}' for k, v in call[2].items())})"


@pytest.fixture(params=["-O1", pytest.param("-O3", marks=pytest.mark.slow)])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What kernels are compiled at, for this test alone: as users have them, and in half the time, since rules are in question
    here. Loops made into vectors have tests of their own."""
    monkeypatch.setattr(kernels, "_loaded", {})
    monkeypatch.setattr(kernels, "_begun", {})
    return request.param


@pytest.mark.parametrize("section", list(SECTIONS))
@pytest.mark.spec("IR-29", "IR-30", "IR-31", "IR-32", "IR-37")
@pytest.mark.filterwarnings("ignore")
def test_the_table_of_cases(section: str, level: str):
    calls = list(SECTIONS[section]())
    lowered = [lower_call(*call) for call in calls]
    loops = list(itertools.chain.from_iterable(x[0].loops.values() for x in lowered))
    build(loops, 2, level)
    wrong: list[str] = []
    for call, (low, tensors, expected) in zip(calls, lowered, strict=True):
        wrong += results(low, tensors, expected, call_kernel, call, f"C++ {show(call)}")
        wrong += results(low, tensors, expected, by_oracle, call, f"NumPy {show(call)}")
    assert not wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong[:40])
