"""Memory lines of random schedules: in their places, and right when they are pooled and played, section by section."""

from __future__ import annotations

import pytest
from hypothesis import given
from test_pool_lines import run

from lowtide.core.errors import UserError
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value, refs_in, specialise
from lowtide.ir.symbolic import evaluate, parse_dim
from lowtide.ir.text import parse
from lowtide.memory.lifetime import lifetimes
from lowtide.plan.memory_lines import memory_lines, scope_peaks
from lowtide.plan.pool_lines import (
    ALIAS,
    ALLOCATE,
    CREATE,
    DESTROY,
    DROP,
    ENTER,
    EXIT,
    FREE,
    NULL,
    OTHER,
    REUSE,
    SIZE,
    SLICE,
    VIEW,
    Line,
    pooled,
    text_of,
)  # fmt: skip
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, schedule
from plans import schedules
from strategies import static_graphs

RANDOM = schedules(static_graphs(most=8))
MEMORY = (ALLOCATE, FREE, REUSE, VIEW, DROP, NULL)


def by_operation(lines) -> dict[str, int]:
    return {x.text: i for i, x in enumerate(lines) if x.kind == OTHER}


@pytest.mark.spec("ML1", "ML8")
@given(RANDOM)
def test_allocate_lines_stand_right_before_their_step_and_only_for_what_we_make(made: Schedule):
    lines, infos = memory_lines(made)
    at = by_operation(lines)
    assert [x.text for x in lines if x.kind == OTHER] == [s.op.name for s in made.steps]
    writer = {o: s for s in made.steps for o in s.op.outputs if o is not None}
    seen = set()
    for i, line in enumerate(lines):
        if line.kind not in (ALLOCATE, REUSE):
            continue
        name = line.names[0]
        assert name not in seen and name not in made.graph.caller_owned
        seen.add(name)
        assert all(x.kind in MEMORY for x in lines[i : at[writer[name].op.name]])
        if line.kind == ALLOCATE:
            step = writer[name]
            assert step.facts.out is not None and not step.facts.restride and made.graph.nbytes[name] > 0
            assert name not in step.op.mutates
    assert infos.keys() <= seen


@pytest.mark.spec("ML2", "ML3")
@given(RANDOM)
def test_free_lines_stand_behind_the_last_use_through_any_name(made: Schedule):
    lines, infos = memory_lines(made)
    uses: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        if line.kind == OTHER:
            for n in line.names:
                uses.setdefault(n, []).append(i)
    ends = [i for i, x in enumerate(lines) if x.kind == EXIT]
    for i, line in enumerate(lines):
        if line.kind == FREE:
            assert uses[line.names[0]][-1] < i and not any(
                x.kind == OTHER for x in lines[uses[line.names[0]][-1] + 1 : i]
            )
        if line.kind == DROP:
            storage = made.graph.value[line.names[0]].storage
            scope = next(e for e in ends if e > i)
            returned = {
                made.graph.value[n].storage for a in made.graph.sections[ends.index(scope)].returns for n in refs_in(a)
            }
            assert storage not in returned
            assert not any(i < u < scope for u in uses.get(storage, ()))
            begin = max((e for e in ends if e < i), default=-1)  # what a section saved, another one drops
            assert not any(x.kind in (ALLOCATE, FREE) and x.names[0] == line.names[0] for x in lines[begin + 1 : scope])
    freed = [x.names[0] for x in lines if x.kind == FREE]
    assert len(freed) == len(set(freed))
    taken = {x.names[1] for x in lines if x.kind == REUSE}
    assert {n for n, info in infos.items() if not info.output} <= {*freed, *taken}


