"""Random schedules and their plans: facts of operations, orders, options. Used by the tests of plan, codegen, runtime."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from lowtide.core.options import SLABS, Options
from lowtide.ir.graph import Graph
from lowtide.order.engine import reorder
from lowtide.plan.choose import plan_memory
from lowtide.plan.plan import MemoryPlan
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, reordered, schedule

WORKSPACES = (0, 0, 0, 8, 100, 4096)


@st.composite
def facts(draw: st.DrawFn) -> OpFacts:
    """What may be known of an operation; most write into given memory and are pointwise, so that there is much to plan."""
    restride = draw(st.integers(0, 7)) == 0
    out = None if restride or draw(st.integers(0, 4)) == 0 else "aten.add.out"
    return OpFacts(
        out=out,
        workspace=draw(st.sampled_from(WORKSPACES)),
        out_workspace=draw(st.sampled_from(WORKSPACES)) if out else 0,
        overwrite=draw(st.sampled_from((None, "aten.add_.Tensor"))),
        pointwise=draw(st.integers(0, 3)) > 0,
        restride=(0,) if restride else (),
    )


@st.composite
def schedules(draw: st.DrawFn, graphs: st.SearchStrategy[Graph]) -> Schedule:
    """Schedules with random facts, in program order, in the engine's order or in any order that is allowed."""
    graph = draw(graphs)
    known = {op.name: draw(facts()) for op in graph.ops}
    made = schedule(graph, known, inplace=draw(st.sampled_from((True, True, False))))
    how = draw(st.sampled_from(("program", "engine", "any", "any")))
    if how == "engine":
        return reordered(made, reorder(memory_graph(made), budget_steps=200).order)
    return made if how == "program" else reordered(made, any_order(made, draw(st.integers(0, 2**16))))


def any_order(made: Schedule, seed: int) -> list[int]:
    """One of the orders that a schedule's dependencies allow."""
    nodes = memory_graph(made)
    dice, left, out = random.Random(seed), set(range(len(nodes.nodes))), []
    while left:
        ready = sorted(i for i in left if not left & set(nodes.predecessors[i]))
        out.append(dice.choice(ready))
        left.remove(out[-1])
    return out


def plans_of(made: Schedule) -> dict[str, MemoryPlan]:
    """The plan under every way to form slabs."""
    return {slabs: plan_memory(made, Options(slabs=slabs)) for slabs in SLABS}
