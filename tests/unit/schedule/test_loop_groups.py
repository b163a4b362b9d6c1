"""A kernel that fusion made answers what the operations in it would answer together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from loop_programs import programs

from lowtide.ir.graph import Graph, Op, refs_in
from lowtide.ir.lowered import LOOP, Lowered, check_lowered, kernel_of
from lowtide.memory.lifetime import lifetimes
from lowtide.schedule.depend import accesses, dependencies
from lowtide.schedule.fusion import fuse_loops
from lowtide.schedule.inline import inline
from lowtide.schedule.schedule import memory_graph, schedule


def groups(lowered: Lowered) -> tuple[Lowered, Graph, Mapping[str, str]]:
    """What fusion made, the graph of what it did not drop, and the operation of the fused one that each has become."""
    found = fuse_loops(lowered, schedule(lowered.graph, {}, loops=lowered.loops)).lowered
    left = [op.name for op in found.graph.ops if not op.view]
    into = {n: n for n in left} | kernel_of(found.members)
    sections = tuple(
        replace(s, ops=tuple(op for op in s.ops if op.view or op.name in into)) for s in lowered.graph.sections
    )
    return found, replace(lowered.graph, sections=sections), into


def touched(graph: Graph, ops: list[Op]) -> tuple[set[str], set[str], set[str]]:
    """Storages that operations read, change and make, all of them together."""
    storage = {v.name: v.storage for v in graph.values}
    read, changed, made = (set[str](), set[str](), set[str]())
    for op in ops:
        for all_, one in zip((read, changed, made), accesses(op, storage), strict=True):
            all_.update(one)
    return read, changed, made


@pytest.mark.spec("SC-04", "SC-07")
@given(programs())
@settings(max_examples=60, deadline=None)
def test_a_kernel_touches_what_its_members_touch_without_what_stays_inside(lowered: Lowered) -> None:
    found, before, into = groups(lowered)
    storage = {v.name: v.storage for v in before.values}
    returned = {storage[n] for s in before.sections for a in s.returns for n in refs_in(a)}
    for op in found.graph.ops:
        if op.view:
            continue
        inside = [x for x in before.ops if into.get(x.name) == op.name]
        outside = [x for x in before.ops if not x.view and into[x.name] != op.name]
        read, changed, made = touched(before, inside)
        needed = returned | touched(before, outside)[0]
        got = touched(found.graph, [op])
        assert got == (read - made, changed - made, {s for s in made if s in got[2] or s in needed})
        assert got[2] <= made


@pytest.mark.spec("SC-07", "SC-04")
@given(programs())
@settings(max_examples=60, deadline=None)
def test_a_kernel_waits_for_what_its_members_wait_for(lowered: Lowered) -> None:
    """Ancestors of kernels are those of their members, and never the kernel itself."""
    found, before, into = groups(lowered)
    for old, new in zip(before.sections, found.graph.sections, strict=True):
        was, now = dependencies(before, old), dependencies(found.graph, new)
        want: dict[str, set[str]] = {n: set() for n in now.names}
        for n in was.names:
            want[into[n]] |= {into[b] for b in was.before[n]} - {into[n]}
        closure: dict[str, set[str]] = {}
        for k, n in enumerate(now.names):
            assert want[n] <= set(now.names[:k])
            closure[n] = want[n].union(*(closure[b] for b in want[n]))
            assert {b for j, b in enumerate(now.names) if now.ancestors[n] >> j & 1} == closure[n]


@pytest.mark.spec("SC-05")
@given(programs())
@settings(max_examples=60, deadline=None)
def test_an_operation_follows_its_body_when_that_changes(lowered: Lowered) -> None:
    """After inlining and fusion it is given and makes exactly what the body now touches, and changes what that writes."""
    small = inline(lowered)
    found = fuse_loops(small, schedule(small.graph, {}, loops=small.loops)).lowered
    for x in (small, found):
        check_lowered(x)
        for op in x.graph.ops:
            if op.target == LOOP:
                body = x.loops[op.name].body
                names = [*(n for a in op.args for n in refs_in(a)), *op.outputs]
                assert {i.attr for i in body if i.touches} == set(range(len(names)))


@pytest.mark.spec("SC-23", "SC-04")
@given(programs())
@settings(max_examples=40, deadline=None)
def test_a_schedule_finds_by_name_what_it_was_made_of(lowered: Lowered) -> None:
    """Every operation its step, also one that is inside a kernel by now; every storage its buffer."""
    found, before, into = groups(lowered)
    made = replace(schedule(found.graph, {}, loops=found.loops), members=found.members)
    assert [s.op for s in made.steps] == [op for op in found.graph.ops if not op.view]
    for op in before.ops:
        if not op.view:
            assert made.step[op.name].op.name == into[op.name]
            assert made.step[into[op.name]].loop is found.loops.get(into[op.name])
    line = memory_graph(made)
    assert list(line.buffer) == [v.name for v in found.graph.values if v.storage == v.name]
    assert {n.name for n in line.nodes if n.name in made.step} == {s.op.name for s in made.steps}
    owned = {x.name for x in lifetimes(line)}
    assert owned.isdisjoint(found.graph.caller_owned)
    assert owned == {o for s in made.steps for o in s.op.outputs if o is not None}