@pytest.mark.spec("SC-02")
def test_a_buffer_begins_with_one_line_of_its_kind_and_ends_only_if_it_is_ours_to_end():
    graph = parse("""graph g version 1
  section inference
    input %x: f32[8]{1} @cpu
    %own: f32[8]{1} @cpu = aten.cumsum.default(%x)
    %a: f32[8]{1} @cpu = aten.cos.default(%own)
    %v: f32[8]{1} @cpu in %a = view aten.alias.default(%a)
    %b: f32[8]{1} @cpu = aten.exp.default(%v)
    %none: f32[0]{1} @cpu = aten.cos.default(%b)
    call aten.add_.Tensor(%b, %own) mutates %b as change
    %kept: f32[8]{1} @cpu = aten.mm.default(%b, %none)
    call aten._assert.default(%kept) as check
    return %kept
""")
    given = OpFacts(out="aten.cos.out", pointwise=True)
    facts = dict.fromkeys(("a", "b", "none"), given) | {"kept": OpFacts(out="aten.mm.out")}
    lines, infos = memory_lines(schedule(graph, facts))
    begins = [(x.kind, x.names) for x in lines if x.kind in (ALLOCATE, REUSE)]
    assert begins == [(ALLOCATE, ("a",)), (REUSE, ("b", "a")), (ALLOCATE, ("kept",))]
    assert [x.names for x in lines if x.kind == FREE] == [("b",)]
    assert {n for n, info in infos.items() if info.output} == {"kept"}


@pytest.mark.spec("ML4")
@given(RANDOM)
def test_reuse_lines_are_the_takeovers_of_the_one_lifetime_model(made: Schedule):
    lines, _ = memory_lines(made)
    pairs = {(x.names[0], x.names[1]) for x in lines if x.kind == REUSE}
    assert pairs == {(a.name, a.takes_over) for a in lifetimes(memory_graph(made)) if a.takes_over is not None}


@pytest.mark.spec("ML5")
@given(RANDOM)
def test_views_are_named_after_what_they_stand_on_and_before_they_are_used(made: Schedule):
    lines, _ = memory_lines(made)
    section, views = 0, {o for op in made.graph.ops if op.view for o in op.outputs}
    made_here: set[str] = set()
    for line in lines:
        if line.kind == ENTER:
            made_here = {i.name for i in made.graph.sections[section].inputs if isinstance(i, Ref)}
            made_here |= set(made.graph.constants)
            section += 1
        if line.kind == OTHER:
            step = next(s for s in made.steps if s.op.name == line.text)
            assert all(r in made_here for r in step.op.reads if r in views)
            made_here |= {o for o in step.op.outputs if o is not None}
        if line.kind == VIEW:
            new, base = line.names
            assert base in made_here and made.graph.value[new].storage == made.graph.value[base].storage
            made_here.add(new)


@pytest.mark.spec("ML7", "PP-29", "G2")
@given(RANDOM)
def test_sections_are_pooled_apart_and_no_live_bytes_are_shared(made: Schedule):
    lines, infos = memory_lines(made)
    out, pools = pooled(lines, infos)
    assert [x for x in out if x.kind in (OTHER, VIEW, DROP, ENTER, EXIT)] == [
        x for x in lines if x.kind in (OTHER, VIEW, DROP, ENTER, EXIT)
    ]
    assert len({p.name for p in pools}) == len(pools)
    starts = [i for i, x in enumerate(out) if x.kind == ENTER]
    ends = [i for i, x in enumerate(out) if x.kind == EXIT]
    for a, z in zip(starts, ends, strict=True):
        here = {x.names[0] for x in out[a:z] if x.kind in (SLICE, ALIAS)}
        known = [
            x if x.kind != OTHER else Line(OTHER, tuple(n for n in x.names if n in here), text=x.text) for x in out[a:z]
        ]
        run([x for x in known if x.kind in (SIZE, CREATE, SLICE, ALIAS, DESTROY, OTHER)], infos, {}, 64)
        for other, end in zip(starts, ends, strict=True):
            if other != a:
                assert not here & {x.names[0] for x in out[other:end] if x.kind in (SLICE, ALIAS)}


@pytest.mark.spec("ML7")
@given(RANDOM)
def test_every_sub_program_has_a_peak_of_its_own(made: Schedule):
    lines, infos = memory_lines(made)
    peaks = scope_peaks(lines, made.graph.nbytes)
    assert list(peaks) == [s.name for s in made.graph.sections]
    alive = {a.name: a for a in lifetimes(memory_graph(made))}
    at = {n.name: t for t, n in enumerate(memory_graph(made).nodes)}
    over = {a.takes_over: a.name for a in alive.values() if a.takes_over is not None}
    for section, name in enumerate(peaks):
        times = [at[s.op.name] for s in made.steps if s.section == section]
        ours = {x.names[0] for x in lines if x.kind == ALLOCATE and alive[x.names[0]].first in times}
        held = [0] * len(times)
        for first in ours & infos.keys():
            chain = [first]
            while chain[-1] in over and alive[over[chain[-1]]].first in times:
                chain.append(over[chain[-1]])
            for k, t in enumerate(times):
                if alive[first].first <= t < alive[chain[-1]].end:
                    held[k] += alive[first].nbytes
        assert peaks[name] == max(held, default=0)


