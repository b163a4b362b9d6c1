"""Values that are stored, and those that never are: constants, and the parts of a concatenation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from loop_programs import compute, one_by_one
from small_loops import flat
from test_fusion import program

from lowtide.ir.interpret import interpret
from lowtide.ir.lowered import LOOP, Lowered, check_lowered
from lowtide.ir.verify import verify
from lowtide.schedule.inline import inline

SEVEN = flat(0, 1, (16,), "c = const 7; store 0 r0 c")
ADD = flat(2, 1, (16,), "a = load 0 r0; b = load 1 r0; c = add a b; store 2 r0 c")
GROW = flat(1, 0, (16,), "a = load 0 r0; c = const 5; b = add a c; store 0 r0 b")


def listed(*ops: tuple[Any, str, str], keep: str) -> Lowered:
    names = dict.fromkeys(n for _, given, out in ops for n in (*given.split(), *out.split()))
    texts = [(str(loop), tuple(given.split()), tuple(out.split())) for loop, given, out in ops]
    return program(dict.fromkeys(names, (16,)), texts, keep, "i64")


@pytest.mark.spec("IR-38")
@pytest.mark.parametrize("users", [1, 4])
def test_a_constant_that_nobody_changes_is_never_stored(users: int) -> None:
    adds = [(ADD, f"x{k} k", f"y{k}") for k in range(users)]
    lowered = listed((SEVEN, "", "k"), *adds, keep=" ".join(f"y{k}" for k in range(users)))
    found = inline(lowered)
    verify(found.graph)
    check_lowered(found)
    assert len(found.loops) == users and all(loop.inputs == ("i64",) for loop in found.loops.values())
    assert "k" not in found.graph.value
    want, got = compute(lowered), compute(found, one_by_one(1))
    assert all(np.array_equal(x, got[name]) for name, x in want.items())


@pytest.mark.spec("IR-38")
def test_a_constant_that_is_changed_or_returned_has_bytes() -> None:
    changed = listed((SEVEN, "", "k"), (GROW, "k", ""), (ADD, "x k", "y"), keep="y")
    returned = listed((SEVEN, "", "k"), (ADD, "x k", "y"), keep="y k")
    for lowered in (changed, returned):
        found = inline(lowered)
        assert len(found.loops) == len(lowered.loops) and "k" in found.graph.value
        want, got = compute(lowered), compute(found, one_by_one(1))
        assert all(np.array_equal(x, got[name]) for name, x in want.items())


def loops_of(f: Callable[..., Any], *args: Any) -> Lowered:
    from torch.fx.experimental.proxy_tensor import make_fx

    from lowtide.frontend.fx_import import import_graph
    from lowtide.lowering.lower import lower

    gm = make_fx(lambda *given: list(f(*given)), tracing_mode="fake")(*args)
    return inline(lower(import_graph("g", [("inference", gm)])[0]))


@pytest.mark.torch
@pytest.mark.spec("IR-51")
def test_the_parts_of_a_concatenation_are_computed_in_their_places() -> None:
    torch = pytest.importorskip("torch")
    x, y, w = torch.randn(6, 4), torch.randn(6, 3), torch.randn(4, 4)

    def made(f: Callable[..., Any]) -> tuple[int, set[str]]:
        """How many loops there are, and what is stored."""
        found = loops_of(f, x, y, w)
        given = {i.name for i in found.graph.sections[0].inputs if i is not None}
        assert not found.reasons
        loops = [op for op in found.graph.ops if op.target == LOOP]
        return len(loops), {v.name for v in found.graph.values if v.storage == v.name} - given

    assert made(lambda x, y, w: [torch.cat([x.sin(), y.cos()], 1)]) == (1, {"cat"})
    assert made(lambda x, y, w: [torch.cat([x, y], 1)]) == (1, {"cat"})  # the copy itself
    loops, stored = made(lambda x, y, w: [torch.cat([s := x.sin(), y], 1), s])
    assert stored == {"sin", "cat"}  # who reads the part still finds it
    loops, stored = made(lambda x, y, w: [torch.cat([x.sin()] + [y.cos() + k for k in range(5)], 1)])
    assert loops == 6 and stored == {"cat"}  # many parts: a loop each, into one result
    assert made(lambda x, y, w: [torch.cat([x @ w, y], 1)]) == (1, {"mm", "cat"})  # a library's result is copied


@pytest.mark.torch
@pytest.mark.spec("IR-51")
def test_a_concatenation_within_another_is_not_made() -> None:
    torch = pytest.importorskip("torch")
    x, y = torch.arange(24.0).view(6, 4), torch.arange(18.0).view(6, 3)

    def stored(f: Callable[..., Any]) -> set[str]:
        found = loops_of(f, x, y)
        check_lowered(found)
        section = found.graph.sections[0]
        held = {i.name: v.numpy().ravel() for i, v in zip(section.inputs, (x, y), strict=True)}
        given = set(held)
        for o in (op for op in section.ops if op.target == LOOP):
            held |= {n: np.zeros(found.graph.nbytes[n] // 4, "f4") for n in o.outputs}
            interpret(found.loops[o.name], [held[n] for n in (*o.reads, *o.outputs)])
        for ref, wanted in zip(section.returns, f(x, y), strict=True):
            assert np.array_equal(held[ref.name], wanted.numpy().ravel())
        return {v.name for v in found.graph.values if v.storage == v.name} - given

    def along(x: Any, y: Any) -> Any:
        return torch.cat([y, torch.cat([x.neg(), y, x], 1), x], 1)

    assert stored(lambda x, y: [along(x, y)]) == {"cat_1"}
    assert stored(lambda x, y: [torch.cat([torch.cat([x, y], 1), torch.cat([y, x], -1)], 0)]) == {"cat_2"}
    assert stored(lambda x, y: [torch.cat([c := torch.cat([x, y], 1), c], 0)]) == {"cat_1"}
    assert stored(lambda x, y: [torch.cat([c := torch.cat([x, y], 1), y], 1), c]) == {
        "cat",
        "cat_1",
    }  # the caller has it
    assert stored(lambda x, y: [torch.cat([torch.cat([x, y], 1).t(), x[:4, :1].expand(4, 6)], 0)]) == {"cat_1"}
