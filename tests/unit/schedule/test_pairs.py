"""Which two operations become one kernel: what stands between them, and what they share."""

from __future__ import annotations

import pytest
from small_loops import flat, nest

from lowtide.ir.graph import Graph
from lowtide.ir.lowered import LOOP, Lowered, check_lowered
from lowtide.ir.task import Task
from lowtide.ir.text import parse
from lowtide.ir.verify import verify
from lowtide.schedule.fusion import Fused, fuse_loops
from lowtide.schedule.joined import joined
from lowtide.schedule.rules import CACHED
from lowtide.schedule.schedule import schedule

LARGE = CACHED.large

DOUBLED = "a = load 0 r0; b = add a a; store 1 r0 b"
ADDED = "a = load 0 r0; b = load 1 r0; c = add a b; store 2 r0 c"


def fused(text: str, **bodies: str) -> Fused:
    """The graph of a text with loops over 8 numbers, fused."""
    graph: Graph = parse(text)
    ops = {op.name: op for op in graph.ops if op.target == LOOP}
    lowered = Lowered(
        graph, {n: flat(len(ops[n].reads), len(ops[n].outputs), (8,), body) for n, body in bodies.items()}
    )
    found = fuse_loops(lowered, schedule(graph, {}, loops=lowered.loops))
    verify(found.lowered.graph)
    check_lowered(found.lowered)
    return found


@pytest.mark.spec("SC-25")
@pytest.mark.parametrize("third", ["%z", "%a"])
def test_a_reader_joins_its_maker_unless_what_else_it_reads_comes_from_that(third: str) -> None:
    """``s`` reads ``a`` and ``c``, a library call that stands between them and reads ``z`` or ``a``."""
    found = fused(
        f"""graph g version 1
  section inference
    input %x: i64[8]{{1}} @cpu
    input %z: i64[8]{{1}} @cpu
    %a: i64[8]{{1}} @cpu = {LOOP}(%x)
    %c: i64[8]{{1}} @cpu = aten.cumsum.default({third})
    %s: i64[8]{{1}} @cpu = {LOOP}(%a, %c)
    return %s
""",
        a=DOUBLED,
        s=ADDED,
    )
    names = [op.name for op in found.lowered.graph.ops]
    if third == "%z":
        assert names == ["c", "s"] and not found.refused
    else:
        assert names == ["a", "c", "s"]
        assert [r.because for r in found.refused] == ["%c must run between them"]


@pytest.mark.spec("SC-25", "SC-26")
@pytest.mark.parametrize(("read", "kernels"), [("r0", 1), ("7", 2)])
def test_who_changes_what_another_reads_joins_it_only_at_the_same_element(read: str, kernels: int) -> None:
    """The second takes nothing from the first and only has to wait for it."""
    rows = nest((8,), 1, 1, ((), f"a = load 0 {read.replace('r0', 'i0')}; store 1 i0 a"))
    other = nest((8,), 2, 0, ((), "a = load 0 i0; store 1 i0 a"))
    found = joined(Task(rows, ("x",), ("y",)), Task(other, ("w", "x"), ()), {"y"})
    assert isinstance(found, Task) == (kernels == 1)
    if isinstance(found, str):
        assert "%x is changed at other outer points than it is read at" in found


@pytest.mark.spec("SC-27")
@pytest.mark.parametrize(("size", "shared", "kernels"), [(LARGE, "tensor", 1), (LARGE, "number", 2), (8, "number", 1)])
def test_siblings_share_a_pass_over_what_they_share_or_a_call_where_that_is_dear(
    size: int, shared: str, kernels: int
) -> None:
    """Two sums of a tensor and a number; it is the tensor that both have, or the number alone."""
    text = "a = load 0 r0; b = load 1 0; c = add a b; store 2 r0 c"
    first = Task(flat(2, 1, (size,), text), ("x", "k"), ("y",))
    given = ("x", "l") if shared == "tensor" else ("w", "k")
    found = joined(first, Task(flat(2, 1, (size,), text), given, ("z",)), {"y", "z"})
    assert isinstance(found, Task) == (kernels == 1), found
    if isinstance(found, Task) and shared == "tensor":
        assert sum(x.op == "load" and x.attr == found.given.index("x") for x in found.loop.body) == 1


@pytest.mark.spec("SC-26")
@pytest.mark.parametrize(("read", "written", "stages"), [("r0", "r0", 1), ("7", "r0", 2), ("0", "0", 2)])
def test_an_update_in_place_is_one_pass_where_each_point_has_an_element_of_its_own(
    read: str, written: str, stages: int
) -> None:
    """The first makes ``y`` of ``x``, the second writes over ``x`` what it makes of ``y``."""
    first = Task(flat(1, 1, (8,), f"a = load 0 {read}; b = add a a; store 1 r0 b"), ("x",), ("y",))
    second = Task(flat(2, 0, (8,), f"a = load 1 r0; b = mul a a; store 0 {written} b"), ("x", "y"), ())
    found = joined(first, second, set())
    assert isinstance(found, Task)
    assert (len(found.loop.stages), found.makes) == (stages, () if stages == 1 else ("y",))
