"""What is rewritten in a graph without a backward: needless copies, and cross entropy a few rows at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from lowtide.frontend.copies import drop_copies
from lowtide.frontend.loss import split_cross_entropy

aten = torch.ops.aten
pytestmark = pytest.mark.torch


def traced(f, *args: torch.Tensor) -> fx.GraphModule:
    gm = make_fx(f, tracing_mode="fake")(*args)
    gm.graph.eliminate_dead_code()
    return gm


def count(gm: fx.GraphModule, op: object) -> int:
    return len(gm.graph.find_nodes(op="call_function", target=op))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [-100, 3])
def test_cross_entropy_by_rows_is_the_same_bit_for_bit(reduction: str, ignored: int):
    logits = torch.randn(1030, 1500) * 4  # the last rows are not as many as the others
    target = torch.randint(0, 1500, (1030,))
    target[::7] = ignored

    def loss(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x, t, reduction=reduction, ignore_index=ignored)

    gm = traced(loss, logits, target)
    split_cross_entropy(gm)
    gm.graph.lint()
    made = [n.meta["val"].nbytes for n in gm.graph.find_nodes(op="call_function", target=aten._log_softmax.default)]
    assert len(made) > 1 and max(made) <= 1 << 20
    assert torch.equal(gm(logits, target), loss(logits, target))


def test_rows_all_ignored_give_nan_as_eager_does():
    logits, target = torch.randn(1024, 2048), torch.full((1024,), -100)
    gm = traced(lambda x, t: F.cross_entropy(x, t), logits, target)
    split_cross_entropy(gm)
    assert count(gm, aten._log_softmax.default) > 1
    assert gm(logits, target).isnan()


@pytest.mark.parametrize(
    "case",
    {
        "small": lambda x, t, w: F.cross_entropy(x[:8, :8], t[:8].clamp(max=7)),
        "weights": lambda x, t, w: F.cross_entropy(x, t, weight=w),
        "read twice": lambda x, t, w: (F.nll_loss(y := F.log_softmax(x, 1), t), y.sum()),
        "in two dimensions": lambda x, t, w: F.cross_entropy(x.view(8, 128, 2048).transpose(1, 2), t.view(8, 128)),
    }.items(),
    ids=lambda c: c[0],
)
def test_other_losses_stay_as_they_are(case):
    x, t, w = torch.randn(1024, 2048), torch.randint(0, 2048, (1024,)), torch.rand(2048)
    gm = traced(case[1], x, t, w)
    before = gm.code
    split_cross_entropy(gm)
    assert gm.code == before


COPIES = {
    # function of (an input, a weight) -> copies that stay
    "in the middle": (lambda x, w: (x @ w).clone().relu(), 0),
    "of a view": (lambda x, w: (x @ w).view(-1).clone() + 1, 0),
    "through a view": (lambda x, w: (x @ w).clone().view(-1) + 1, 0),
    "of an input": (lambda x, w: x.clone() + 1, 1),
    "of a view of an input": (lambda x, w: x.view(-1).clone() + 1, 1),
    "of a part of an input": (lambda x, w: x.split(2)[0].clone() + 1, 1),
    "returned": (lambda x, w: (x @ w).clone(), 1),
    "returned through a view": (lambda x, w: (x @ w).clone().view(-1), 1),
    "a part returned": (lambda x, w: (x @ w).clone().split(2)[0], 1),
    "changes strides": (lambda x, w: (x @ w).t().contiguous() + 1, 1),
}


@pytest.mark.parametrize("case", COPIES.items(), ids=lambda c: c[0])
def test_copies_go_where_nobody_can_tell(case):
    f, stay = case[1]
    x, w = torch.randn(4, 6), torch.randn(6, 6)
    gm = traced(f, x, w)
    drop_copies(gm)
    gm.graph.lint()
    assert count(gm, aten.clone.default) == stay
    assert torch.equal(gm(x, w), f(x, w))


def test_nothing_goes_from_a_graph_that_changes_what_it_makes():
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        z = y.clone()
        y.add_(1)
        return z + y

    x = torch.randn(5)
    gm = traced(f, x)
    drop_copies(gm)
    assert count(gm, aten.clone.default) == 1
    assert torch.equal(gm(x), f(x))
