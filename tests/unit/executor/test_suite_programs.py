"""Programs whose sizes vary or depend on data: equal to eager at every step, whatever the order of sizes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from lowtide import plan_at_run_time  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]


def leaves(x: Any) -> list[Any]:
    return list(x) if isinstance(x, tuple | list) else [x]


def agree(got: Any, want: Any) -> None:
    for a, b in zip(leaves(got), leaves(want), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def follow(call: Any, module: Any, draw: Any, sizes: list[int]) -> list[tuple[Any, Any]]:
    """Run at each size; hold all results, and compare them at once and again at the end."""
    held = []
    with torch.no_grad():
        for n in sizes:
            args = draw(n)
            got, want = call(*args), module(*args)
            agree(got, want)
            held.append((got, want))
    for got, want in held:
        agree(got, want)
    return held


@pytest.mark.spec("RT-13", "RT-15", "RT-18", "RT-31", "IR-64", "IR-65", "G1")
@pytest.mark.parametrize("strategy", ["packed", "groups", "separate"])
def test_small_to_large_and_back(program: tuple[Any, Any], strategy: str):
    p, exported = program
    call = plan_at_run_time(exported, strategy=strategy, verify=True)
    follow(call, p.module, p.draw, [3, 3, 1, 2, 4, 7, 9, 7, 2, 1, 9, 3])
    told = call.told()
    assert told.counts is not None and told.counts.managed > 0, told
    assert told.leaks == told.copies == 0
    found = list(placements(call.executor.plan))
    assert found
    for place in found:  # packed offsets meet the bound at every signature seen
        assert place.bound <= place.nbytes and (strategy != "packed" or place.nbytes <= 1.01 * place.bound)


def placements(plan: Any) -> Iterator[Any]:
    """Where the buffers of a block, and of those inside it, lie at each signature."""
    if plan.built is not None:
        yield from (e.where.placement for e in plan.built.entries.values() if e.where is not None)
    for arms in plan.inner:
        for arm in arms:
            yield from placements(arm)


@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=10), seed=st.integers(0, 99))
@settings(max_examples=12, phases=[Phase.generate])
@pytest.mark.spec("RT-15", "G1")
def test_any_sequence_of_sizes(program: tuple[Any, Any], sizes: list[int], seed: int):
    p, exported = program
    torch.manual_seed(seed)
    follow(_kept(p.name, exported), p.module, p.draw, sizes)


_calls: dict[str, Any] = {}


def _kept(name: str, exported: Any) -> Any:
    """One executor over all examples, so that what earlier sizes taught is there."""
    if name not in _calls:
        _calls[name] = plan_at_run_time(exported, verify=True, recent_shapes=4, window=5)
    return _calls[name]


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.spec("RT-30", "G1")
@pytest.mark.parametrize("verify", [False, True])
def test_eight_threads_share_a_plan(program: tuple[Any, Any], verify: bool, switching: None):
    p, exported = program
    call = plan_at_run_time(exported, verify=verify, recent_shapes=3)
    if not verify:
        follow(
            call, p.module, p.draw, [2, 2]
        )  # what follows are usual calls; else the threads meet at the first run too
    start, jobs = threading.Barrier(8), []
    for k in range(8):
        torch.manual_seed(k)
        given_ = [p.draw(1 + (k + i) % 5) for i in range(6)]
        with torch.no_grad():
            jobs.append([(args, p.module(*args)) for args in given_])

    def work(job: list[tuple[Any, Any]]) -> None:
        start.wait()
        for args, want in job:
            for a, b in zip(leaves(call(*args)), leaves(want), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, job) for job in jobs]:
            done.result()  # raises what went wrong there, whatever it is
    told = call.told()
    assert told.runs == 48 + (0 if verify else 2) and 1 <= told.instances <= 8 and told.leaks == 0