def two_sizes() -> Graph:
    """Three operations on (s0, s1), and a view of a half."""
    wide = Layout("f32", "cpu", (parse_dim("s0"), parse_dim("s1")), (parse_dim("s1"), 1))
    half = Layout("f32", "cpu", (parse_dim("s0"), 4), (parse_dim("s1"), 1), 2)
    values = (*(Value(n, wide, n) for n in ("x", "a", "b", "c")), Value("v", half, "a"), Value("d", half, "d"))
    ops = (
        Op("a", "aten.mul.Tensor", (Ref("x"), Ref("x")), (), ("a",)),
        Op("v", "aten.slice.Tensor", (Ref("a"), 1, 2, 6), (), ("v",), view=True),
        Op("b", "aten.mul.Tensor", (Ref("a"), Ref("x")), (), ("b",)),
        Op("d", "aten.mul.Tensor", (Ref("v"), Ref("v")), (), ("d",)),
        Op("c", "aten.mul.Tensor", (Ref("b"), Ref("d")), (), ("c",)),
    )
    return Graph("g", values, (Section("inference", (Ref("x"),), ops, (Ref("c"),)),), (), ("s0", "s1"))


@pytest.mark.spec("PP-28", "PP-08", "ML5")
def test_sizes_that_vary_are_expressions_and_right_at_a_hundred_shapes():
    graph = two_sizes()
    fixed = specialise(graph, {"s0": 16, "s1": 16})
    facts = OpFacts(out="aten.mul.out")
    made = schedule(fixed, {op.name: facts for op in fixed.ops})
    lines, infos = memory_lines(made, graph)
    out, _ = pooled(lines, infos)
    assert any("s0" in text_of(x) for x in out if x.kind == SIZE)
    view = next(x for x in lines if x.kind == VIEW)
    assert (view.names, view.dim) == (("v", "a"), 8)
    for k in range(100):
        sizes = {"s0": k % 13, "s1": 6 + 7 * k % 101}
        run([x for x in out if x.kind in (SIZE, CREATE, SLICE, ALIAS, DESTROY)], infos, sizes, 64)
        now = specialise(graph, sizes)
        for name, info in infos.items():
            assert evaluate(info.nbytes, sizes) >= now.nbytes[name]
            assert evaluate(info.nbytes, sizes) == now.nbytes[name] or 0 in sizes.values()


def two_lengths(of_result: str) -> Graph:
    """x of length s0, a from x, then b from a, whose length is ``of_result``; at the hints all are 16 long."""
    size = {"x": "s0", "a": "s0", "b": of_result, "c": of_result}
    values = tuple(Value(n, Layout("f32", "cpu", (parse_dim(k),), (1,)), n) for n, k in size.items())
    ops = tuple(Op(n, "aten.mul.Tensor", (Ref(r), Ref(r)), (), (n,)) for r, n in (("x", "a"), ("a", "b"), ("b", "c")))
    return Graph("g", values, (Section("inference", (Ref("x"),), ops, (Ref("c"),)),), (), ("s0", "s1"))


