"""Orders judged by their packed bytes: never worse, sometimes better than the order of least live peak."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace

import pytest
from hypothesis import given

from lowtide.core.options import Options
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
from lowtide.memory.lifetime import timeline
from lowtide.order.check import check_order
from lowtide.order.engine import reorder
from lowtide.plan.choose import plan_memory
from lowtide.plan.refine import refine
from lowtide.plan.replay import replay
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, reordered, schedule
from plans import schedules
from strategies import static_graphs

ARENA = Options(slabs="one")


@pytest.mark.spec("PP-33")
@given(schedules(static_graphs(most=8)))
def test_the_promise_never_rises_and_the_checker_takes_the_result(made: Schedule):
    for options in (Options(), ARENA):
        plan = plan_memory(made, options)
        better, refined = refine(made, plan, options)
        replay(better, refined)
        assert refined.promised_nbytes < plan.promised_nbytes or (better is made and refined is plan)
        if plan.promised_nbytes == timeline(memory_graph(made), device=plan.device).peak:
            assert better is made and refined is plan


def wide(seed: int, elsewhere: Collection[int] = ()) -> Schedule:
    """Operations on one or two earlier results, of very different sizes; those ``elsewhere`` (by index) are on another device,
    in multiples of what it aligns to, and the others then of a hundred times what the CPU does, so that theirs are most bytes."""
    draw = random.Random(seed)
    values, ops = [Value("x", Layout("u8", "cpu", (64,), (1,)), "x")], list[Op]()
    for i in range(14):
        reads = [Ref("x")] + [Ref(op.name) for op in draw.sample(ops[-6:], min(len(ops), draw.randint(0, 2)))]
        device, unit = ("cuda:0", 512) if i in elsewhere else ("cpu", 6400 if elsewhere else 64)
        values.append(Value(f"t{i}", Layout("u8", device, (unit * draw.choice((1, 2, 3, 5, 7)),), (1,)), f"t{i}"))
        ops.append(Op(f"t{i}", "aten.cat.default", (tuple(reads),), (), (f"t{i}",)))
    section = Section("inference", (Ref("x"),), tuple(ops), (Ref("t13"),))
    facts = OpFacts(out="aten.cat.out")
    return schedule(Graph("g", tuple(values), (section,)), {op.name: facts for op in ops})


@pytest.mark.spec("PP-33")
def test_some_order_of_higher_live_peak_packs_lower():
    won = other = 0
    for seed in range(120):
        made = wide(seed)
        best = reordered(made, reorder(memory_graph(made), budget_steps=20_000).order)
        plan = plan_memory(best, ARENA)
        better, refined = refine(best, plan, ARENA)
        replay(better, refined)
        won += refined.promised_nbytes < plan.promised_nbytes
        other += timeline(memory_graph(better)).peak > timeline(memory_graph(best)).peak
    assert won > 0


@pytest.mark.spec("PP-33", "PK-17")
def test_an_order_that_packs_lower_is_not_taken_where_it_lifts_another_device():
    made = wide(130, random.Random(1130).sample(range(13), 5))
    best = reordered(made, reorder(memory_graph(made), budget_steps=20_000, device="cpu").order)
    plan = plan_memory(best, ARENA)
    assert refine(best, plan, ARENA) == (best, plan)
    much = replace(
        plan, others=tuple(replace(f, live=(1 << 40,)) for f in plan.others)
    )  # above which nothing is lifted
    _, found = refine(best, much, ARENA)
    assert found.promised_nbytes < plan.promised_nbytes
    assert found.on("cuda:0").promised_nbytes > plan.on("cuda:0").promised_nbytes


def grouped(made: Schedule, first: int) -> Schedule:
    """Two neighbouring steps as one group."""
    names = {s.op.name for s in made.steps[first : first + 2]}
    steps = tuple(replace(s, op=replace(s.op, group="g")) if s.op.name in names else s for s in made.steps)
    sections = tuple(
        replace(x, ops=tuple(replace(op, group="g") if op.name in names else op for op in x.ops))
        for x in made.graph.sections
    )
    return replace(made, graph=replace(made.graph, sections=sections), steps=steps)


@pytest.mark.spec("PP-33", "SC-09")
@pytest.mark.parametrize(("seed", "first"), [(6, 9), (15, 9), (15, 12), (30, 6)])
def test_groups_stay_side_by_side(seed: int, first: int):
    made = wide(seed)
    best = grouped(reordered(made, reorder(memory_graph(made), budget_steps=20_000).order), first)
    plan = plan_memory(best, ARENA)
    better, refined = refine(best, plan, ARENA)
    replay(better, refined)
    at = {n.name: i for i, n in enumerate(memory_graph(best).nodes)}
    check_order(memory_graph(best), [at[n.name] for n in memory_graph(better).nodes])
    assert refined.promised_nbytes < plan.promised_nbytes
