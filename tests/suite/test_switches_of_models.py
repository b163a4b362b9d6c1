"""The benchmarks' models, small, under every switch: eager's numbers, and no bit changes while the kernels stay the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.suite.entry import Case, Entry, without_dropout
from benchmarks.suite.library import LIBRARY
from benchmarks.suite.models import missing
from torch import Tensor

from lowtide.runtime.load import release_retained
from switched import EVERY, Switched

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("fresh_compiler")]


def iteration(case: Case, call: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Loss, gradients and statistics of one step of training from ``state``."""
    case.module.load_state_dict(state)
    case.module.zero_grad(set_to_none=True)
    loss = call(**case.inputs)
    loss.backward()
    found = {n: p.grad for n, p in case.module.named_parameters() if p.grad is not None}
    return {"the loss": loss.detach(), **found} | {n: b.clone() for n, b in case.module.named_buffers()}


def agree(got: dict[str, Tensor], want: dict[str, Tensor], what: object) -> None:
    """But for what sums of another order round: by norm, and of gradients that are only rounding, by the largest."""
    assert got.keys() == want.keys()
    largest = max(float(t.double().norm()) for t in want.values() if t.is_floating_point())
    for name, b in want.items():
        if not b.is_floating_point():
            assert torch.equal(got[name], b), (name, what)
            continue
        off, most = float((got[name].double() - b.double()).norm()), float(b.double().norm())
        assert off <= 1e-3 * most + 1e-5 * largest, f"{name} is off by {off:.2e} of {most:.2e} under {what}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.spec("G1", "G2", "G6")
@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in LIBRARY])
def test_every_combination_of_switches(entry: Entry) -> None:
    if why := missing(entry):
        pytest.skip(why)
    case = entry.build()
    module = without_dropout(case.module).train()
    state = {n: t.clone() for n, t in module.state_dict().items()}

    def loss(**inputs: Any) -> Tensor:
        return case.loss(module(**inputs))

    want = iteration(case, loss, state)
    switched = Switched(EVERY)
    call = torch.compile(loss, backend=switched, dynamic=False)
    seen: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for options in EVERY:
        switched.options = options
        got = iteration(case, call, state)
        agree(got, want, options)
        switched.check()
        same = seen.setdefault(switched.kernels(), got)
        assert all(torch.equal(t, same[n]) for n, t in got.items()), options
    assert len(seen) >= 2  # fused and not
    release_retained()