@pytest.mark.spec("ML4", "PP-28")
@pytest.mark.parametrize(
    ("of_result", "kinds"), [("s0", [ALLOCATE, REUSE, REUSE]), ("s1", [ALLOCATE, ALLOCATE, REUSE])]
)
def test_bytes_are_handed_on_where_sizes_are_equal_as_expressions_not_by_their_hints(of_result, kinds):
    graph = two_lengths(of_result)
    facts = OpFacts(out="aten.mul.out", pointwise=True)
    made = schedule(specialise(graph, {"s0": 16, "s1": 16}), dict.fromkeys("abc", facts))
    assert [x.kind for x in memory_lines(made)[0] if x.kind in (ALLOCATE, REUSE)] == [ALLOCATE, REUSE, REUSE]
    lines, infos = memory_lines(made, graph)
    assert [x.kind for x in lines if x.kind in (ALLOCATE, REUSE)] == kinds
    heir = {x.names[1]: x.names[0] for x in lines if x.kind == REUSE}
    apart = [
        [n for n in x.names if n in infos and heir.get(n) not in x.names] for x in lines
    ]  # else they share on purpose
    out, _ = pooled([x if x.kind != OTHER else Line(OTHER, tuple(n)) for x, n in zip(lines, apart, strict=True)], infos)
    for s0, s1 in ((16, 16), (1, 100), (100, 1), (0, 7)):
        played = [x for x in out if x.kind in (SIZE, CREATE, SLICE, ALIAS, DESTROY, OTHER)]
        run(played, infos, {"s0": s0, "s1": s1}, 64)


@pytest.mark.spec("G4", "PP-03")
@given(RANDOM)
def test_what_is_returned_under_any_name_is_an_output_of_its_group(made: Schedule):
    """A view of it, or what took over its bytes, counts; so its pool outlives the call."""
    lines, infos = memory_lines(made)
    _, pools = pooled(lines, infos)
    first = {x.names[0]: x.names[1] for x in lines if x.kind == REUSE}
    roots: set[str] = set()
    for n in (n for section in made.graph.sections for a in section.returns for n in refs_in(a)):
        root = made.graph.value[n].storage
        while root in first:
            root = first[root]
        roots.add(root)
    ours = {x.names[0] for x in lines if x.kind == ALLOCATE and infos[x.names[0]].nbytes}
    assert {n for p in pools for n in p.offsets} >= roots & ours
    assert {p.name for p in pools if p.output} == {p.name for p in pools if roots & p.offsets.keys()}


@pytest.mark.spec("ML6", "PP-02")
def test_lines_of_removed_names_stay_as_empty_ones():
    graph = specialise(two_sizes(), {"s0": 8, "s1": 8})
    made = schedule(graph, {op.name: OpFacts(out="aten.mul.out") for op in graph.ops})
    lines, infos = memory_lines(made)
    out, _ = pooled(lines, infos, removed=frozenset({"d"}))
    assert (
        sum(x.kind == NULL for x in out)
        == sum(x.kind not in (OTHER, ENTER, EXIT) and "d" in x.names for x in lines)
        > 0
    )
    assert not any("d" in x.names for x in out if x.kind != OTHER)


@pytest.mark.spec("ML7")
def test_scopes_that_do_not_match_are_refused():
    for lines in ((Line(ENTER, text="a"),), (Line(EXIT, text="a"),), (Line(ENTER, text="a"), Line(EXIT, text="b"))):
        with pytest.raises(UserError, match="sub-program"):
            pooled(lines, {})


@pytest.mark.spec("ML7")
def test_a_sub_program_within_another_keeps_its_place():
    from lowtide.plan.pool_lines import Info

    lines = (
        Line(ALLOCATE, ("a",)), Line(OTHER, ("a",), text="k1"),
        Line(ENTER, text="branch"), Line(ALLOCATE, ("b",)), Line(OTHER, ("b",), text="k2"),
        Line(ENTER, text="inner"), Line(ALLOCATE, ("c",)), Line(OTHER, ("c",), text="k3"), Line(FREE, ("c",)),
        Line(EXIT, text="inner"), Line(FREE, ("b",)), Line(EXIT, text="branch"),
        Line(OTHER, ("a",), text="k4"), Line(FREE, ("a",)),
    )  # fmt: skip
    out, pools = pooled(lines, dict.fromkeys("abc", Info(64, 64)))
    assert [x.text for x in out if x.kind in (OTHER, ENTER, EXIT)] == [
        "k1",
        "branch",
        "k2",
        "inner",
        "k3",
        "inner",
        "branch",
        "k4",
    ]
    assert len(pools) == 3 and len({p.name for p in pools}) == 3
    run(
        [x for x in out if x.kind in (SIZE, CREATE, SLICE, ALIAS, DESTROY, OTHER)],
        dict.fromkeys("abc", Info(64, 64)),
        {},
        64,
    )
    assert scope_peaks(lines, dict.fromkeys("abc", 64)) == {"branch": 64, "inner": 64}
