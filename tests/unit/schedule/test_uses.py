"""Who uses a buffer: through any of its names, each user once, in the version that it sees."""

from __future__ import annotations

import pytest
from small_loops import flat

from lowtide.ir.graph import Graph, Op
from lowtide.ir.loops import check_loop, parse_loop
from lowtide.ir.lowered import LOOP, Lowered, check_lowered
from lowtide.ir.text import parse
from lowtide.memory.lifetime import lifetimes
from lowtide.schedule.depend import accesses, dependencies
from lowtide.schedule.fusion import fuse_loops
from lowtide.schedule.inplace import CallForms, call_pairs, loop_pairs
from lowtide.schedule.schedule import memory_graph, schedule
from lowtide.schedule.text import print_schedule


def waits(graph: Graph) -> dict[str, tuple[str, ...]]:
    return dict(dependencies(graph, graph.sections[0]).before)


# ``v``, ``w`` and ``u``: a view of a view of a view of ``a``.
CHAIN = """graph g version 1
  section inference
    input %x: f32[8]{1} @cpu
    %a: f32[8]{1} @cpu = aten.relu.default(%x)
    %v: f32[4]{1} @cpu in %a = view aten.slice.Tensor(%a, 0, 0, 4)
    %w: f32[2]{1} @cpu in %a = view aten.slice.Tensor(%v, 0, 0, 2)
    %u: f32[1]{1} @cpu in %a = view aten.slice.Tensor(%w, 0, 0, 1)
    %one: f32[4]{1} @cpu = aten.exp.default(%v)
    %two: f32[4]{1} @cpu = aten.cat.default([%u, %w, %u])
    %three: f32[8]{1} @cpu = aten.cos.default(%a)
    call aten.add_.Tensor(%w, %u) mutates %w as first
    %four: f32[4]{1} @cpu = aten.sin.default(%v)
    call aten.mul_.Scalar(%u, 2) mutates %u as second
    %five: f32[8]{1} @cpu = aten.neg.default(%a)
    return [%one, %two, %three, %four, %five]
"""


@pytest.mark.spec("SC-13")
def test_names_of_one_buffer_share_its_users_and_each_stands_there_once() -> None:
    """Who changes it under one name waits for who read it under another; who reads it later, for the last change."""
    found = waits(parse(CHAIN))
    assert found["one"] == found["two"] == found["three"] == ("a",)
    assert found["first"] == ("a", "one", "two", "three")
    assert found["four"] == ("first",)
    assert found["second"] == ("first", "four")
    assert found["five"] == ("second",)


@pytest.mark.spec("SC-18")
def test_what_is_used_through_a_view_of_a_view_is_what_it_stands_on() -> None:
    """Waiting for an operation uses nothing of it."""
    graph = parse(CHAIN)
    storage = {v.name: v.storage for v in graph.values}
    op = {op.name: op for op in graph.ops}
    assert accesses(op["two"], storage) == (("a",), (), ("two",))
    assert accesses(op["second"], storage) == (("a",), ("a",), ())
    nodes = {n.name: n for n in memory_graph(schedule(graph, {})).nodes}
    assert nodes["two"].reads == ("a",)
    assert nodes["first"].reads == ("a",)
    assert {"one", "two", "three"} <= set(nodes["first"].after)


@pytest.mark.spec("SC-15")
def test_after_three_changes_names_lead_to_one_buffer_and_readers_to_the_last_change() -> None:
    graph = parse("""graph g version 1
  section inference
    input %y: f32[8]{1} @cpu
    %x: f32[8]{1} @cpu = aten.relu.default(%y)
    %x1: f32[8]{1} @cpu in %x = aten.add_.Scalar(%x, 1) mutates %x
    %x2: f32[8]{1} @cpu in %x = aten.add_.Scalar(%x1, 1) mutates %x1
    %x3: f32[8]{1} @cpu in %x = aten.add_.Scalar(%x2, 1) mutates %x2
    %old: f32[8]{1} @cpu = aten.neg.default(%x)
    %new: f32[8]{1} @cpu = aten.exp.default(%x3)
    return [%old, %new]
""")
    assert {graph.value[n].storage for n in ("x", "x1", "x2", "x3")} == {"x"}
    found = waits(graph)
    assert found == {"x": (), "x1": ("x",), "x2": ("x1",), "x3": ("x2",), "old": ("x3",), "new": ("x3",)}
    line = memory_graph(schedule(graph, {}))
    assert [x.name for x in lifetimes(line)] == ["x", "old", "new"]
    assert {r for n in line.nodes for r in n.reads} == {"x", "y"}


