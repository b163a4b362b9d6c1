"""Why results overwrite nothing and storages share no slab: every case has its reason, and what was done has none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given

from lowtide.core.options import Options
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
from lowtide.memory.lifetime import lifetimes
from lowtide.plan.choose import plan_memory
from lowtide.plan.plan import FRESH, SLAB, MemoryPlan
from lowtide.plan.refused import refusals
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, schedule
from plans import plans_of, schedules
from strategies import static_graphs

POINTWISE = OpFacts(out="aten.mul.out", pointwise=True)
PRODUCT = OpFacts(out="aten.mm.out")


def line(*steps: str, facts: dict[str, OpFacts] | None = None, inplace: bool = True, returns: str = "") -> Schedule:
    """Steps such as ``y = a b``; the caller has ``x`` and ``long``, which is twice as large, and gets ``returns`` or what
    comes last. Names that begin with ``long`` are 16 elements, others 8; those with ``half`` are views of what they read."""
    ops = []
    storage = {"x": "x", "long": "long"}
    for step in steps:
        name, _, reads = step.partition(" = ")
        half = name.startswith("half")
        ops.append(Op(name, f"aten.{name}.default", tuple(map(Ref, reads.split())), (), (name,), view=half))
        storage[name] = reads if half else name
    values = [Value(n, Layout("f32", "cpu", (16 if n.startswith("long") else 8,), (1,)), s) for n, s in storage.items()]
    out = tuple(map(Ref, (returns or ops[-1].name).split()))
    graph = Graph("g", tuple(values), (Section("inference", (Ref("x"), Ref("long")), tuple(ops), out),))
    known = {op.name: POINTWISE for op in ops} | (facts or {})
    return schedule(graph, known, inplace=inplace)


def told(made: Schedule, slabs: str = "auto") -> dict[str, tuple[str, str | None]]:
    return {r.what: (r.because, r.knob) for r in refusals(made, plan_memory(made, Options(slabs=slabs)))}


@pytest.mark.spec("G12")
def test_why_an_operand_is_not_overwritten() -> None:
    made = line("a = x", "b = a", "c = b", "d = c b", "e = d c", facts={"c": PRODUCT, "e": OpFacts()}, returns="e a")
    found = told(made)
    assert found["%b over %a"] == ("the caller gets to keep %a", None)
    assert "%c over %b" not in found  # it does not end there, and could not be overwritten if it did
    assert "%d over %b" not in found  # it is
    assert found["%e over %d"] == found["%e over %c"] == ("aten.e.default writes into no given memory", None)
    assert not [what for what in found if "%x" in what]


@pytest.mark.spec("G12")
def test_reasons_that_only_the_plan_knows() -> None:
    needed = told(line("a = x", "b = a", "c = b", "d = a c"))
    assert needed["%b over %a"] == ("%a is needed until step 3", None)
    off = told(line("a = x", "b = a", "c = b", inplace=False))
    assert off["%b over %a"] == ("results overwrite nothing where that is switched off", "inplace=True")
    two = told(line("a = x", "b = x", "c = a b", "d = c"))
    assert [why for what, why in two.items() if what.startswith("%c over")] == []  # it overwrites one of them
    part = line("longer = long", "half = longer", "b = half", "c = b b", facts={"c": PRODUCT})
    assert (
        told(part, "none")["%b over %longer"][0] == "what it leaves of %longer could not be given back outside a slab"
    )
    assert not [what for what in told(part, "one") if what.startswith("%b over")]
    assert plan_memory(part, Options(slabs="one")).place["b"].over == "longer"


@pytest.mark.spec("G12")
def test_reasons_follow_where_things_lie_and_name_no_option_that_is_chosen() -> None:
    made = line("longer = long", "half = longer", "b = half", "c = b b", facts={"c": PRODUCT})
    plan = plan_memory(made, Options(slabs="one"))

    def moved(name: str, **more: object) -> dict[str, tuple[str, str | None]]:
        places = (replace(p, over=None, **more) if p.storage == name else p for p in plan.places)
        return {r.what: (r.because, r.knob) for r in refusals(made, replace(plan, places=tuple(places)))}

    aside = moved("b", how=SLAB, offset=64)
    assert aside["%b over %longer"] == ("the slab is smaller where it lies elsewhere", None)
    assert moved("longer", how=FRESH, slab=None)["%longer in a slab"] == (
        "the slabs of 'one' have no room for it",
        None,
    )


@pytest.mark.spec("G12")
def test_an_operation_that_reads_again_what_it_has_written() -> None:
    found = told(line("a = x", "b = a", "c = b", facts={"b": PRODUCT}))
    assert found["%b over %a"] == ("aten.b.default may read an operand again after it has written", None)


@pytest.mark.spec("G12")
def test_why_a_storage_lies_in_no_slab() -> None:
    elsewhere = OpFacts(pointwise=True)
    made = line("a = x", "b = a", "c = a b", "d = c", facts={"a": elsewhere, "d": PRODUCT})
    found = told(made, "one")
    assert found["%a in a slab"] == ("aten.a.default writes into no given memory", None)
    assert found["%d in a slab"] == ("the caller gets to keep it", None)
    goes_on = told(line("a = x", "b = a"), "one")
    assert goes_on == {"%a in a slab": ("%b goes on in it: the caller gets to keep it", None)}
    assert told(made, "none")["%b in a slab"] == ("slabs are switched off", "slabs='auto'")
    copied = told(line("a = x", "copy = a", "c = copy", facts={"copy": PRODUCT, "c": PRODUCT}), "one")
    assert copied["%a in a slab"] == ("an operation copies all that lies beside it", None)
    strided = told(line("a = x", "b = a", facts={"a": OpFacts(out="aten.a.out", restride=(0,)), "b": PRODUCT}))
    assert (
        strided["%a in a slab"][0] == "aten.a.default gives other strides than are expected, so its results are copied"
    )


@pytest.mark.spec("G12")
def test_slabs_that_would_lift_the_peak_say_both_figures() -> None:
    """Three results in turn, of which each ends where the next begins: alone they never hold more than two."""
    made = line(
        "longa = long", "b = longa", "longc = b", facts=dict.fromkeys(("longa", "b", "longc"), PRODUCT), returns="longc"
    )
    plan = plan_memory(made, Options())
    assert plan.chosen == "none"
    because, knob = told(made)["%b in a slab"]
    assert because.startswith("slabs would promise ") and "allocations of their own" in because
    assert knob == "slabs='one'"


def untaken(made: Schedule, plan: MemoryPlan) -> set[str]:
    """Results of which an operand ends, that is as large, and lies on none."""
    graph, nodes = made.graph, memory_graph(made)
    at = {n.name: t for t, n in enumerate(nodes.nodes)}
    ends = {x.name: x.end - 1 for x in lifetimes(nodes) if not x.escapes}
    out: set[str] = set()
    for step in made.steps:
        for o in (o for o in step.op.outputs if o in plan.place and graph.nbytes[o]):
            if plan.place[o].over is None:
                reads = {graph.value[r].storage for r in step.op.reads}
                out |= {
                    f"%{o} over %{s}"
                    for s in reads
                    if ends.get(s) == at[step.op.name] and graph.nbytes[s] >= graph.nbytes[o]
                }
    return out


@pytest.mark.spec("G12")
@given(schedules(static_graphs(most=8)))
def test_reasons_add_up(made: Schedule) -> None:
    """One per storage outside slabs, one per operand that ended and was not overwritten, and none for what was done."""
    for plan in plans_of(made).values():
        found = Counter(r.what for r in refusals(made, plan))
        assert not found or max(found.values()) == 1
        outside = {f"%{p.storage} in a slab" for p in plan.places if p.nbytes and p.slab is None and p.over is None}
        assert {what for what in found if what.endswith(" in a slab")} == outside
        over = {what for what in found if " over " in what}
        assert untaken(made, plan) <= over
        assert not over & {f"%{p.storage} over %{p.over}" for p in plan.places}
        assert all(r.because for r in refusals(made, plan))
