"""Operations on lists of tensors: a loop per member that somebody needs, and one launch of those that stay small."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lowtide.ir.graph import Graph
from lowtide.ir.lowered import check_lowered
from lowtide.ir.text import parse
from lowtide.lowering.lower import lower
from lowtide.runtime.records import records
from lowtide.schedule.fusion import Fused, fuse_loops
from lowtide.schedule.inline import inline
from lowtide.schedule.rules import CACHED
from lowtide.schedule.schedule import schedule

LARGE = CACHED.large

pytestmark = pytest.mark.torch


def listed(*sizes: int, dead: int | None = None) -> Graph:
    """The exponentials of a list of tensors of these sizes, all returned but that of member ``dead``, which nobody needs."""
    inputs = "".join(f"    input %x{k}: f32[{n}]{{1}} @cpu\n" for k, n in enumerate(sizes))
    outputs = ", ".join("_" if k == dead else f"%y{k}" for k in range(len(sizes)))
    values = "".join(f"      %y{k}: f32[{n}]{{1}} @cpu\n" for k, n in enumerate(sizes) if k != dead)
    given = ", ".join(f"%x{k}" for k in range(len(sizes)))
    kept = ", ".join(f"%y{k}" for k in range(len(sizes)) if k != dead)
    return parse(
        f"graph g version 1\n  section inference\n{inputs}    ({outputs}) = aten._foreach_exp.default([{given}]) as many\n"
        f"{values}    return [{kept}]\n"
    )


def fused(graph: Graph) -> Fused:
    lowered = lower(graph)
    found = fuse_loops(lowered, schedule(lowered.graph, {}, loops=lowered.loops))
    check_lowered(found.lowered)
    return found


@pytest.mark.spec("SC-47")
def test_members_that_nobody_needs_are_left_out_and_an_empty_list_makes_nothing() -> None:
    lowered = lower(listed(4, 5, 6, dead=1))
    assert [op.outputs for op in lowered.graph.ops] == [("y0",), ("y2",)]
    assert lowered.together == (("y0", "y2"),)
    assert not lower(listed()).loops
    assert inline(lowered).together == lowered.together


@pytest.mark.spec("SC-47")
def test_small_members_become_one_launch_though_they_share_nothing() -> None:
    found = fused(listed(4, 500, 6, 70))
    (op,) = found.lowered.graph.ops
    assert sorted(str(o) for o in op.outputs) == ["y0", "y1", "y2", "y3"]


@pytest.mark.spec("SC-47")
def test_large_members_stay_apart_and_say_why() -> None:
    found = fused(listed(LARGE, LARGE, LARGE))
    assert len(found.lowered.loops) == 3
    assert {r.because for r in found.refused} == {"they share 0 B"}


@pytest.mark.spec("SC-47", "G1")
def test_the_step_of_an_optimizer_is_one_launch() -> None:
    """Each parameter's update in place is one pass, and the small parameters' passes are launched together."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    twin = copy.deepcopy(net)

    def update(params: list[torch.Tensor], grads: list[torch.Tensor], moments: list[torch.Tensor]) -> None:
        torch._foreach_mul_(moments, 0.9)
        torch._foreach_addcmul_(moments, grads, grads, 0.1)
        roots = torch._foreach_sqrt(moments)
        torch._foreach_add_(roots, 1e-3)
        torch._foreach_addcdiv_(params, grads, roots, -0.05)

    torch.compiler.reset()
    call = torch.compile(update, backend="lowtide", options={"verify": True})
    x = torch.randn(7, 6)
    for module, step in ((net, call), (twin, update)):
        params = list(module.parameters())
        moments = [torch.zeros_like(p) for p in params]
        for _ in range(3):
            grads = torch.autograd.grad(module(x).square().sum(), params)
            with torch.no_grad():
                step(params, list(grads), moments)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    (made,) = (p.schedule for r in records() for p in r.planned)
    assert [s.loop is not None for s in made.steps] == [True], [s.op.name for s in made.steps]
