"""Storages that another allocator than their device's must give (memory for communication): kept apart in plan and checker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest

from lowtide.codegen.host import emit
from lowtide.core.codec import dumps, loads
from lowtide.core.errors import FileError, Unsupported, VerifyError
from lowtide.core.options import Options
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
from lowtide.memory import json as memory_json
from lowtide.memory.lifetime import lifetimes
from lowtide.plan.choose import plan_memory
from lowtide.plan.disjoint import check_plan
from lowtide.plan.memory_lines import memory_lines
from lowtide.plan.plan import SLAB
from lowtide.plan.pool_lines import pooled
from lowtide.plan.pools import MODES
from lowtide.plan.refused import refusals
from lowtide.plan.replay import replay
from lowtide.schedule.json import read_schedule, to_json
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, schedule

NAMES = ("a", "b", "c", "d", "e", "y")


def chain(allocators: dict[str, str], nbytes: Mapping[str, int] = MappingProxyType({})) -> Schedule:
    """Each reads the one before it, pointwise, so that without allocators all could lie in one place. 512 bytes or ``nbytes``."""
    values = tuple(Value(n, Layout("u8", "cpu", (nbytes.get(n, 512),), (1,)), n) for n in ("x", *NAMES))
    ops = [Op(n, "aten.relu.default", (Ref(p),), outputs=(n,)) for p, n in zip(("x", *NAMES), NAMES, strict=False)]
    graph = Graph("g", values, (Section("inference", (Ref("x"),), tuple(ops), (Ref("y"),)),))
    made = schedule(graph, dict.fromkeys(NAMES, OpFacts(out="aten.relu.out", pointwise=True)))
    return replace(made, allocators=allocators)


def facts_of(made: Schedule, name: str, facts: OpFacts) -> Schedule:
    return replace(made, steps=tuple(replace(s, facts=facts) if s.op.name == name else s for s in made.steps))


@pytest.mark.spec("IR-19", "G9")
@pytest.mark.parametrize("slabs", ["auto", "none", "one"])
def test_what_another_allocator_gives_is_recycled_only_among_its_like(slabs: str) -> None:
    made = chain({"a": "symm", "c": "symm", "d": "other"})
    plan = plan_memory(made, Options(slabs=slabs))
    replay(made, plan)
    where = {n: plan.slabs[k].allocator for n in NAMES if (k := plan.place[n].slab) is not None}
    assert {n: w for n, w in where.items() if w} == made.allocators
    a, c = plan.place["a"], plan.place["c"]
    assert (a.slab, a.offset, a.how) == (c.slab, c.offset, SLAB), "one place serves both, one after the other"
    assert plan.slabs[a.slab or 0].nbytes == 512
    with pytest.raises(VerifyError, match=r"^allocator"):
        replay(made, replace(plan, slabs=tuple(replace(x, allocator="") for x in plan.slabs)))
    assert all(x.takes_over is None for x in lifetimes(memory_graph(made)) if x.name in "abcde")


@pytest.mark.spec("IR-19")
def test_what_the_caller_keeps_cannot_come_from_another_allocator_and_no_run_time_has_one_yet() -> None:
    with pytest.raises(Unsupported, match=r"%y.*must come from allocator symm: the caller gets to keep it"):
        plan_memory(chain({"y": "symm"}), Options())
    with pytest.raises(Unsupported, match=r"%b.*must come from allocator symm: aten.relu.default writes into no given"):
        plan_memory(facts_of(chain({"b": "symm"}), "b", OpFacts(pointwise=True)), Options())
    made = chain({"b": "symm"})
    with pytest.raises(Unsupported, match="no run time has its memory"):
        emit(made, plan_memory(made, Options()))


@pytest.mark.spec("IR-19")
@pytest.mark.parametrize("slabs", ["auto", "none", "one"])
def test_no_bytes_need_no_allocator(slabs: str) -> None:
    made = chain({"a": "symm", "c": "symm"}, nbytes={"c": 0})
    plan = plan_memory(made, Options(slabs=slabs))
    replay(made, plan)
    check_plan(made, plan)
    assert plan.place["c"].slab is None
    only = chain({"c": "symm"}, nbytes={"c": 0})
    replay(only, plan_memory(only, Options(slabs=slabs)))


@pytest.mark.spec("IR-19", "G12")
@pytest.mark.parametrize("allocators", [{"a": "symm", "c": "symm", "d": "other"}, {"c": "symm"}])
def test_why_bytes_of_an_allocator_are_not_handed_on(allocators: dict[str, str]) -> None:
    made = chain(allocators)
    found = {r.what: r.because for r in refusals(made, plan_memory(made, Options()))}
    assert found["%d over %c"] == "memory of allocator symm is not handed on"
    assert found["%c over %b"] == "memory of allocator symm is not handed on"


@pytest.mark.spec("IR-19", "PP-08")
@pytest.mark.parametrize("mode", MODES)
def test_pools_hold_the_memory_of_one_allocator(mode: str) -> None:
    allocators = {"a": "symm", "c": "symm", "d": "other"}
    lines, infos = memory_lines(chain(allocators))
    assert {n: i.allocator for n, i in infos.items() if i.allocator} == allocators
    _, pools = pooled(lines, infos, mode=mode)
    for p in pools:
        assert {allocators.get(r.name, "") for r in p.members} == {p.allocator}
    assert {r.name for p in pools for r in p.members} >= set(allocators)


def test_allocators_come_back_from_json() -> None:
    made = chain({"b": "symm"})
    assert read_schedule(loads(dumps(to_json(made)))) == made
    graph = memory_graph(made)
    assert memory_json.loads(memory_json.dumps(graph)) == graph and graph.buffer["b"].allocator == "symm"
    alias = '{"name": "v", "nbytes": 8, "alias_of": "a", "allocator": "s"}'
    text = f'{{"version": 1, "buffers": [{{"name": "a", "nbytes": 8}}, {alias}], "nodes": []}}'
    with pytest.raises(FileError, match="say there whose memory it is"):
        memory_json.loads(text)
