"""The stages together: what they hand on, budgets, and checkers that are switched on by ``verify``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from lowtide import pipeline
from lowtide.cli.main import main
from lowtide.codegen.targets import TARGETS, libraries_only
from lowtide.core.errors import OverBudget, VerifyError
from lowtide.core.observe import Observers
from lowtide.core.options import Options
from lowtide.ir.text import parse
from lowtide.pipeline import PROGRAM, alike, compile_graph, order_steps
from lowtide.plan import replay as checker
from lowtide.plan.choose import plan_memory
from lowtide.schedule.schedule import OpFacts, Schedule
from plans import schedules, training
from strategies import static_graphs

SILENT = Observers()


def facts_of(made: Schedule):
    return lambda _: {s.op.name: s.facts for s in made.steps}


@pytest.mark.spec("G6", "G9", "SC-59")
@given(schedules(static_graphs(most=6)))
def test_every_program_passes_its_checkers(made: Schedule):
    options = Options(verify=True, kernels="aten")  # no operator has these arguments
    compiled = compile_graph(made.graph, facts_of(made), options, SILENT)
    assert compiled.order is not None
    assert compiled.plan.lower_bound == compiled.order.lower_bound <= compiled.plan.promised_nbytes
    program_order = compile_graph(made.graph, facts_of(made), replace(options, reorder=False), SILENT)
    assert program_order.order is None
    assert compiled.plan.promised_nbytes <= program_order.plan.promised_nbytes


def test_program_order_stays_where_no_other_is_better():
    made = training()
    ordered, found = order_steps(made, Options())
    assert found is not None
    if found.peak >= found.candidates[PROGRAM]:
        assert ordered is made


@pytest.mark.spec("SC-59")
def test_a_wrong_plan_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch):
    right = pipeline.refine

    def wrong(*args, **kwargs):
        ordered, plan = right(*args, **kwargs)
        return ordered, replace(plan, live=tuple(n + 1 for n in plan.live))

    monkeypatch.setattr(pipeline, "refine", wrong)
    made = training()
    with pytest.raises(VerifyError, match="promise"):
        compile_graph(made.graph, facts_of(made), Options(verify=True), SILENT)
    assert checker.replay.__module__ == "lowtide.plan.replay"


@pytest.mark.spec("PK-20", "PK-21")
def test_the_dumped_memory_graph_has_the_same_peaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What the pipeline orders can be ordered again on the command line, without the program."""
    made = training()
    compiled = compile_graph(made.graph, facts_of(made), Options(), Observers(folder=tmp_path))
    assert compiled.order is not None
    (file,) = tmp_path.rglob("*_memory.json")
    order = sorted(p.name.split("_")[1].partition(".")[0] for p in file.parent.iterdir())
    assert {"schedule", "order", "plan"} <= set(order)
    assert main(["order", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["candidates"] == dict(compiled.order.candidates)
    assert (told["peak"], told["lower_bound"]) == (compiled.order.peak, compiled.order.lower_bound)


@pytest.mark.spec("PP-28")
@pytest.mark.parametrize("kernels", ["aten", "loops"])
def test_other_sizes_follow_while_that_needs_about_as_large_a_share_at_once(kernels, monkeypatch: pytest.MonkeyPatch):
    made, options = training(), Options(kernels=kernels)
    first = compile_graph(made.graph, facts_of(made), options, SILENT)
    assert not first.followed and alike([first], made.graph) is first
    again = compile_graph(made.graph, facts_of(made), options, SILENT, first)
    assert again.followed and again.order is None
    assert (again.program, again.plan.places) == (first.program, first.plan.places)
    for less in (replace(first, nbytes=first.nbytes * 2), replace(first, joined=replace(first.joined, order=("h",)))):
        anew = compile_graph(made.graph, facts_of(made), options, SILENT, less)
        assert anew.followed == (kernels == "aten" and less.nbytes == first.nbytes)
        assert anew.program == first.program
    tight = replace(options, budget=first.plan.promised_nbytes - 1)
    with pytest.raises(OverBudget):
        compile_graph(made.graph, facts_of(made), tight, SILENT, first)


@pytest.mark.spec("PP-28")
def test_the_program_of_most_nearly_as_many_bytes_is_followed():
    made = training()
    first = compile_graph(made.graph, facts_of(made), Options(), SILENT)
    assert first.nbytes == sum(p.nbytes for p in plan_memory(made, Options()).places)
    sizes = [replace(first, nbytes=first.nbytes * k // 8) for k in (1, 3, 7, 20, 40)]
    assert alike(sizes, made.graph) is sizes[2]
    assert alike(sizes[3:], made.graph) is sizes[3]
    assert alike([sizes[0], sizes[4]], made.graph) is None
    assert alike([], made.graph) is None


def test_a_budget_is_held_against_the_promise():
    made = training()
    promised = compile_graph(made.graph, facts_of(made), Options(), SILENT).plan.promised_nbytes
    compile_graph(made.graph, facts_of(made), Options(budget=promised), SILENT)
    with pytest.raises(OverBudget) as refused:
        compile_graph(made.graph, facts_of(made), Options(budget=promised - 1), SILENT)
    assert (refused.value.budget_nbytes, refused.value.promised_nbytes) == (promised - 1, promised)
    assert f"({promised} bytes)" in str(refused.value) and "smallest peak known" in str(refused.value)


# More bytes on the first device, a few on the second.
TWO = """graph g version 1
  section inference
    input %x: f32[1024]{1} @cuda:0
    input %y: f32[16]{1} @cpu
    %a: f32[1024]{1} @cuda:0 = aten.exp.default(%x)
    %b: f32[1024]{1} @cuda:0 = aten.exp.default(%a)
    %c: f32[16]{1} @cpu = aten.exp.default(%y)
    return %b
    return %c
"""


@pytest.mark.spec("SC-12")
@pytest.mark.parametrize("least", ["cpu", "cuda:0"])
def test_a_budget_is_held_on_each_device(least: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(TARGETS, "cuda", libraries_only("cuda"))
    graph = parse(TWO if least == "cpu" else TWO.replace("cpu", "C").replace("cuda:0", "cpu").replace("C", "cuda:0"))
    options = Options(kernels="aten")
    first = compile_graph(graph, lambda _: {}, options, SILENT)
    plan = first.plan
    (other,) = plan.others
    assert other.device == least and 0 < other.promised_nbytes < plan.promised_nbytes
    swollen = replace(other, live=tuple(n and plan.promised_nbytes + n for n in other.live))
    monkeypatch.setattr(pipeline, "refine", lambda ordered, *_: (ordered, replace(plan, others=(swollen,))))
    monkeypatch.setattr(pipeline, "follow", lambda scheduled, *_: (scheduled, replace(plan, others=(swollen,))))
    tight = replace(options, budget=plan.promised_nbytes)
    for before in (None, first):
        with pytest.raises(
            OverBudget, match=rf"\({swollen.promised_nbytes} bytes\) on {least}, the budget is"
        ) as refused:
            compile_graph(graph, lambda _: {}, tight, SILENT, before)
        assert refused.value.promised_nbytes == swollen.promised_nbytes


def test_a_larger_plan_that_is_forced_names_the_smaller_one():
    made = training()
    auto = compile_graph(made.graph, facts_of(made), Options(), SILENT).plan
    one = compile_graph(made.graph, facts_of(made), Options(slabs="one"), SILENT).plan
    assert auto.promised_nbytes <= one.promised_nbytes
    assert [name for name, _ in one.candidates] == ["one"]


@pytest.mark.spec("G12")
def test_notes_of_operations_become_reasons():
    from lowtide.core.reason import Reason

    made = training()
    note = Reason("mm", "is slow today")
    compiled = compile_graph(made.graph, lambda _: {"h": OpFacts(note=note)}, Options(), SILENT)
    assert compiled.schedule.reasons == (note,)


# ``m`` is a product that much later is the lesser part of ``c``; between them is {BETWEEN}.
LATE = """graph g version 1
  section inference
    input %x: f32[8,64]{64,1} @cpu
    input %w: f32[64,8]{8,1} @cpu
    input %k: f32[8,4096]{4096,1} @cpu
    %m: f32[8,8]{8,1} @cpu = aten.mm.default(%x, %w)
    %s: f32[8]{1} @cpu = aten.sum.dim_IntList(%m, [1])
    %v: f32[8,1]{1,1} @cpu in %s = view aten.view.default(%s, [8, 1])
BETWEEN
    %p: f32[8,1024]{1024,1} @cpu = aten.mm.default(%q, %k2)
    %c: f32[8,1032]{1032,1} @cpu = aten.cat.default([%m, %p], 1)
    return %c
"""
LARGE = """    %h: f32[8,4096]{4096,1} @cpu = mine.op.default(%k, %v)
    %q: f32[8,8]{8,1} @cpu = mine.op.default(%h)"""
SMALL = "    %q: f32[8,8]{8,1} @cpu = mine.op.default(%v)"


@pytest.mark.spec("IR-51")
@pytest.mark.parametrize(("between", "placed"), [(LARGE, False), (SMALL, True)], ids=["much", "little"])
def test_parts_are_written_where_they_belong_unless_their_memory_is_in_the_way(
    between: str, placed: bool, monkeypatch: pytest.MonkeyPatch
):
    text = LATE.replace("BETWEEN", between).replace("    %m:", "    input %k2: f32[8,1024]{1024,1} @cpu\n    %m:")
    graph = parse(text)
    known = {n: OpFacts(out="aten.mm.out") for n in ("m", "p")} | {"c": OpFacts(out="aten.empty.out")}
    compiled = compile_graph(graph, lambda _: known, Options(verify=True), SILENT)
    assert ("mm_out(x, w, out=m)" in compiled.program.source) == placed
    assert any(op.target == "aten.empty.memory_format" for op in compiled.schedule.graph.ops) == placed
    whole = 8 * 1032 * 4
    assert compiled.plan.promised_nbytes < (2 * whole if placed else whole + 8 * 4096 * 4)
    assert compiled.joined.placed == placed

    def searched(*_: object, **__: object) -> None:
        raise AssertionError("a further size searches for nothing")

    for name in ("inline_within", "reorder"):
        monkeypatch.setattr(pipeline, name, searched)
    again = compile_graph(graph, lambda _: known, Options(verify=True), SILENT, compiled)
    assert again.followed and again.program == compiled.program and again.joined == compiled.joined


@pytest.mark.spec("IR-51")
def test_each_of_two_programs_has_its_order_searched_for_once_before_fusion(monkeypatch: pytest.MonkeyPatch):
    text = LATE.replace("BETWEEN", SMALL).replace("    %m:", "    input %k2: f32[8,1024]{1024,1} @cpu\n    %m:")
    known = {n: OpFacts(out="aten.mm.out") for n in ("m", "p")} | {"c": OpFacts(out="aten.empty.out")}
    asked, right = [], pipeline.inline_within
    monkeypatch.setattr(pipeline, "inline_within", lambda *given: asked.append(given[0]) or right(*given))
    compile_graph(parse(text), lambda _: known, Options(), SILENT)
    assert len(asked) == 2 and asked[0] is not asked[1]
