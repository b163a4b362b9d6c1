"""What is said to come after others does, and groups stay together, from a program's text to its last order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_programs import asked, compute, one_by_one

from lowtide.cli.main import main
from lowtide.core.errors import VerifyError
from lowtide.core.observe import Observers
from lowtide.core.options import Options
from lowtide.ir.graph import Graph, renamed_after
from lowtide.ir.lowered import LOOP, Lowered, check_lowered, kernel_of
from lowtide.ir.text import parse
from lowtide.ir.verify import verify
from lowtide.lowering.lower import lower
from lowtide.lowering.wholes import in_their_places
from lowtide.memory import json as memory_json
from lowtide.order.check import check_order
from lowtide.order.engine import reorder
from lowtide.pipeline import compile_graph
from lowtide.plan.choose import plan_memory
from lowtide.plan.replay import replay
from lowtide.report.steps import dump_steps
from lowtide.schedule.depend import dependencies
from lowtide.schedule.fusion import fuse_loops
from lowtide.schedule.inline import inline
from lowtide.schedule.open_layouts import decide_layouts
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, reordered, schedule
from lowtide.schedule.text import print_schedule
from lowtide.schedule.unsplit import in_one

SILENT = Observers()


def scheduled(lowered: Lowered) -> Schedule:
    facts = {op.name: OpFacts(workspace=32 * len(op.reads)) for op in lowered.graph.ops if op.target != LOOP}
    return schedule(lowered.graph, facts, loops=lowered.loops)


def kept(before: Lowered, now: Lowered) -> None:
    """Whatever is in a kernel now comes after all that its operations came after; groups are as they were."""
    verify(now.graph)
    check_lowered(now)
    left = {op.name: op for op in now.graph.ops if not op.view}
    into = {n: n for n in left} | kernel_of(now.members)
    for old, section in zip(before.graph.sections, now.graph.sections, strict=True):
        found = dependencies(now.graph, section)
        bit = {n: 1 << k for k, n in enumerate(found.names)}
        for op in old.ops:
            if op.view or op.name not in into:
                continue
            assert left[into[op.name]].group == op.group, op.name
            for a in op.after:
                if a in into:
                    assert found.ancestors[into[op.name]] & bit[into[a]], f"{op.name} after {a}"


def spared(before: Lowered, now: Lowered) -> None:
    """What still is where it was comes after all that it came after, or after whoever makes what that only copied."""
    verify(now.graph)
    into = {op.name: op.name for op in now.graph.ops if not op.view} | kernel_of(now.members)

    def first(lowered: Lowered, name: str) -> str:
        return lowered.members.get(name, (name,))[0]

    for old, section in zip(before.graph.sections, now.graph.sections, strict=True):
        found = dependencies(now.graph, section)
        bit = {n: 1 << k for k, n in enumerate(found.names)}
        come: dict[str, set[str]] = {}
        for op in old.ops:
            come[op.name] = set(op.after).union(*(come[a] for a in op.after))
            name = first(before, op.name)
            if op.view or name not in into or first(now, into[name]) != name:
                continue
            for a in (first(before, a) for a in come[op.name]):
                if a in into:
                    assert found.ancestors[into[name]] & bit[into[a]], f"{op.name} after {a}"


@pytest.mark.spec("SC-05", "SC-09")
@given(asked(), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_loops_are_put_together_around_what_is_asked(lowered: Lowered, seed: int) -> None:
    want = compute(lowered)
    small = inline(lowered)
    kept(lowered, small)
    by_hand = {n for op in lowered.graph.ops for n in (op.name, *op.after) if op.after}
    assert {op.name for op in small.graph.ops} >= by_hand, "what has a place of its own stays an operation"
    steps = reordered(scheduled(small), reorder(memory_graph(scheduled(small)), budget_steps=200).order)
    fused = fuse_loops(small, steps).lowered
    kept(small, fused)
    laid = decide_layouts(fused).lowered
    spared(fused, laid)
    got = compute(laid, one_by_one(seed))
    assert all(np.array_equal(x, got[n]) for n, x in want.items())


@pytest.mark.spec("SC-05", "SC-09", "SC-04")
@given(asked())
@settings(max_examples=60, deadline=None)
def test_every_order_and_plan_keeps_what_is_asked(lowered: Lowered) -> None:
    made = scheduled(lowered)
    graph = memory_graph(made)
    nodes = {n.name: n for n in graph.nodes}
    for s in lowered.graph.sections:
        for op in s.ops:
            if not op.view:
                assert {*op.after} <= {*nodes[op.name].after}
                assert nodes[op.name].group == (f"{op.group} of {s.name}" if op.group else "")
    found = reorder(graph, budget_steps=200)
    check_order(graph, found.order)
    ordered = reordered(made, found.order)
    replay(ordered, plan_memory(ordered, Options()))


TWO = """
graph two version 1
  section inference
    input %x: f32[64,64]{64,1} @cpu
    %a: f32[64,64]{64,1} @cpu = aten.exp.default(%x)
    %b: f32[64,64]{64,1} @cpu = aten.sin.default(%x) after a group pair
    %c: f32[64,64]{64,1} @cpu = aten.mul.Tensor(%b, %b) group pair
    %d: f32[64,64]{64,1} @cpu = aten.add.Tensor(%a, %c)
    return %d
