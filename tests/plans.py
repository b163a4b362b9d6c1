"""Random schedules and their plans: facts of operations, orders, options. Used by the tests of plan, codegen, runtime."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import strategies as st

from lowtide.core.options import SLABS, Options
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value, refs_in
from lowtide.order.engine import reorder
from lowtide.plan.choose import plan_memory
from lowtide.plan.plan import MemoryPlan
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, reordered, schedule

WORKSPACES = (0, 0, 0, 8, 100, 4096)


@st.composite
def facts(draw: st.DrawFn, op: Op) -> OpFacts:
    """What may be known of an operation; most write into given memory and are pointwise, so that there is much to plan."""
    used = tuple(i for i, o in enumerate(op.outputs) if o is not None)
    restride = bool(used) and not op.mutates and draw(st.integers(0, 7)) == 0
    out = None if restride or draw(st.integers(0, 4)) == 0 else "aten.add.out"
    return OpFacts(
        out=out,
        workspace=draw(st.sampled_from(WORKSPACES)),
        out_workspace=draw(st.sampled_from(WORKSPACES)) if out else 0,
        overwrite=draw(st.sampled_from((None, "aten.add_.Tensor"))),
        pointwise=draw(st.integers(0, 3)) > 0,
        restride=used[:1] if restride else (),
    )


@st.composite
def schedules(draw: st.DrawFn, graphs: st.SearchStrategy[Graph]) -> Schedule:
    """Schedules with random facts, in program order, in the engine's order or in any order that is allowed."""
    graph = views_of_one(draw(graphs))
    known = {op.name: draw(facts(op)) for op in graph.ops}
    made = schedule(graph, known, inplace=draw(st.sampled_from((True, True, False))))
    how = draw(st.sampled_from(("program", "engine", "any", "any")))
    if how == "engine":
        return reordered(made, reorder(memory_graph(made), budget_steps=200).order)
    return made if how == "program" else reordered(made, any_order(made, draw(st.integers(0, 2**16))))


def views_of_one(graph: Graph) -> Graph:
    """The graph with views that read nothing but what they are a view of, as every operator of torch does."""

    def plain(op: Op) -> Op:
        if not op.view:
            return op
        return replace(op, args=(op.args[0], *(a for a in op.args[1:] if not list(refs_in(a)))), kwargs=())

    sections = tuple(replace(s, ops=tuple(map(plain, s.ops))) for s in graph.sections)
    return replace(graph, sections=sections)


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


WRITES = OpFacts(out="aten.mul.out", pointwise=True)
MATRIX = OpFacts(out="aten.mm.out", workspace=64, out_workspace=64)


def training() -> Schedule:
    """A training step as the frontend makes them: two sections, matrix products, pointwise chains, saved values, random
    numbers, a view, and a buffer that is updated."""
    names = [
        "x",
        "w",
        "stat",
        "h",
        "drop",
        "r",
        "keep",
        "y",
        "m",
        "new",
        "loss",
        "g",
        "gy",
        "gr",
        "gm",
        "gh",
        "gw",
        "gx",
    ]
    values = [Value(n, Layout("f32", "cpu", (8, 8), (8, 1)), n) for n in names]
    values.insert(6, Value("rv", Layout("f32", "cpu", (64,), (1,)), "r"))

    def op(name: str, target: str, *reads: str, **more: object) -> Op:
        return Op(name, target, tuple(map(Ref, reads)), outputs=(name,), **more)

    forward = (
        op("h", "aten.mm.default", "x", "w"),
        op("drop", "aten.rand_like.default", "h", effect="random"),
        op("r", "aten.mul.Tensor", "h", "drop"),
        op("rv", "aten.view.default", "r", view=True),
        op("keep", "aten.rand_like.default", "r", effect="random"),
        op("y", "aten.mul.Tensor", "rv", "keep"),
        op("m", "aten.add.Tensor", "y", "stat"),
        Op("new", "aten.copy_.default", (Ref("stat"), Ref("m")), outputs=(), returns="none", mutates=("stat",)),
        op("loss", "aten.mm.default", "y", "w"),
    )
    values = [v for v in values if v.name != "new"]
    backward = (
        op("gy", "aten.mm.default", "g", "w"),
        op("gr", "aten.mul.Tensor", "gy", "keep"),
        op("gm", "aten.mul.Tensor", "gr", "r"),
        op("gh", "aten.mul.Tensor", "gm", "drop"),
        op("gw", "aten.mm.default", "x", "gh"),
        op("gx", "aten.mm.default", "gh", "w"),
    )
    saved = ("x", "w", "r", "drop", "keep")
    sections = (
        Section(
            "forward", (Ref("x"), Ref("w"), Ref("stat")), forward, tuple(map(Ref, ("loss", *saved))), (1, 2, 3, 4, 5)
        ),
        Section("backward", tuple(map(Ref, (*saved, "g"))), backward, (Ref("gw"), Ref("gx"))),
    )
    known = {o.name: MATRIX if "mm" in o.target else WRITES for o in (*forward, *backward)}
    known["new"] = OpFacts()
    known["drop"] = known["keep"] = OpFacts(out="aten.rand_like.out")
    return schedule(Graph("step", tuple(values), sections), known)
