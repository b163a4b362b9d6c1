"""Predicted and measured bytes step by step, and what is alive after each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lowtide import analysis
from lowtide.by_step import by_step
from lowtide.runtime.records import records

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("fresh_compiler")]


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.LayerNorm(8 * 144), nn.Linear(8 * 144, 64), nn.GELU(), nn.Linear(64, 5),
    )  # fmt: skip


def iteration(model: nn.Module, **options: Any) -> Callable[[], None]:
    """Forward, loss and backward compiled together, run twice."""
    x = torch.randn(16, 3, 16, 16)
    compiled = torch.compile(lambda: model(x).square().mean(), backend="lowtide", options=options)

    def run() -> None:
        compiled().backward()

    for _ in range(2):
        run()
        model.zero_grad()
    return run


@pytest.mark.spec("PK-22", "SC-59", "PK-06", "IR-71")
@pytest.mark.parametrize("slabs", ["auto", "none", "one"])
def test_every_step_takes_what_was_predicted(slabs: str):
    run = iteration(net(), slabs=slabs)
    rows = by_step(run)
    # The loss's own gradient, four bytes, comes from autograd.
    assert all(0 <= r.measured - r.predicted <= 4 for r in rows)
    assert not any(r.missing or r.stray for r in rows)
    (record,) = records()
    steps = record.planned[0].schedule.steps
    assert [r.name for r in rows] == [s.op.name for s in steps]
    assert [r.section for r in rows if r.last] == ["forward", "backward"]
    assert len({r.predicted for r in rows}) > 10


@pytest.mark.spec("PK-22")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo asks for it
def test_several_graphs_and_what_earlier_ones_hold():
    first, second = net(), nn.Linear(5, 5)
    one, two = (torch.compile(m, backend="lowtide") for m in (first, second))
    x = torch.randn(16, 3, 16, 16)

    def run() -> None:
        two(one(x)).square().mean().backward()

    run()
    first.zero_grad(), second.zero_grad()
    rows = by_step(run)
    assert len({r.graph for r in rows}) == 2
    outside = 16 * 5 * 4 * 3  # square, mean and their gradients are eager's
    assert all(0 <= r.measured - r.predicted <= outside for r in rows)


@pytest.mark.spec("SC-59", "IR-71")
def test_a_corrupt_timeline_shows(monkeypatch: pytest.MonkeyPatch):
    """Lifetimes and bytes that are not those of the program are told by name."""
    run = iteration(net(), slabs="none")
    (record,) = records()
    planned = record.planned[0]
    places = planned.plan.places
    early = next(p for p in places if p.end - p.first > 3 and p.nbytes and not p.escapes and p.over is None)
    short = next(p for p in places if p.end - p.first == 2 and p.nbytes and not p.escapes and p.over is None)
    changed = {early.storage: replace(early, end=early.first + 1), short.storage: replace(short, end=short.end + 1)}
    plan = replace(planned.plan, places=tuple(changed.get(p.storage, p) for p in places))
    kept = analysis.iteration_live

    def calls_with_another_plan(calls: list[Any]) -> list[list[int]]:
        live = kept(calls)
        for k, c in enumerate(calls):
            calls[k] = replace(c, planned=replace(c.planned, plan=plan))
        return live

    monkeypatch.setattr("lowtide.by_step.iteration_live", calls_with_another_plan)
    rows = by_step(run)
    assert early.storage in {s for r in rows for s in r.stray}
    assert short.storage in {s for r in rows for s in r.missing}


def test_nothing_that_lowtide_made_runs():
    assert by_step(lambda: torch.ones(3) + 1) == ()