"""


def compiled(text: str) -> Schedule:
    return compile_graph(parse(text), lambda _: {}, Options(verify=True), SILENT).schedule


@pytest.mark.spec("SC-05", "SC-09")
def test_members_become_one_loop_among_themselves_and_nothing_else_joins() -> None:
    free = TWO.replace(" after a group pair", "").replace(" group pair", "")
    assert len(compiled(free).steps) == 1
    assert [s.op.name for s in compiled(TWO).steps] == ["a", "c", "d"]
    assert compiled(TWO).members["c"] == ("b", "c")
    assert [s.op.name for s in compiled(TWO.replace(" group pair", "")).steps] == ["a", "d"], "after alone"
    grouped = TWO.replace(" after a", "")
    assert [s.op.group for s in compiled(grouped).steps] == ["pair", ""]


@pytest.mark.spec("SC-05", "SC-09", "SC-51")
def test_what_is_asked_is_shown_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = compiled(TWO.replace("aten.mul.Tensor(%b, %b)", "aten.mm.default(%b, %b)"))
    assert "%b = lowtide.loop.default(%x)  out=  after a  in group pair" in print_schedule(made)
    steps, memory = tmp_path / "steps.json", tmp_path / "memory.json"
    steps.write_text(dump_steps(made, plan_memory(made, Options())))
    assert main(["show", str(steps)]) == 0
    assert "after a  in group pair" in capsys.readouterr().out
    memory.write_text(memory_json.dumps(memory_graph(made)))
    assert main(["order", str(memory), "--json"]) == 0
    order = json.loads(capsys.readouterr().out)["order"]
    assert order.index("a") < order.index("b") == order.index("c") - 1


@pytest.mark.spec("SC-05", "SC-59")
@pytest.mark.parametrize(
    ("order", "says"),
    [("bcad", "b comes after a, which runs later"), ("abdc", "others run between those of the group pair")],
)
def test_the_checker_of_plans_sees_what_was_not_kept(order: str, says: str) -> None:
    graph = parse(TWO.replace("%a, %c", "%a, %b"))
    made = schedule(graph, {}, inplace=False)
    plan = plan_memory(made, Options(slabs="none"))
    replay(made, plan)
    wrong = replace(made, steps=tuple(made.step[n] for n in order))
    with pytest.raises(VerifyError, match=f"^order: {says}"):
        replay(wrong, plan)


def test_names_follow_what_operations_become() -> None:
    (section,) = parse(TWO).sections
    a, b, c, d = section.ops
    after = lambda ops: [op.after for op in ops]  # noqa: E731
    last = replace(d, after=("b", "c"))
    assert renamed_after([a, c, d], section.ops, {"b": ()}) == (a, c, d)
    assert after(renamed_after([a, c, last], [a, b, c, last], {"b": ()})) == [(), (), ("a", "c")]
    parts = [replace(b, name=n) for n in ("b0", "b1")]
    assert after(renamed_after([a, *parts, c, last], [a, b, c, last], {"b": ("b0", "b1")}))[3:] == [
        (),
        ("b0", "b1", "c"),
    ]
    assert after(renamed_after([a, last], [a, b, c, last], {"b": ("d",), "c": ("d",)})) == [(), ("a",)]
    own = replace(c, after=("a",))
    assert after(renamed_after([a, own, last], [a, b, c, last], {"b": ("c",)})) == [(), ("a",), ("c",)]
    assert after(renamed_after([a, c, last], [a, b, c, last], {"b": ("c",)})) == [(), (), ("c", "a")]


COPIED = """
graph copied version 1
  section inference
    input %x: f32[64,32]{32,1} @cpu
    input %y: f32[32,32]{32,1} @cpu
    %w: f32[32,32]{32,1} @cpu = aten.mm.default(%y, %y)
    %b: f32[64,32]{32,1} @cpu = aten.exp.default(%x)
    %t: f32[32,64]{1,32} @cpu in %b = view aten.t.default(%b)
    %d: f32[32,64]{64,1} @cpu = aten.clone.default(%t, memory_format=format:contiguous) after b
    %z: f32[64,32]{32,1} @cpu = aten.sin.default(%x) after d
    return %w
    return %z
    return %d