@pytest.mark.spec("SC-03")
@pytest.mark.parametrize(("takes", "waits_only"), [(True, False), (False, True), (True, True)])
def test_several_needs_of_one_operation_are_one_and_mere_waiting_only_if_all_are(takes: bool, waits_only: bool) -> None:
    """``b`` takes what ``a`` makes, or changes what ``a`` has read, or both."""
    graph = parse(f"""graph g version 1
  section inference
    input %x: f32[8]{{1}} @cpu
    input %y: f32[8]{{1}} @cpu
    %a: f32[8]{{1}} @cpu = aten.add.Tensor(%x, %x)
    call aten.add_.Tensor({"%x" if waits_only else "%y"}, {"%a" if takes else "%y"}) mutates {"%x" if waits_only else "%y"} as b
    return %a
""")
    found = dependencies(graph, graph.sections[0])
    assert found.before["b"] == ("a",)
    assert (found.ordering["b"] == {"a"}) == (not takes)


def pair(text: str, given: str) -> tuple[tuple[str, str], ...]:
    """Permitted pairs of a loop over 8 elements that makes ``y`` from values of ``given``, ``a`` and ``v`` in one storage."""
    graph = parse(f"""graph g version 1
  section inference
    input %x: i64[8]{{1}} @cpu
    %a: i64[8]{{1}} @cpu = aten.relu.default(%x)
    %v: i64[8]{{1}} @cpu in %a = view aten.alias.default(%a)
    %y: i64[8]{{1}} @cpu = {LOOP}({given})
    return %y
""")
    return loop_pairs(graph, graph.ops[-1], flat(given.count("%"), 1, (8,), text))


FIRST, SECOND = {True: "load 0 r0", False: "load 0 7"}, {True: "r0", False: "7"}


@pytest.mark.spec("SC-03")
@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("other", [True, False])
def test_several_reads_of_one_operation_may_be_overwritten_only_if_each_may(one: bool, other: bool) -> None:
    """Under one name, under two names, and as arguments of a library call."""
    wanted = (("a", "y"),) if one and other else ()
    rest = "c = add a b; store {} r0 c"
    assert pair(f"a = {FIRST[one]}; b = load 0 {SECOND[other]}; {rest.format(1)}", "%a") == wanted
    assert pair(f"a = {FIRST[one]}; b = load 1 {SECOND[other]}; {rest.format(2)}", "%a, %v") == wanted
    layout = {True: "f32[8]{1} @cpu in %a", False: "f32[8]{0} @cpu in %a"}
    graph = parse(f"""graph g version 1
  section inference
    input %x: f32[8]{{1}} @cpu
    %a: f32[8]{{1}} @cpu = aten.relu.default(%x)
    %v: {layout[one]} = view aten.as_strided.default(%a)
    %w: {layout[other]} = view aten.as_strided.default(%a)
    %y: f32[8]{{1}} @cpu = aten.add.Tensor(%v, %w)
    return %y
""")
    assert call_pairs(graph, graph.ops[-1], CallForms(pointwise=True, by_out=True, overwrites=None)) == wanted


def loops(text: str, **given: str) -> Lowered:
    """A graph's text with loops for what is called ``lowtide.loop.default``, of 8 whole numbers each."""
    graph = parse(text)
    ops: list[Op] = [op for op in graph.ops if op.target == LOOP]
    made = {op.name: flat(len(op.reads), len(op.outputs), (8,), given[op.name]) for op in ops}
    found = Lowered(graph, made)
    check_lowered(found)
    return found


def fused(lowered: Lowered) -> Graph:
    return fuse_loops(lowered, schedule(lowered.graph, {}, loops=lowered.loops)).lowered.graph


@pytest.mark.spec("SC-19")
def test_what_is_met_gone_or_implied_is_waited_for_no_longer() -> None:
    """``c`` changes what ``a`` and ``d`` have read and takes what ``a`` made: it waits for ``a`` once, and as a taker. Nobody
    needs ``d``, and once it is gone nobody waits for it; ``a`` and ``c`` in one kernel do not wait for themselves."""
    lowered = loops(
        f"""graph g version 1
  section forward
    input %z: i64[8]{{1}} @cpu
    %x: i64[8]{{1}} @cpu = aten.relu.default(%z)
    %a: i64[8]{{1}} @cpu = {LOOP}(%x)
    %d: i64[8]{{1}} @cpu = {LOOP}(%x)
    call {LOOP}(%x, %a) mutates %x as c
    return %a
    return saved %x
  section backward
    input %x
    %e: i64[8]{{1}} @cpu = aten.neg.default(%x)
    return %e
""",
        a="a = load 0 r0; b = add a a; store 1 r0 b",
        d="a = load 0 r0; b = mul a a; store 1 r0 b",
        c="a = load 0 r0; b = load 1 r0; c = add a b; store 0 r0 c",
    )
    before = dependencies(lowered.graph, lowered.graph.sections[0])
    assert before.before["c"] == ("x", "a", "d")
    assert before.ordering["c"] == {"d"}
    assert dependencies(lowered.graph, lowered.graph.sections[1]).before == {"e": ()}
    graph = fused(lowered)
    after = dependencies(graph, graph.sections[0])
    assert after.before == {"x": (), "a": ("x",)}
    assert after.ordering == {"x": frozenset(), "a": frozenset()}


