"""``memory_analysis``: figures that add up, promised beside what the allocator counts, over several graphs and calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowtide
from lowtide import pipeline
from lowtide.analysis import iteration_peak
from lowtide.core.errors import BugError
from lowtide.runtime.records import Call, records

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("fresh_compiler")]


def step_of(model: nn.Module, x: Tensor, **given: Any) -> Callable[[], None]:
    compiled = torch.compile(model, backend="lowtide", options={"verify": True, **given})

    def step() -> None:
        compiled(x).square().mean().backward()
        model.zero_grad()

    step()
    return step


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 16))


@pytest.mark.spec("G9", "IR-02")
def test_the_promise_is_what_the_allocator_counts():
    step = step_of(mlp(), torch.randn(256, 64))
    told = lowtide.memory_analysis(step)
    assert told.measured_peak_bytes is not None
    outside = 256 * 16 * 4 * 4  # square, mean and their gradients are eager's
    assert 0 <= told.measured_peak_bytes - told.promised_peak_bytes <= outside
    (graph,) = told.graphs
    assert graph.lower_bound_bytes <= graph.promised_peak_bytes <= graph.sum_bytes
    assert told.promised_peak_bytes <= graph.promised_peak_bytes


@pytest.mark.spec("G9")
def test_the_parts_of_a_graph_have_their_sizes():
    model = mlp()
    step_of(model, torch.randn(256, 64))
    (graph,) = lowtide.memory_analysis().graphs
    parameters = sum(p.nbytes for p in model.parameters())
    assert graph.argument_bytes == parameters + 256 * 64 * 4 + 256 * 16 * 4  # the input, and the gradient that comes in
    assert graph.output_bytes >= parameters + 256 * 16 * 4  # gradients, and the result
    assert 0 < graph.saved_bytes < graph.promised_peak_bytes
    assert [name for name, _ in graph.sections] == ["forward", "backward"]
    assert max(n for _, n in graph.sections) == graph.promised_peak_bytes
    assert graph.device == "cpu" and graph.fallback is None


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo asks for it on the tensor between two graphs
@pytest.mark.spec("G9")
def test_several_graphs_hold_their_bytes_at_the_same_time():
    """Between two graphs, what the first has saved and returned counts in the second's peak."""

    def broken(x: Tensor) -> Tensor:
        x = (x * 2).exp()
        torch._dynamo.graph_break()
        return (x + 1).sin().sum()

    x = torch.randn(64, 1024, requires_grad=True)
    compiled = torch.compile(broken, backend="lowtide")

    def step() -> None:
        compiled(x).backward()
        x.grad = None

    step()
    told = lowtide.memory_analysis(step)
    assert len(told.graphs) == 2
    assert told.measured_peak_bytes is not None
    assert told.promised_peak_bytes > max(g.promised_peak_bytes for g in told.graphs)
    assert abs(told.measured_peak_bytes - told.promised_peak_bytes) <= 64


@pytest.mark.spec("G9")
def test_only_what_the_step_ran_is_listed():
    one = step_of(mlp(), torch.randn(8, 64))
    two = step_of(nn.Sequential(nn.Linear(64, 8), nn.Tanh()), torch.randn(8, 64))
    assert len(lowtide.memory_analysis().graphs) == 2
    assert [g.name for g in lowtide.memory_analysis(one).graphs] != [
        g.name for g in lowtide.memory_analysis(two).graphs
    ]


@pytest.mark.spec("G12")
def test_the_json_form_has_all_figures_and_the_text_is_a_table():
    step = step_of(mlp(), torch.randn(8, 64))
    told = lowtide.memory_analysis(step)
    data = json.loads(json.dumps(told.to_json()))
    assert data["version"] == 1 and data["promised_peak_bytes"] == told.promised_peak_bytes
    assert data["graphs"][0]["promised_peak_bytes"] == told.graphs[0].promised_peak_bytes
    head, row, *rest = str(told).splitlines()
    assert head.split() == ["graph", "promised", "bound", "saved", "outputs", "sum", "slabs"]
    assert row.startswith(told.graphs[0].name) and rest[-1].startswith("iteration: promised ")
    assert "measured" in rest[-1] and "not measured" not in rest[-1]
    assert str(lowtide.memory_analysis()).endswith("not measured")


@pytest.mark.spec("G12")
def test_what_was_refused_is_there_to_read():
    """Loops that stay two kernels, a copy and what is copied, both returned, results that overwrite nothing, storages outside
    slabs: in the record and in its JSON."""

    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        doubled = x * 2
        return torch.softmax(x, 0), torch.softmax(x, 1), (x + 1) @ doubled, doubled, doubled.T.contiguous()

    torch.compile(f, backend="lowtide")(torch.randn(64, 64))
    told = lowtide.memory_analysis()
    (graph,) = told.graphs
    what = [r.what for r in graph.refused]
    assert [w for w in what if w.endswith("stay two kernels")] and [w for w in what if w.endswith(" in a slab")]
    assert [w for w in what if " over %" in w] and [w for w in what if " stored once, as %" in w]
    data = json.loads(json.dumps(told.to_json()))
    assert data["graphs"][0]["refused"] == [
        {"what": r.what, "because": r.because, "knob": r.knob} for r in graph.refused
    ]
    assert f"{len(what)} times two did not share a kernel or bytes" in str(told)


@pytest.mark.spec("G9")
def test_calls_add_up():
    """Two forwards in flight hold twice what one saves and returns; a backward gives its own back."""
    step_of(mlp(), torch.randn(256, 64))
    ((planned,),) = [r.planned for r in records()]
    forward, backward = Call(planned, 0, (), (), ()), Call(planned, 1, (), (), ())
    once = iteration_peak([forward, backward])
    assert once == planned.plan.promised_nbytes
    alone = iteration_peak([forward])
    assert alone <= once
    assert iteration_peak([]) == 0


@pytest.mark.spec("G12", "PP-36")
def test_sizes_that_run_as_captured_are_told_apart_from_planned_ones(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: object, **__: object) -> object:
        raise BugError("a name is used twice")

    compiled = torch.compile(lambda x: (x @ x.T).relu().sum(), backend="lowtide", dynamic=True)
    compiled(torch.randn(5, 4))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "emit", broken)
        compiled(torch.randn(50, 4))
    compiled(torch.randn(7, 4))
    told = lowtide.memory_analysis()
    planned = [g for g in told.graphs if g.fallback is None]
    (captured,) = [g for g in told.graphs if g.fallback is not None]
    assert len(planned) == 2 and all(g.promised_peak_bytes for g in planned)
    assert captured.promised_peak_bytes == 0
    assert "=50" in captured.fallback and "a name is used twice" in captured.fallback
    assert f"unplanned: {captured.fallback}" in str(told)
    assert any("=50" in r.message and "runs as captured" in r.message for r in caplog.records)
