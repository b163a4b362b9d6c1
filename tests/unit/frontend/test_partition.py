"""The split of forward and backward: gradients are eager's, and batch statistics are updated once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lowtide.runtime.records import records

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("fresh_compiler")]


def norms() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8),
        nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.LayerNorm(8 * 4 * 4), nn.Linear(8 * 4 * 4, 5),
    )  # fmt: skip


def same(a: nn.Module, b: nn.Module) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    for (name, p), q in zip(a.named_buffers(), b.buffers(), strict=True):
        torch.testing.assert_close(p, q, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.spec("G1", "G5")
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("calls", [1, 2])
def test_gradients_and_statistics_are_eagers(train: bool, calls: int):
    """Also with two forward calls before the backward ones."""
    eager = norms().train(train)
    mine = copy.deepcopy(eager)
    step = torch.compile(mine, backend="lowtide", options={"verify": True})
    data = [torch.randn(4, 3, 8, 8) for _ in range(calls)]
    for model in (eager, step):
        losses = [model(x).square().mean() for x in data]
        for loss in losses:
            loss.backward()
    same(eager, mine)
    assert [r.fallback for r in records()] == [None]


def test_running_statistics_are_not_saved():
    step = torch.compile(norms(), backend="lowtide")
    step(torch.randn(4, 3, 8, 8)).sum().backward()
    graph = records()[-1].planned[0].schedule.graph
    forward, backward = graph.sections
    changed = {graph.value[m].storage for op in forward.ops for m in op.mutates}
    saved = {graph.value[forward.returns[i].name].storage for i in forward.saved if hasattr(forward.returns[i], "name")}
    assert changed and not changed & saved
    assert not any("_legit_functional" in op.target for op in backward.ops)
    assert not any(op.mutates for op in backward.ops)


def test_saved_values_are_what_backward_takes():
    step = torch.compile(norms(), backend="lowtide")
    step(torch.randn(4, 3, 8, 8)).sum().backward()
    forward, backward = records()[-1].planned[0].schedule.graph.sections
    saved = [forward.returns[i] for i in forward.saved]
    assert list(backward.inputs[: len(saved)]) == saved
    read = {r for op in backward.ops for r in op.reads}
    assert {s.name for s in saved} <= read | {getattr(r, "name", None) for r in backward.returns}


def test_an_input_that_is_changed_after_it_was_read():
    """What reads it before is not computed again from what it is later."""

    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = x.exp() * w
        x.add_(1)
        return (y * y).sum()

    x, w = torch.rand(8), torch.rand(8)
    grads = []
    for g in (f, torch.compile(f, backend="lowtide")):
        v = w.clone().requires_grad_()
        g(x.clone(), v).backward()
        grads.append(v.grad)
    torch.testing.assert_close(*grads)


def test_dropout_is_not_drawn_again():
    """The mask of forward is the mask of backward."""
    x = torch.ones(1000, requires_grad=True)
    out = torch.compile(lambda x: torch.nn.functional.dropout(x, 0.5, True), backend="lowtide")(x)
    out.sum().backward()
    assert torch.equal(out.detach(), x.grad)
    assert set(x.grad.unique().tolist()) == {0.0, 2.0}


class PostNorm(nn.Module):
    """A block that ends in a normalisation, as BERT's do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.norm = nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.inner(x))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PostNorm() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x.sum(0)


@pytest.mark.spec("PK-12")
def test_what_lies_between_checkpointed_blocks_is_saved():
    """Else backward begins with all blocks run again, one on the other, and checkpointing makes the peak higher."""
    eager = Stack()
    mine = copy.deepcopy(eager)
    step = torch.compile(mine, backend="lowtide", options={"verify": True})
    x = torch.randn(32, 16)
    for model in (eager, step):
        model(x).square().mean().backward()
    same(eager, mine)
    (record,) = records()
    assert record.fallback is None
    graph = record.planned[0].schedule.graph
    between = [v for v in graph.values if v.layout.size == (32, 16) and "layer_norm" in v.storage]
    saved = {graph.value[graph.sections[0].returns[i].name].storage for i in graph.sections[0].saved}
    assert len({v.storage for v in between} & saved) >= 3
    assert not any(v.layout.size == (32, 64) for v in graph.values if v.storage in saved)
