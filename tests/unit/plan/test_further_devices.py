"""What is told of a plan is told of the device that it lies on: who holds the peak, what was left out of slabs, figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lowtide.core.options import Options
from lowtide.core.units import format_bytes
from lowtide.ir.graph import PINNED, Graph, Layout, Op, Ref, Section, Value
from lowtide.plan.choose import plan_memory
from lowtide.plan.holders import holders
from lowtide.plan.plan import FRESH
from lowtide.plan.refused import refusals
from lowtide.report.steps import page
from lowtide.schedule.schedule import OpFacts, Schedule, schedule


def chains(small: str, large: str) -> Schedule:
    """On each of two devices a chain of four, each of which reads the one before; step by step in turn."""
    nbytes, device = {"s": 1024, "l": 4096}, {"s": small, "l": large}
    names = [f"{kind}{i}" for i in range(5) for kind in "sl"]
    values = tuple(Value(n, Layout("u8", device[n[0]], (nbytes[n[0]],), (1,)), n) for n in names)
    ops = tuple(Op(n, "aten.mm.default", (Ref(f"{n[0]}{int(n[1]) - 1}"),), (), (n,)) for n in names[2:])
    graph = Graph("g", values, (Section("inference", (Ref("s0"), Ref("l0")), ops, (Ref("s4"), Ref("l4"))),))
    return schedule(graph, dict.fromkeys(names[2:], OpFacts(out="aten.mm.out")))


@pytest.mark.spec("PP-23")
@pytest.mark.parametrize(("small", "large"), [("cpu", "cuda:0"), ("cuda:0", "cpu")])
def test_the_peak_is_held_by_what_lies_on_its_device(small: str, large: str) -> None:
    made = chains(small, large)
    plan = plan_memory(made, Options(slabs="none"))
    assert plan.device == large
    found = holders(made, plan)
    assert found and all(h.name.startswith("l") for h in found)
    assert sum(h.nbytes for h in found) == plan.promised_nbytes


@pytest.mark.spec("PP-23")
@pytest.mark.parametrize(("small", "large"), [("cpu", "pinned"), ("pinned", "cpu"), ("pinned", "cuda:0")])
def test_no_plan_is_for_pinned_memory_beside_a_device(small: str, large: str) -> None:
    made = chains(small, large)
    graph = made.graph
    values = tuple(
        replace(v, layout=replace(v.layout, device="cpu", pinned=True)) if v.layout.device == PINNED else v
        for v in graph.values
    )
    made = replace(made, graph=replace(graph, values=values))
    plan = plan_memory(made, Options())
    assert {plan.device, *(f.device for f in plan.others)} == {small, large}
    assert plan.device == ({small, large} - {PINNED}).pop()


@pytest.mark.spec("G12")
def test_what_was_left_out_of_slabs_is_told_by_the_figures_of_its_device() -> None:
    made = chains("cpu", "cuda:0")
    plan = plan_memory(made, Options(slabs="one"))
    assert plan.on("cpu").chosen == "one"
    plan = replace(plan, others=(replace(plan.others[0], chosen="windows 2"),))
    places = tuple(replace(p, how=FRESH, slab=None, offset=0) if p.storage in ("s2", "l2") else p for p in plan.places)
    found = {r.what: r.because for r in refusals(made, replace(plan, places=places))}
    assert found["%s2 in a slab"].startswith("the slabs of 'windows 2' are not held")
    assert found["%l2 in a slab"] == "the slabs of 'one' have no room for it"


@pytest.mark.spec("SC-72")
def test_the_page_has_figures_of_every_device() -> None:
    made = chains("cpu", "cuda:0")
    plan = plan_memory(made, Options())
    text = page(made, plan, {})
    for told in plan.devices:
        assert f"on {told.device}: 4 buffers, {format_bytes(told.sum_nbytes)} side by side" in text
        assert f"peak {format_bytes(told.promised_nbytes)} in step {told.peak_step}, bound" in text
