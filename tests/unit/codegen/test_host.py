"""Emitted code: every name is bound before it is used, ended once, and nothing outlives its use."""

from __future__ import annotations

import ast
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from lowtide.codegen.cpp import kernel
from lowtide.codegen.host import emit
from lowtide.core.errors import BugError
from lowtide.core.options import Options
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value, refs_in
from lowtide.ir.loops import parse_loop
from lowtide.ir.text import parse
from lowtide.memory.lifetime import lifetimes
from lowtide.plan.choose import plan_memory
from lowtide.program import Consumed, Program, usable
from lowtide.schedule.schedule import CALL, OpFacts, memory_graph, schedule
from plans import plans_of, schedules, training
from strategies import static_graphs

TESTS = Path(__file__).parents[2]


def names(node: ast.AST, kind: type[ast.expr_context]) -> Iterator[str]:
    return (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, kind))


def check_names(program: Program) -> None:
    """Follow the one path through each function. ``AssertionError`` where a name is used wrongly or kept too long."""
    constants = {n for n, what in program.bound.items() if what.startswith("constant:")}
    outside = {*program.bound, "as_said", "leaves", "exact", "float"}
    for function in ast.parse(program.source).body:
        assert isinstance(function, ast.FunctionDef)
        bound = {a.arg for a in function.args.args}
        gone: set[str] = set()
        for line in function.body:
            assert isinstance(line, ast.Assign | ast.Expr | ast.Delete | ast.Return), ast.unparse(line)
            for n in names(line, ast.Load):
                assert n in bound or n in outside, f"{n} is not bound in {ast.unparse(line)}"
                assert n not in gone or n in bound, f"{n} is used after its end in {ast.unparse(line)}"
            for n in names(line, ast.Del):
                assert n in bound, f"{n} is ended twice, or never began: {ast.unparse(line)}"
                bound.remove(n)
                gone.add(n)
            for n in names(line, ast.Store):
                assert n not in outside - constants, f"{n} hides what is bound from outside"
                bound.add(n)
        assert isinstance(function.body[-1], ast.Return)
        returned = set(names(function.body[-1], ast.Load))
        held = {
            f"h{u}" for e in program.entries if e.function == function.name for u, s in enumerate(e.slabs) if s.leaves
        }
        assert bound - returned <= {"args", "run"} | held | constants, "names that hold memory to the end of the call"


@pytest.mark.spec("G8", "SC-67", "SC-58", "RT-26", "ML2")
@given(schedules(static_graphs(most=8)))
def test_names_are_bound_used_and_ended(made):
    for plan in plans_of(made).values():
        check_names(emit(made, plan))


@pytest.mark.spec("SC-58", "RT-26")
@given(schedules(static_graphs(most=8)))
def test_a_name_ends_on_the_line_of_its_last_use(made):
    """Once; and at once where it came in and is never used, or only to take a slab that goes on with what it lies in."""
    for plan in plans_of(made).values():
        source = emit(made, plan).source
        only_ends = {k for k, line in enumerate(source.splitlines(), 1) if line.startswith("    del ")}
        for function in ast.parse(source).body:
            assert isinstance(function, ast.FunctionDef)
            used: dict[str, int] = {}
            ended: dict[str, list[int]] = {}
            for node in ast.walk(function):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del):
                    ended.setdefault(node.id, []).append(node.lineno)
                elif isinstance(node, ast.Name):
                    used[node.id] = max(node.lineno, used.get(node.id, 0))
            for n in ended.keys() - {"_"}:
                (line,) = ended[n]
                came_in = used[n] == function.body[0].lineno
                assert came_in or line == used[n] or (line == used[n] + 1 and line in only_ends), n


@pytest.mark.spec("SC-57")
@given(schedules(static_graphs(most=8)))
def test_a_storage_ends_with_the_last_step_that_touches_any_of_its_names(made):
    graph, nodes = made.graph, memory_graph(made)
    at = {n.name: t for t, n in enumerate(nodes.nodes)}
    last: dict[str, int] = {}
    for s in made.steps:
        for n in (*s.op.reads, *s.op.mutates, *(o for o in s.op.outputs if o is not None)):
            last[graph.value[n].storage] = max(at[s.op.name], last.get(graph.value[n].storage, 0))
    for section, behind in itertools.pairwise(graph.sections):  # what is saved lives until the next section begins
        for n in (n for i in section.saved for n in refs_in(section.returns[i])):
            last[graph.value[n].storage] = max(at[f"{CALL}{behind.name}"], last.get(graph.value[n].storage, 0))
    kept = {
        graph.value[n].storage
        for section in graph.sections
        for i, a in enumerate(section.returns)
        if i not in section.saved
        for n in refs_in(a)
    }
    found = {x.name: x.end - 1 for x in lifetimes(nodes) if not x.escapes}
    assert found == {n: t for n, t in last.items() if n not in kept | graph.caller_owned}