"""


@pytest.mark.spec("SC-05", "SC-09", "SC-04")
def test_what_comes_after_a_copy_that_is_spared_comes_after_who_makes_it() -> None:
    """Under the name that this has then; the copy's own place goes with it, but what it stood between stays in order."""

    def places(text: str) -> dict[str, tuple[str, ...]]:
        compiled(text)
        laid = decide_layouts(lower(parse(text))).lowered
        verify(laid.graph)
        return {op.name: op.after for op in laid.graph.ops if not op.view}

    assert places(COPIED) == {"w": (), "d": (), "z": ("d",)}
    assert places(COPIED.replace("after b", "after w")) == {"w": (), "d": (), "z": ("d", "w")}
    other = "    %e: f32[64,32]{32,1} @cpu = aten.clone.default(%b) after w\n    %t:"
    read = "    %m: f32[32,32]{32,1} @cpu = aten.mm.default(%d, %x)\n    return %m"
    twice = COPIED.replace("    %t:", other).replace("after b", "after e").replace("    return %d", read)
    assert places(twice) == {"w": (), "b": (), "z": ("b", "w"), "m": ()}


SUMS = """
graph sums version 1
  section inference
    input %x: f32[4096,64]{64,1} @cpu
    input %w: f32[64,64]{64,1} @cpu
    %s: f32[64]{1} @cpu = aten.sum.dim_IntList(%x, [0])
    %t: f32[64]{1} @cpu = aten.exp.default(%s)
    %u: f32[64,64]{64,1} @cpu = aten.exp.default(%w) after s group last
    return %t
    return %u
"""


@pytest.mark.spec("SC-05", "SC-09")
def test_operations_that_become_several_loops_are_all_waited_for() -> None:
    graph = parse(SUMS)
    lowered = lower(graph)
    verify(lowered.graph)
    (last,) = (op for op in lowered.graph.ops if op.name == "u")
    assert (last.after, last.group) == (("s_part0", "s"), "last")
    one = in_one(lowered, {"s"})
    verify(one.graph)
    assert next(op for op in one.graph.ops if op.name == "u").after == ("s",)
    later = SUMS.replace(" after s group last", "")
    turned = parse(later.replace("aten.sum.dim_IntList(%x, [0])", "aten.sum.dim_IntList(%x, [0]) group both"))
    assert [op.group for op in lower(turned).graph.ops] == ["both", "both", "", ""]


@pytest.mark.spec("SC-09")
def test_parts_of_concatenations_stay_where_they_are_asked_for() -> None:
    text = """
graph parts version 1
  section inference
    input %x: f32[64,64]{64,1} @cpu
    %a: f32[64,64]{64,1} @cpu = aten.mm.default(%x, %x)
    %b: f32[64,64]{64,1} @cpu = aten.mm.default(%x, %x)
    %c: f32[128,64]{64,1} @cpu = aten.cat.default([%a, %b])
    %d: f32[128,64]{64,1} @cpu = aten.exp.default(%c)
    return %d
"""

    def placed(graph: Graph) -> bool:
        known = {op.name: OpFacts(out="aten.mm.out") for op in graph.ops if "mm" in op.target}
        return in_their_places(graph, lower(graph), known) is not graph

    assert placed(parse(text))
    assert not placed(parse(text.replace("mm.default(%x, %x)\n    %c", "mm.default(%x, %x) after a\n    %c")))
