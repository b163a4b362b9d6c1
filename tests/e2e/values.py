"""What the tests of values share: comparing results, strides and inputs with eager, bit by bit where nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Compile = Callable[..., Any]


def leaves(tree: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(tree)


def agree(got: Any, ref: Any) -> None:
    assert len(leaves(got)) == len(leaves(ref))
    for a, b in zip(leaves(got), leaves(ref), strict=True):
        if not isinstance(b, Tensor):
            assert a == b
            continue
        assert (a.dtype, a.shape, a.requires_grad, a.layout) == (b.dtype, b.shape, b.requires_grad, b.layout)
        if b.numel() and b.layout == torch.strided:
            steps = [(s, t) for s, t, n in zip(a.stride(), b.stride(), b.shape, strict=True) if n > 1]
            assert all(s == t for s, t in steps), f"strides {a.stride()} where eager has {b.stride()}"
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def check(compile_one: Compile, f: Callable[..., Any], *given: Any, mutates: bool = False, **more: Any) -> Any:
    """Call twice, hold both results, compare with eager and the inputs with what they were."""
    g = compile_one(f, **more)
    held = []
    for _ in range(2):
        theirs, ours = [_fresh(x) for x in given], [_fresh(x) for x in given]
        ref, got = f(*theirs), g(*ours)
        held.append((got, ref, theirs, ours))
    for got, ref, theirs, ours in held:
        agree(got, ref)
        agree(ours, theirs)
        if not mutates:
            agree([_plain(x) for x in ours], [_plain(x) for x in given])
    return held[-1][0]


def _fresh(x: Any) -> Any:
    """A copy with the same layout, whose own storage is laid out alike."""
    if not isinstance(x, Tensor) or x.layout != torch.strided:
        return x
    base = x.detach().untyped_storage().clone()
    made = torch.empty(0, dtype=x.dtype).set_(base, x.storage_offset(), x.size(), x.stride())
    return made.requires_grad_(x.requires_grad)


def _plain(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


def work(x: Tensor) -> Tensor:
    """Something with several steps for any floating tensor."""
    y = torch.tanh(x * 2 + 1)
    return (y * y - x).relu() + y.sum()
