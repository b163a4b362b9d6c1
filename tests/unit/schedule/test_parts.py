"""Results that take a part of what dies: permitted where it is safe, planned where it saves bytes, replayed, and run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from loop_programs import DRAWS, OPAQUE, compute, fill, one_by_one, programs
from small_loops import flat

from lowtide.core.errors import VerifyError
from lowtide.core.options import SLABS, Options
from lowtide.ir.graph import Graph, Layout, Op, Origin, Ref, Section, Value, refs_in
from lowtide.ir.lowered import LOOP, Lowered, loop_op
from lowtide.memory.graph import Buffer, MemoryGraph, Node
from lowtide.memory.lifetime import lifetimes, timeline
from lowtide.plan.choose import plan_memory
from lowtide.plan.plan import OVER, MemoryPlan
from lowtide.plan.replay import replay
from lowtide.schedule.fusion import fuse_loops
from lowtide.schedule.inplace import CallForms, call_pairs
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, reordered, schedule
from plans import any_order

CALLS = OpFacts(out="aten.opaque.out")


def scheduled(lowered: Lowered, inplace: bool = True) -> Schedule:
    facts = {op.name: CALLS for op in lowered.graph.ops}
    return schedule(lowered.graph, facts, inplace=inplace, loops=lowered.loops)


def run(made: Schedule, plan: MemoryPlan) -> dict[str, np.ndarray]:
    """What a program of whole numbers computes, every storage in the bytes that the plan gives it. Results are filled with
    other numbers before their operands are read, unless they lie on those."""
    graph = made.graph
    slabs = [np.full(s.nbytes // 8, 55, np.int64) for s in plan.slabs]
    held: dict[str, np.ndarray] = {n: fill(n, "i64", graph.nbytes[n] // 8) for n in graph.caller_owned}
    draws = 0

    def elements(name: str) -> np.ndarray:
        v = graph.value[name]
        return held[v.storage][int(str(v.layout.offset)) :]

    for step in made.steps:
        op = step.op
        names = [n for a in op.args for n in refs_in(a)]
        for o in (o for o in op.outputs if o is not None):
            place, count = plan.place[o], graph.nbytes[o] // 8
            if place.slab is not None:
                held[o] = slabs[place.slab][place.offset // 8 :][:count]
            else:
                held[o] = held[place.over] if place.over is not None else np.zeros(count, np.int64)
            if place.over is None:
                held[o][:] = 77
        if op.target == LOOP:
            assert step.loop is not None
            one_by_one(draws)(step.loop, [elements(n) for n in (*names, *op.outputs) if n is not None])
        elif op.target == DRAWS:
            held[op.name][:] = fill(f"draw {draws}", "i64", len(held[op.name]))
            draws += 1
        else:
            out = held[op.name]
            read = [np.resize(elements(n)[: graph.value[n].layout.extent // 8], len(out)) for n in names]
            out[:] = 77 + sum((x * k)[::-1] for k, x in enumerate(read, 1))
    kept = [(s, i, a) for s in graph.sections for i, a in enumerate(s.returns)]
    returned = {n for s, i, a in kept if i not in s.saved for n in refs_in(a)} | graph.caller_owned
    return {n: elements(n).copy() for n in sorted(returned)}


def taken(made: Schedule, plan: MemoryPlan) -> list[str]:
    """Storages that lie on a part of a larger one that dies where they begin."""
    return [p.storage for p in plan.places if p.over is not None and made.graph.nbytes[p.over] > p.nbytes]


@pytest.mark.spec("SC-55", "SC-56", "G1", "G2")
@given(programs(), st.integers(0, 2**16), st.sampled_from(SLABS), st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_planned_programs_compute_the_same(lowered: Lowered, seed: int, slabs: str, fuse: bool, inplace: bool) -> None:
    """Fused or not, in place or not, in any order, in slabs or not: all of it together, run in the bytes of the plan."""
    made = scheduled(lowered, inplace)
    if fuse:
        made = scheduled(fuse_loops(lowered, made, inplace=inplace).lowered, inplace)
    made = reordered(made, any_order(made, seed))
    plan = plan_memory(made, Options(slabs=slabs))
    replay(made, plan)
    event(f"parts taken: {bool(taken(made, plan))}")
    if any(s.op.target in (OPAQUE, DRAWS) for s in made.steps):
        return  # their stand-ins read whole storages, and draws depend on the order
    want, got = compute(lowered), run(made, plan)
    graph = lowered.graph
    for n, x in got.items():
        assert np.array_equal(x, want[n][: len(x)]), n
        assert graph.nbytes[graph.value[n].storage] >= 8 * len(x)


def halves() -> Lowered:
    """The first half of a tensor by its second half, turned."""
    n = 32
    layout = {"x": n, "h": 2 * n, "y": n, "z": n}
    values = tuple(Value(k, Layout("i64", "cpu", (m,), (1,)), k) for k, m in layout.items())
    loops = {
        "h": flat(1, 1, (2 * n,), f"k = index r0; c = const {n}; m = lt k c; a = load 0 r0 m; store 1 r0 a"),
        "y": flat(1, 1, (n,), f"a = load 0 r0; b = load 0 r0+{n}; c = mul a b; store 1 r0 c"),
        "z": flat(1, 1, (8, 4), "a = load 0 8*r1+r0; store 1 4*r0+r1 a"),
    }
    ops = tuple(loop_op((given,), (name,), (), Origin(), name) for given, name in (("x", "h"), ("h", "y"), ("y", "z")))
    return Lowered(Graph("g", values, (Section("inference", (Ref("x"),), ops, (Ref("z"),)),)), loops)


@pytest.mark.spec("SC-56")
def test_a_smaller_result_lies_at_the_front_of_what_dies() -> None:
    made = scheduled(halves())
    plan = plan_memory(made, Options(slabs="one"))
    replay(made, plan)
    assert taken(made, plan) == ["y"]
    assert (plan.place["y"].slab, plan.place["y"].offset) == (plan.place["h"].slab, plan.place["h"].offset)
    assert plan.promised_nbytes == max(made.graph.nbytes["h"], made.graph.nbytes["h"] + made.graph.nbytes["z"])
    got = run(made, plan)
    assert np.array_equal(got["z"], compute(halves())["z"])


@pytest.mark.spec("SC-56")
@pytest.mark.parametrize("slabs", SLABS)
def test_outside_a_slab_a_part_is_not_taken(slabs: str) -> None:
    """What an allocation of its own leaves cannot be given back; the promise says so."""
    made = scheduled(halves())
    plan = plan_memory(made, Options(slabs=slabs))
    replay(made, plan)
    for name in taken(made, plan):
        assert plan.place[name].slab is not None
    if slabs == "none":
        assert not taken(made, plan)
        assert plan.promised_nbytes == made.graph.nbytes["h"] + made.graph.nbytes["y"]
        assert plan.promised_nbytes > timeline(memory_graph(made)).peak


@pytest.mark.spec("SC-56", "G2")
def test_the_checker_refuses_a_part_that_may_not_be_taken() -> None:
    made = scheduled(halves())
    plan = plan_memory(made, Options(slabs="one"))
    shifted = flat(1, 1, (32,), "a = load 0 r0; b = load 0 r0+31; c = mul a b; store 1 r0 c")
    steps = tuple(replace(s, loop=shifted) if s.op.name == "y" else s for s in made.steps)
    with pytest.raises(VerifyError, match="inplace"):
        replay(replace(made, steps=steps), plan)
    alone = tuple(replace(p, slab=None, how=OVER if p.over else "fresh", offset=0) for p in plan.places)
    with pytest.raises(VerifyError, match="ends as a whole"):
        replay(made, replace(plan, places=alone, slabs=()))


def call(**layouts: tuple[tuple[int, ...], int]) -> tuple[Graph, Op]:
    """``y`` from views of one storage ``x`` of 16 elements: (size, offset) each."""
    base = Value("x", Layout("f32", "cpu", (16,), (1,)), "x")
    views = [Value(n, Layout("f32", "cpu", size, (1,), at), "x") for n, (size, at) in layouts.items() if n != "y"]
    made = Value("y", Layout("f32", "cpu", layouts["y"][0], (1,)), "y")
    op = Op("y", "aten.add.Tensor", tuple(Ref(v.name) for v in views), outputs=("y",))
    first = Op("x", "aten.empty.memory_format", (), outputs=("x",))
    return Graph("g", (base, *views, made), (Section("inference", (), (first, op), (Ref("y"),)),)), op


BOTH = frozenset(("x", "y"))


@pytest.mark.spec("SC-55")
@pytest.mark.parametrize(
    ("layouts", "pointwise", "permitted"),
    [
        ({"a": ((8,), 0), "y": ((8,), 0)}, True, True),
        ({"a": ((8,), 0), "y": ((8,), 0)}, False, False),
        ({"a": ((8,), 0), "b": ((8,), 8), "y": ((8,), 0)}, True, True),
        ({"a": ((8,), 8), "y": ((8,), 0)}, False, True),  # it reads nothing of what it writes
        ({"a": ((8,), 7), "y": ((8,), 0)}, False, False),
        ({"a": ((8,), 0), "b": ((8,), 4), "y": ((8,), 0)}, True, False),
        ({"a": ((1,), 0), "y": ((8,), 0)}, True, False),
    ],
)
def test_parts_that_a_library_call_may_take(
    layouts: dict[str, tuple[tuple[int, ...], int]], pointwise: bool, permitted: bool
) -> None:
    graph, op = call(**layouts)
    found = call_pairs(graph, op, CallForms(pointwise, True, "a"), BOTH)
    assert (found == (("x", "y"),)) == permitted
    assert call_pairs(graph, op, CallForms(pointwise, False, "a"), BOTH) == ()
    assert call_pairs(graph, op, CallForms(pointwise, True, "a")) == ()


# -- the choice of pairs -----------------------------------------------------------------------------------------------


@st.composite
def competing(draw: st.DrawFn) -> MemoryGraph:
    """Few steps, each of which makes some buffers and may put them over some of those that it reads, of all sizes."""
    sizes = st.sampled_from((0, 8, 16, 24, 40, 64))
    buffers: list[Buffer] = []
    nodes: list[Node] = []
    for t in range(draw(st.integers(1, 4))):
        known = [b.name for b in buffers]
        reads = draw(st.lists(st.sampled_from(known), max_size=4, unique=True)) if known else []
        writes = [f"b{t}{k}" for k in range(draw(st.integers(1, 3)))]
        buffers += [Buffer(w, draw(sizes), output=draw(st.integers(0, 5)) == 0) for w in writes]
        offered = [(r, w) for r in reads for w in writes]
        pairs = draw(st.lists(st.sampled_from(offered), max_size=5, unique=True)) if offered else []
        nodes.append(
            Node(f"n{t}", tuple(reads), tuple(writes), workspace=draw(st.sampled_from((0, 8))), inplace=tuple(pairs))
        )
    return MemoryGraph(tuple(buffers), tuple(nodes))


def choices(graph: MemoryGraph) -> Iterator[Sequence[tuple[str, str]]]:
    """Every set of pairs of the whole program that could be taken together."""
    last = {n: t for t, node in enumerate(graph.nodes) for n in (*node.reads, *node.writes)}
    size = {b.name: b for b in graph.buffers}
    possible = [
        (r, w)
        for t, node in enumerate(graph.nodes)
        for r, w in node.inplace
        if last[r] == t and not size[r].output and size[r].nbytes >= size[w].nbytes
    ]
    for count in range(len(possible) + 1):
        for found in itertools.combinations(possible, count):
            if len({r for r, _ in found}) == len({w for _, w in found}) == count:
                yield found


def bytes_held(graph: MemoryGraph, pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Bytes alive in each step, counted one buffer after the other."""
    last = {n: t for t, node in enumerate(graph.nodes) for n in (*node.reads, *node.writes)}
    born = {n: t for t, node in enumerate(graph.nodes) for n in node.writes}
    out = [node.workspace for node in graph.nodes]
    over = {w for _, w in pairs}
    for b in graph.buffers:
        for t in range(born[b.name], len(out) if b.output else last[b.name] + 1):
            out[t] += 0 if b.name in over and t == born[b.name] else b.nbytes
    return out


@pytest.mark.spec("SC-56", "PK-16")
@given(competing())
@settings(max_examples=150, deadline=None)
def test_no_other_choice_of_pairs_has_a_lower_peak(graph: MemoryGraph) -> None:
    """The matching is the best of the whole program at every step, the one of the peak included."""
    line = timeline(graph)
    every = [bytes_held(graph, pairs) for pairs in choices(graph)]
    assert line.peak == min(map(max, every))
    assert list(line.live) == [min(held[t] for held in every) for t in range(len(graph.nodes))]
    pairs = [(x.takes_over, x.name) for x in lifetimes(graph) if x.takes_over is not None]
    assert bytes_held(graph, pairs) == list(line.live)