@pytest.mark.spec("SC-17")
def test_a_program_that_only_changes_what_it_is_given_keeps_all_of_it() -> None:
    """It returns nothing; a constant is changed too, and so is an input through a view; the loop nobody needs goes."""
    lowered = loops(
        f"""graph g version 1
  section inference
    input %x: i64[8]{{1}} @cpu
    input %u: i64[8]{{1}} @cpu
    input %y: i64[8]{{1}} @cpu
    const %k: i64[8]{{1}} @cpu
    %v: i64[8]{{1}} @cpu in %y = view aten.alias.default(%y)
    %a: i64[8]{{1}} @cpu = {LOOP}(%x)
    %lost: i64[8]{{1}} @cpu = {LOOP}(%u)
    call {LOOP}(%x) mutates %x as m
    call {LOOP}(%k, %a) mutates %k as n
    call {LOOP}(%v) mutates %v as o
""",
        a="a = load 0 r0; b = add a a; store 1 r0 b",
        lost="a = load 0 r0; b = mul a a; store 1 r0 b",
        m="a = load 0 r0; b = mul a a; store 0 r0 b",
        n="a = load 0 r0; b = load 1 r0; c = add a b; store 0 r0 c",
        o="a = load 0 r0; b = add a a; store 0 r0 b",
    )
    graph = fused(lowered)
    assert {graph.value[m].storage for op in graph.ops for m in op.mutates} == {"x", "y", "k"}
    assert "lost" not in graph.value


# One operation of every kind: a view, a loop, a loop over nothing, a call, a call that returns nothing, a draw.
KINDS = f"""graph g version 1
  section inference
    input %x: i64[8]{{1}} @cpu
    input %e: i64[0]{{1}} @cpu
    %v: i64[4]{{1}} @cpu in %x = view aten.slice.Tensor(%x, 0, 0, 4)
    %a: i64[8]{{1}} @cpu = {LOOP}(%x)
    %n: i64[0]{{1}} @cpu = {LOOP}(%e)
    %m: i64[4]{{1}} @cpu = aten.cumsum.default(%v)
    call aten._assert.default(%x) as check
    %r: i64[8]{{1}} @cpu = aten.randint.default(8) effect random
    return [%a, %n, %m]
"""


@pytest.mark.spec("SC-06", "SC-01")
def test_what_an_operation_is_says_what_kind_of_step_it_becomes() -> None:
    """Views are none; loops are kernels, also over nothing, which costs no bytes; the rest are calls."""
    graph = parse(KINDS)
    double = "a = load 0 r0; b = add a a; store 1 r0 b"
    made = schedule(graph, {}, loops={"a": flat(1, 1, (8,), double), "n": flat(1, 1, (0,), double)})
    assert {n: s.loop is not None for n, s in made.step.items()} == {
        "a": True, "n": True, "m": False, "check": False, "r": False,
    }  # fmt: skip
    assert [n for n, s in made.step.items() if s.placed] == ["a", "n"]
    line = memory_graph(made)
    assert {b.name: (b.input, b.output, b.nbytes) for b in line.buffers} == {
        "x": (True, False, 64), "e": (True, False, 0), "a": (False, True, 64), "n": (False, True, 0),
        "m": (False, True, 32), "r": (False, False, 64),
    }  # fmt: skip
    assert {w: n.name for n in line.nodes for w in n.writes} == {n: n for n in ("a", "n", "m", "r")}
    assert [n.name for n in line.nodes if not n.writes] == ["check"]


@pytest.mark.spec("SC-54")
@pytest.mark.parametrize(
    ("dtype", "body", "low"),
    [
        ("bf16", "v1: bf16 = store 1 [r0] v0", True),
        ("f16", "v1: f32 = cast v0\n    v2: f32 = exp v1\n    v3: f16 = cast v2\n    v4: f16 = store 1 [r0] v3", False),
        ("f16", "v1: i64 = index r0\n    v2: f16 = load 0 [v1]\n    v3: f16 = store 1 [r0] v2", True),
        ("f32", "v1: f32 = store 1 [r0] v0", False),
        ("i16", "v1: i16 = store 1 [r0] v0", False),
    ],
)
def test_whether_a_kernel_computes_in_16_bits_throughout_is_told(dtype: str, body: str, low: bool) -> None:
    """Indices may be wider; without fractions there is nothing to tell."""
    graph = parse(f"""graph g version 1
  section inference
    input %x: {dtype}[8]{{1}} @cpu
    %y: {dtype}[8]{{1}} @cpu = {LOOP}(%x)
    return %y
""")
    loop = parse_loop(f"loop [] in({dtype}) out({dtype})\n  stage [8]\n    v0: {dtype} = load 0 [r0]\n    {body}\n")
    check_loop(loop)
    assert ("in 16 bits throughout" in print_schedule(schedule(graph, {}, loops={"y": loop}))) == low