@pytest.mark.parametrize(
    "line", ["b = add(c)", "del a; b = add(a)", "del a; del a", "b = add(a)", "b = add(a); c = b"], ids=str
)
def test_wrong_code_is_seen(line: str):
    source = f"def f(args, run):\n    a, = args\n    {line}\n    return [a]\n"
    with pytest.raises(AssertionError):
        check_names(Program(source, (), {"add": "op:aten.add.Tensor"}))


@pytest.mark.spec("G7", "SC-68", "ML1")
@pytest.mark.parametrize("slabs", ["none", "one"])
def test_golden(golden: Callable[..., None], slabs: str):
    made = training()
    golden(emit(made, plan_memory(made, Options(slabs=slabs))).source, "py")


@pytest.mark.spec("ML1", "ML4")
@given(schedules(static_graphs(most=8)))
def test_every_slab_is_taken_once_and_given_back_once(made):
    for plan in plans_of(made).values():
        program = emit(made, plan)
        for function, entry in zip(ast.parse(program.source).body, program.entries, strict=True):
            text = ast.unparse(function)
            for u, use in enumerate(entry.slabs):
                assert text.count(f"run.take({u}, ") == 1
                assert text.count(f"run.give({u}, ") == (0 if use.leaves else 1)


def one(op: Op, *values: str, facts: OpFacts | None = None, returns: tuple[str, ...] = ("y",)) -> str:
    made = Graph(
        "g",
        tuple(Value(n, Layout("f32", "cpu", (4,), (1,)), n) for n in ("x", *values)),
        (Section("inference", (Ref("x"), None), (op,), tuple(map(Ref, returns))),),
    )
    scheduled = schedule(made, {op.name: facts or OpFacts()})
    program = emit(scheduled, plan_memory(scheduled, Options()))
    check_names(program)
    return program.source


def test_results_that_nobody_uses_end_at_once():
    op = Op("pool", "aten.max_pool2d_with_indices.default", (Ref("x"),), (), ("y", None), "tuple")
    assert "y, _ = max_pool2d_with_indices(x); del x, _" in one(op, "y")
    op = Op("drop", "aten.add.Tensor", (Ref("x"), 1), (), (None,), "one")
    assert "    add_Tensor(x, 1); del x" in one(op, returns=())


@pytest.mark.spec("IR-21")
def test_results_with_other_strides_are_copied():
    op = Op("y", "aten.add.Tensor", (Ref("x"), 1), (), ("y",))
    assert "y = exact(y, (4,), (1,))" in one(op, "y", facts=OpFacts(restride=(0,)))


def test_arguments_are_written_as_python():
    args = (Ref("x"), float("inf"), float("-inf"), float("nan"), -0.0, True, None, "a'b\n", (1, (2.5,)))
    text = one(Op("y", "aten.add.Tensor", args, (("alpha", 2),), ("y",)), "y")
    assert "(x, float('inf'), float('-inf'), float('nan'), -0.0, True, None, \"a'b\\n\", [1, [2.5]], alpha=2)" in text


@pytest.mark.parametrize("name", ["h0", "_", "_unused1", "args", "run", "exact", "as_said", "leaves", "float", "class"])
def test_names_that_the_code_needs_are_refused(name: str):
    assert not usable(name)
    with pytest.raises(BugError, match="cannot name"):
        one(Op(name, "aten.relu.default", (Ref("x"),), (), (name,)), name, returns=(name,))


def test_operators_get_names_of_their_own():
    """Whatever they are called, and whatever the values are called."""
    values = ("relu", "float_", "y")
    ops = (
        Op("relu", "aten.relu.default", (Ref("x"),), (), ("relu",)),
        Op("float_", "mine.float.default", (Ref("relu"), float("inf")), (), ("float_",)),
        Op("y", "mine.import.default", (Ref("float_"),), (), ("y",)),
    )
    graph = Graph(
        "g",
        tuple(Value(n, Layout("f32", "cpu", (4,), (1,)), n) for n in ("x", *values)),
        (Section("inference", (Ref("x"),), ops, (Ref("y"),)),),
    )
    made = schedule(graph, {})
    program = emit(made, plan_memory(made, Options()))
    check_names(program)
    bound = sorted(what for what in program.bound.values() if what.startswith("op:"))
    assert bound == ["op:aten.relu.default", "op:mine.float.default", "op:mine.import.default"]


@pytest.mark.spec("ML3")
def test_a_saved_tensor_whose_bytes_are_used_again_is_consumed():
    made = training()
    plan = plan_memory(made, Options(slabs="one"))
    program = emit(made, plan)
    inside = Consumed((2, 3, 4), tuple(plan.place[n].offset for n in ("r", "drop", "keep")), plan.slabs[0].nbytes)
    assert [e.consumed for e in program.entries] == [(), (inside,)]  # r, drop and keep lie in the slab
    assert program.entries[1].slabs[0].found_by == (2, 0)
    took = replace(
        made, steps=tuple(replace(s, inplace=(("drop", "gh"),)) if s.op.name == "gh" else s for s in made.steps)
    )
    program = emit(took, plan_memory(took, Options(slabs="none")))
    assert program.entries[1].consumed == (Consumed((3,)),)
    plain = schedule(made.graph, {s.op.name: OpFacts() for s in made.steps})
    assert emit(plain, plan_memory(plain, Options())).entries[1].consumed == ()


