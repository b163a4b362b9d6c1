"""On which device an operation runs that makes and changes nothing there."""

from __future__ import annotations

import pytest

from lowtide.core.options import Options
from lowtide.ir.text import parse
from lowtide.plan.choose import plan_memory
from lowtide.plan.replay import replay
from lowtide.schedule.schedule import OpFacts, memory_graph, schedule

TEXT = """
graph g version 1
  section inference
    input %x: f32[8]{1} @FIRST
    input %n: f32[] @cpu
    %y: f32[8]{1} @FIRST = aten.exp.default(%x)
    %z: f32[8]{1} @SECOND = my.moved.default(%y)
    call aten._assert_async.msg(%y, "y is all true") as asserts
    call my.compare.default(%n, %y) as compares
    call my.meet.default(%y, %z) as meets
    call my.look.default(%n) as looks
    call my.waits.default(1) as waits
    return %z
"""


@pytest.mark.spec("SC-12")
@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ("cpu", "cpu", {}),
        ("cuda:0", "cpu", dict.fromkeys(("asserts", "compares", "meets", "waits"), "cuda:0")),
        ("cuda:0", "cuda:1", dict.fromkeys(("asserts", "compares"), "cuda:0")),
    ],
)
def test_one_that_makes_nothing_adopts_the_device_of_what_it_reads(
    first: str, second: str, wanted: dict[str, str]
) -> None:
    """Not the host's, whose numbers go to it by value; one that touches nothing that of the program, if there is one. What it
    takes while it runs counts there, for the plan and for its checker."""
    graph = parse(TEXT.replace("FIRST", first).replace("SECOND", second))
    made = schedule(graph, {op.name: OpFacts(workspace=512) for op in graph.ops if not op.outputs})
    runs = {n.name: n.device for n in memory_graph(made).nodes if not n.writes}
    assert runs == {n: wanted.get(n, "cpu") for n in ("asserts", "compares", "meets", "looks", "waits")}
    plan = plan_memory(made, Options())
    replay(made, plan)
    live = {plan.device: plan.live} | {d.device: d.live for d in plan.others}
    at = {n.name: t for t, n in enumerate(memory_graph(made).nodes)}
    assert all(live[runs[n]][at[n]] >= 512 for n in runs)


@pytest.mark.spec("SC-12")
def test_the_first_result_counts_also_where_it_stands_on_something_else() -> None:
    """For the plan as for its checker."""
    graph = parse("""
graph g version 1
  section inference
    input %x: f32[8]{1} @cpu
    %a: f32[8]{1} @cpu = my.made.default(%x)
    (%v, %y) = my.both.default(%a) as both
      %v: f32[8]{1} @cpu in %a
      %y: f32[8]{1} @cuda:0
    return %y
""")
    made = schedule(graph, {"both": OpFacts(workspace=512)})
    assert next(n.device for n in memory_graph(made).nodes if n.name == "both") == "cpu"
    replay(made, plan_memory(made, Options()))
