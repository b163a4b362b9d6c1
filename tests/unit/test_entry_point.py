"""The entry point: one plan for forward and backward, variants by shape, records, and what falls back."""

from __future__ import annotations

from copy import copy

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

import lowtide
from lowtide import backend
from lowtide.core.reason import Reason
from lowtide.runtime.records import note_fallback, records

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("fresh_compiler")]


def test_it_is_found_by_name_in_a_fresh_list():
    assert "lowtide" in torch._dynamo.list_backends()
    assert torch._dynamo.lookup_backend("lowtide") is backend.lowtide


def test_forward_and_backward_are_one_program():
    layer = nn.Linear(8, 8)
    torch.compile(layer, backend="lowtide")(torch.randn(4, 8)).sum().backward()
    (record,) = records()
    (planned,) = record.planned
    assert [s.name for s in planned.schedule.graph.sections] == ["forward", "backward"]
    assert record.capture_seconds > 0 and record.compile_seconds > 0


def test_inference_has_one_section_and_saves_nothing():
    with torch.no_grad():
        torch.compile(nn.Linear(8, 8), backend="lowtide")(torch.randn(4, 8))
    ((planned,),) = [r.planned for r in records()]
    (section,) = planned.schedule.graph.sections
    assert section.name == "inference" and not section.saved


def test_a_graph_that_is_changed_after_it_was_planned_is_planned_anew(monkeypatch: pytest.MonkeyPatch):
    """Another pass may change a half between the partition and its compilation: the joint plan then does not hold."""
    prints = iter([("a",), ("b",), ("changed",), ("b",)])
    real = backend._fingerprint
    monkeypatch.setattr(backend, "_fingerprint", lambda gm: next(prints, real(gm)))
    layer = nn.Linear(8, 8)
    twin = nn.Linear(8, 8)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(4, 8)
    torch.compile(layer, backend="lowtide")(x).square().sum().backward()
    twin(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad)
    names = [[s.name for s in p.schedule.graph.sections] for r in records() for p in r.planned]
    assert ["forward"] in names


@pytest.mark.spec("G1")
def test_each_shape_has_its_variant_and_the_recent_ones_are_kept():
    compiled = torch.compile(
        lambda x: (x @ x.T).relu().sum(), backend="lowtide", dynamic=True, options={"recent_shapes": 2, "verify": True}
    )
    for n in (3, 5, 7, 3, 9, 5):
        x = torch.randn(n, 4)
        torch.testing.assert_close(compiled(x), (x @ x.T).relu().sum())
    (record,) = records()
    assert 2 <= len(record.planned) <= 4


def test_reset_forgets_and_compiles_anew():
    def twice(x: Tensor) -> Tensor:
        return x * 2

    compiled = torch.compile(twice, backend="lowtide")
    compiled(torch.ones(2))
    assert len(lowtide.memory_analysis().graphs) == 1
    torch.compiler.reset()
    assert lowtide.memory_analysis().graphs == ()
    compiled(torch.ones(2))
    assert len(lowtide.memory_analysis().graphs) == 1


def test_what_a_program_of_before_a_reset_builds_is_not_listed():
    """Such as the backward call of a graph that was kept, which is planned alone when it is first needed."""
    x = torch.randn(4, 8, requires_grad=True)
    loss = torch.compile(lambda t: (t @ t.T).tanh().sum(), backend="lowtide")(x)
    torch.compiler.reset()
    loss.backward(retain_graph=True)
    assert x.grad is not None
    assert records() == ()


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_an_exported_program_is_forgotten_too():
    """A reset of torch's reaches only the backends that it compiled with since the one before."""
    with torch.no_grad():
        lowtide.compile_exported(torch.export.export(nn.Linear(8, 8), (torch.randn(4, 8),)))
    assert [r.name.startswith("export") for r in records()] == [True]
    torch.compiler.reset()
    assert records() == ()


def test_records_are_told_apart_by_identity():
    torch.compile(lambda x: x * 2, backend="lowtide")(torch.ones(2))
    (record,) = records()
    twin = copy(record)
    note_fallback(twin, Reason("a graph", "for a reason"))
    assert [r is twin for r in records()] == [False, True]
    note_fallback(record, Reason("a graph", "for a reason"))
    assert len(records()) == 2