@pytest.mark.spec("PP-26")
def test_sections_share_an_arena_only_where_saved_tensors_lie_in_it():
    """What dies with its call has nothing to hand the slab on with."""
    made = training()
    kept = ("drop", "r", "keep")
    steps = [replace(s, facts=OpFacts(), inplace=()) if s.op.name in kept else s for s in made.steps]
    apart = plan_memory(replace(made, steps=tuple(steps)), Options(slabs="one"))
    assert len(apart.slabs) == 2
    assert all(u.found_by is None for e in emit(replace(made, steps=tuple(steps)), apart).entries for u in e.slabs)


TWICE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from lowtide.core.options import Options
from lowtide.pipeline import compile_graph
from plans import training
from lowtide.schedule.json import dump
made = training()
for slabs in ("auto", "none", "one"):
    c = compile_graph(made.graph, lambda g: {s.op.name: s.facts for s in made.steps}, Options(slabs=slabs))
    print(dump(c.schedule), json.dumps(c.plan.to_json()), json.dumps(c.program.to_json()))
"""


@pytest.mark.spec("G7")
def test_two_processes_write_the_same():
    told = [
        subprocess.run(
            [sys.executable, "-c", TWICE, str(TESTS)],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert told[0] == told[1]
    assert len(told[0]) > 10_000
    assert json.loads(told[0].splitlines()[0].split("} {")[0] + "}")["version"] == 1


# One step of every kind: a view, a generated kernel, a call into given memory, one over a dying operand, a plain call.
KINDS = """graph g version 1
  file net.py = "net.py"
  section inference
    input %x: f32[8,8]{8,1} @cpu
    %v: f32[8,8]{1,8} @cpu in %x = view aten.t.default(%x)  # net.py:1
    %a: f32[8,8]{8,1} @cpu = lowtide.loop.default(%x)  # net.py:2
    %b: f32[8,8]{8,1} @cpu = aten.mm.default(%a, %v)  # net.py:3
    %c: f32[8,8]{8,1} @cpu = aten.relu.default(%b)  # net.py:4
    %d: f32[8,8]{8,1} @cpu = mine.op.default(%c)  # net.py:5
    %e: f32[8]{1} @cpu = aten.amax.default(%d)  # net.py:6
    return %e
"""


@pytest.mark.spec("SC-68", "SC-67")
def test_each_kind_of_step_is_called_its_own_way_and_tells_its_line_once():
    graph = parse(KINDS)
    loop = parse_loop(
        "loop [] in(f32) out(f32)\n  stage [64]\n    v0: f32 = load 0 [r0]\n    v1: f32 = store 1 [r0] v0\n"
    )
    facts = {
        "b": OpFacts(out="aten.mm.out"),
        "c": OpFacts(out="aten.relu.out", pointwise=True),
        "e": OpFacts(out="aten.amax.out"),
    }
    made = schedule(graph, facts, loops={"a": loop})
    lines = emit(made, plan_memory(made, Options(slabs="one"))).source.splitlines()
    told = [line.strip().split("  # net.py:") for line in lines if "  # " in line]
    assert told == [
        [f"kernel_{kernel(loop).name}_2(numbers_64, x.data_ptr(), a.data_ptr())", "2"],
        ["v = t(x); del x", "1"],
        ["mm_out(a, v, out=b); del a, v", "3"],
        ["relu_out(b, out=c); del b", "4"],
        ["d = op(c); d = as_said(d, (8, 8), (8, 1), dtype_f32, device_cpu, 'mine.op.default'); del c", "5"],
        ["e = amax(d); del d", "6"],
    ]


@pytest.mark.spec("IR-51")
def test_the_form_that_fills_a_given_tensor_is_not_told_its_kind():
    graph = parse(
        "graph g version 1\n  section inference\n"
        "    %a: f32[8]{1} @cpu = aten.empty.memory_format([8], dtype=dtype:f32, device=device:cpu)\n"
        "    %b: f32[8]{1} @cpu = aten.exp.default(%a)\n    return %b\n"
    )
    made = schedule(graph, {"a": OpFacts(out="aten.empty.out")})
    one, fresh = (emit(made, plan_memory(made, Options(slabs=slabs))).source for slabs in ("one", "fresh"))
    assert "    empty_out([8], out=a)" in one
    assert "    a = empty_memory_format([8], dtype=dtype_f32, device=device_cpu)" in fresh
