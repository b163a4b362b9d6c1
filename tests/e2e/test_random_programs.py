"""Random programs of torch operations, captured, compiled and run under every combination of switches: fused equals unfused
equals eager, whatever is overwritten and reused, and in whatever order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import Phase, example, given, settings
from torch import Tensor
from torch_programs import OPERATIONS, Program, torch_programs

from lowtide.core.options import Options
from lowtide.runtime.load import release_retained
from switched import EVERY, Switched

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory of torch's holds no numbers, as slabs do under ``verify``."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def run(program: Program, call: Callable[..., Any]) -> list[Tensor]:
    """Results, gradients, and what is in the inputs afterwards."""
    inputs = program.inputs()
    results = call(*inputs)
    found = [t.detach().clone() for t in results]
    wanted = [t for t in results if t.requires_grad]
    if wanted:
        tangents = [torch.cos(torch.arange(t.numel(), dtype=t.dtype)).reshape(t.shape) for t in wanted]
        leaves = [t for t in inputs if t.requires_grad]
        grads = torch.autograd.grad(wanted, leaves, tangents, allow_unused=True)
        found += [torch.zeros(()) if g is None else g for g in grads]
    assert all(torch.equal(a, b) for a, b in zip(found, results, strict=False)), "a result changed in backward"
    return [*found, *(t.detach() for t in inputs)]


def agree(got: Sequence[Tensor], want: Sequence[Tensor], what: object) -> None:
    """Whole numbers exactly; others but for rounding, which sums of other orders bring."""
    assert len(got) == len(want)
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape, (k, what)
        if not b.is_floating_point():
            assert torch.equal(a, b), f"value {k} under {what}"
            continue
        scale = max((float(t.abs().max()) for t in want if t.is_floating_point() and t.numel()), default=1.0)
        torch.testing.assert_close(
            a, b, rtol=1e-9, atol=1e-9 * max(1.0, scale), msg=lambda m, k=k: f"value {k} under {what}: {m}"
        )


def check(program: Program, every: Sequence[Options]) -> None:
    """The same under all of ``every`` as in eager, and bit for bit among those that run the same kernels."""
    torch.compiler.reset()
    switched = Switched(every)
    call = torch.compile(program.function(), backend=switched, dynamic=False, fullgraph=True)
    with poisoned():
        want = run(program, program.function())
        seen: dict[tuple[str, ...], list[Tensor]] = {}
        for options in every:
            switched.options = options
            first, second = run(program, call), run(program, call)  # the second time on what the first has left
            agree(first, want, options)
            assert all(map(torch.equal, first, second)), options
            switched.check()
            same = seen.setdefault(switched.kernels(), first)
            assert all(map(torch.equal, first, same)), options
    release_retained()


# What went wrong once: the copy was taken for what it copies, which begins elsewhere, and so was what is read of it.
COPIED_FROM_ELSEWHERE = Program(
    33, 17, False, False, (("one upon the other", (0, 1)), ("column added", (4, 3))), (5,)
)  # fmt: skip


@pytest.mark.spec("G1", "G2", "G3", "G6", "SC-25", "SC-26", "SC-55")
@given(torch_programs(least=8))
@example(COPIED_FROM_ELSEWHERE)
@settings(max_examples=4, derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_every_switch_gives_what_eager_gives(program: Program) -> None:
    check(program, EVERY)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.spec("G1", "G2", "G3", "G6", "SC-25", "SC-26", "SC-55")
@given(torch_programs(most=24))
@settings(max_examples=500, derandomize=False, deadline=None, phases=[Phase.generate])
def test_many_programs(program: Program) -> None:
    """Other ones each time; what fails is printed as what can be an ``example`` above."""
    check(program, EVERY)


@pytest.mark.spec("G1")
def test_the_programs_hold_what_they_are_to_hold() -> None:
    """Most operations, and all that breaks schedulers, often enough; in eager, every program runs."""
    drawn: list[Program] = []

    @given(torch_programs())
    @settings(max_examples=120, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
    def draw(program: Program) -> None:
        drawn.append(program)

    draw()
    seen: Counter[str] = Counter()
    for program in drawn:
        inputs = program.inputs()
        before = [t.detach().clone() for t in inputs]
        results = program.function()(*inputs)
        assert all(bool(torch.isfinite(t).all()) for t in results)
        used = Counter(k for _, operands in program.steps for k in operands)
        seen.update({name for name, _ in program.steps})
        storages = {t.untyped_storage().data_ptr() for t in inputs}
        kept = [t for t in results if t.untyped_storage().nbytes() > t.nbytes]
        seen["TRAINS"] += any(t.requires_grad for t in results)
        seen["WHOLE NUMBERS"] += program.whole
        seen["READ BY SEVERAL"] += max(used.values()) > 2
        seen["A PART OUTLIVES THE REST"] += any(t.untyped_storage().data_ptr() not in storages for t in kept)
        seen["AN INPUT IS CHANGED"] += not all(map(torch.equal, before, inputs))
        seen["A TURNED RESULT"] += any(not t.is_contiguous() for t in results)
    assert sum(not seen[n] for n in OPERATIONS) * 3 < len(OPERATIONS)
    assert all(seen[n] >= 3 for n in seen if n.isupper()), {n: k for n, k in seen.items() if n.isupper()}
