"""Random numbers beside generated kernels: eager's own, in the program's order, however often it is compiled."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytestmark = pytest.mark.torch

Compile = Callable[..., Any]


def _net(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    """Draws of several kinds between what is lowered, the first of them needed last."""
    late = torch.rand(64, 32)
    h = F.dropout(torch.relu(x @ w), 0.3)
    k = F.dropout(h * 2 + 1, 0.5)
    small = torch.randn(64, 32).amax(0)
    drawn = torch.bernoulli(torch.full((32,), 0.4)), torch.randint(0, 99, (9,)), torch.randperm(13)
    other = F.alpha_dropout(k, 0.2), F.rrelu(h - 1, training=True), torch.normal(k.detach(), 0.1)
    return h, k, *other, *drawn, (k + small).sum(1), late + small


def _run(f: Callable[..., Any]) -> list[Tensor]:
    """Results and gradients under a seed, and where the generator stands at the end."""
    g = torch.Generator().manual_seed(3)
    x, w = (torch.randn(n, generator=g).requires_grad_() for n in ((64, 10), (10, 32)))
    torch.manual_seed(7)
    out = f(x, w)
    sum(o.sum() for o in out if o.requires_grad).backward()
    assert x.grad is not None and w.grad is not None
    return [*(o.detach() for o in out), x.grad, w.grad, torch.get_rng_state()]


def _options(**more: Any) -> dict[str, Any]:
    return {"options": {"kernels": "loops", "verify": True} | more}


@pytest.mark.spec("IR-57", "G1")
def test_draws_are_eagers_own(compiled: Compile):
    ours, eager = _run(compiled(_net, **_options())), _run(_net)
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b)
    for k in (0, 1):  # what is dropped
        assert torch.equal(ours[k] == 0, eager[k] == 0) and bool((eager[k] == 0).any())
    for k in (5, 6, 7, -1):  # numbers, and the generator's state
        assert torch.equal(ours[k], eager[k])


@pytest.mark.spec("IR-57")
def test_compiling_again_draws_the_same(compiled: Compile):
    f = compiled(_net, **_options())
    first, second = _run(f), _run(f)
    torch.compiler.reset()
    again = _run(compiled(_net, **_options()))
    for a, b, c in zip(first, second, again, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


@pytest.mark.spec("IR-57", "G1")
def test_no_switch_changes_the_order_of_draws(compiled: Compile):
    def draws(x: Tensor) -> tuple[Tensor, ...]:
        """It would pay to draw the first last."""
        large = torch.rand(4, 4096)
        parts = [(torch.rand(4, 4096) * x).amax(1) for _ in range(3)]
        return large * 2, *parts

    x = torch.rand(4, 4096)
    torch.manual_seed(1)
    expected = draws(x)
    for fuse, reorder, inplace in itertools.product((True, False), repeat=3):
        torch.compiler.reset()
        f = compiled(draws, **_options(fuse=fuse, reorder=reorder, inplace=inplace))
        torch.manual_seed(1)
        for a, b in zip(f(x), expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.spec("IR-57")
def test_dropout_repeats_under_a_seed_and_not_without(compiled: Compile):
    f = compiled(lambda x: F.dropout(x + 1, 0.3), **_options())
    x = torch.randn(4000)
    torch.manual_seed(5)
    one, two = f(x), f(x)
    torch.manual_seed(5)
    assert torch.equal(f(x), one) and not torch.equal(one, two)
    assert 0.25 < (one == 0).float().mean().item() < 0.35
    kept = one != 0
    torch.testing.assert_close(one[kept], ((x + 1) / 0.7)[kept])


@pytest.mark.spec("IR-18")
def test_a_random_input_that_is_returned_is_the_callers(compiled: Compile):
    f = compiled(lambda x: x.uniform_(), **_options())
    x, y = torch.zeros(9), torch.zeros(9)
    torch.manual_seed(2)
    out = f(x)
    torch.manual_seed(2)
    assert torch.equal(x, y.uniform_()) and out.data_ptr() == x.data_ptr()
