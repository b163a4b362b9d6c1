"""Results that may take over an operand's bytes: what is permitted is safe in any order of points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_programs import fill, one_by_one, programs
from small_loops import flat, nest

from lowtide.ir.graph import Graph, Layout, Op, Origin, Ref, Section, Value, refs_in
from lowtide.ir.loops import Loop
from lowtide.ir.lowered import Lowered, loop_op
from lowtide.schedule.inplace import loop_pairs


def run(graph: Graph, op: Op, loop: Loop, pair: tuple[str, str] | None, seed: int) -> dict[str, np.ndarray]:
    """What a loop makes; ``pair``: (read, written) storages that are the same memory."""
    held: dict[str, np.ndarray] = {}
    names = [n for a in op.args for n in refs_in(a)]
    for n in names:
        s = graph.value[n].storage
        held.setdefault(s, fill(s, "i64", graph.nbytes[s] // 8))
    made = [o for o in op.outputs if o is not None]
    for o in made:
        shared = pair is not None and pair[1] == o
        count = graph.nbytes[o] // 8
        held[o] = held[pair[0]][:count] if shared and pair else np.full(count, 77, np.int64)
    starts = [int(str(graph.value[n].layout.offset)) for n in (*names, *made)]
    buffers = [held[graph.value[n].storage][k:] for n, k in zip((*names, *made), starts, strict=True)]
    one_by_one(seed)(loop, buffers)
    return {o: held[o] for o in made}


@pytest.mark.spec("SC-55")
@given(programs(), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_permitted_pairs_are_safe(lowered: Lowered, seed: int) -> None:
    graph = lowered.graph
    for op in graph.ops:
        loop = lowered.loops.get(op.name)
        if loop is None:
            continue
        whole = loop_pairs(graph, op, loop)
        assert all(graph.nbytes[a] == graph.nbytes[b] for a, b in whole)
        pairs = loop_pairs(graph, op, loop, frozenset(graph.nbytes))
        assert {*whole} <= {*pairs}
        for pair in pairs:
            assert pair[0] not in graph.caller_owned
            assert pair[0] not in {graph.value[m].storage for m in op.mutates}
            want, got = run(graph, op, loop, None, seed), run(graph, op, loop, pair, seed + 1)
            assert all(np.array_equal(want[o], got[o]) for o in want), (pair, str(loop))


def one_op(loop: Loop, given_: str, shapes: dict[str, tuple[int, ...]], owned: str = "", changes: str = "") -> Graph:
    """A graph with one loop that makes ``y``; all that it is given but ``owned`` is made before it."""
    values = [Value(n, Layout("i64", "cpu", s, _strides(s)), n) for n, s in shapes.items()]
    names = [n for n in shapes if n != "y"]
    first = tuple(Op(n, "aten.empty.memory_format", (), (), (n,)) for n in names if n not in owned.split())
    op = loop_op(tuple(given_.split()), ("y",), tuple(changes.split()), Origin(), "y")
    inputs = tuple(Ref(n) for n in owned.split())
    return Graph("g", tuple(values), (Section("inference", inputs, (*first, op), (Ref("y"),)),))


def _strides(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(size[k + 1 :])) for k in range(len(size)))


GRID = (4, 4)
DOUBLE = "a = load 0 4*r0+r1; b = add a a; store 1 4*r0+r1 b"
SOFTMAX = ((4,), "a = load 0 4*i0+r0; s = reduce sum a"), ((4,), "b = load 0 4*i0+r0; c = sub b s; store 1 4*i0+r0 c")
CASES: dict[str, tuple[Loop, dict[str, tuple[int, ...]], bool]] = {
    "element on element": (flat(1, 1, GRID, DOUBLE), {"x": GRID, "y": GRID}, True),
    "a row is read before it is written": (nest((4,), 1, 1, *SOFTMAX), {"x": GRID, "y": GRID}, True),
    "the next element": (flat(1, 1, (15,), "a = load 0 r0+1; store 1 r0 a"), {"x": (16,), "y": (16,)}, False),
    "turned": (flat(1, 1, GRID, "a = load 0 4*r1+r0; store 1 4*r0+r1 a"), {"x": GRID, "y": GRID}, False),
    "read again afterwards": (
        nest((4,), 1, 1, ((4,), "a = load 0 4*i0+r0; b = add a a; store 1 4*i0+r0 b; c = load 0 4*i0+r0; s = reduce sum c")),
        {"x": GRID, "y": GRID},
        False,
    ),
    "read again in a later pass": (
        nest((4,), 1, 1, ((4,), "a = load 0 4*i0+r0; store 1 4*i0+r0 a"), ((4,), "c = load 0 4*i0+r0; s = reduce sum c")),
        {"x": GRID, "y": GRID},
        False,
    ),
    "a little of the next row is read before": (
        nest((4,), 1, 1, ((5,), SOFTMAX[0][1]), SOFTMAX[1]), {"x": (17,), "y": GRID}, False,
    ),
    "one of a row by all of it": (
        nest((4,), 1, 1, ((4,), "a = load 0 4*i0; store 1 4*i0+r0 a")), {"x": GRID, "y": GRID}, False,
    ),
    "stored here and there": (
        flat(1, 1, (16,), "n = index r0; c = const 3; k = lt n c; a = load 0 r0; store 1 r0 a k"),
        {"x": (16,), "y": (16,)},
        False,
    ),
    "not all of it stored": (flat(1, 1, (8,), "a = load 0 r0; store 1 r0 a"), {"x": (16,), "y": (16,)}, False),
    "larger than what dies": (flat(1, 1, (8,), "a = load 0 r0; store 1 r0 a"), {"x": (7,), "y": (8,)}, False),
    "stored twice": (
        flat(1, 1, (16,), "a = load 0 r0; store 1 r0 a; b = add a a; store 1 r0 b"), {"x": (16,), "y": (16,)}, False,
    ),
    "a part, element on element": (flat(1, 1, (8,), "a = load 0 r0; store 1 r0 a"), {"x": (16,), "y": (8,)}, True),
    "a part, and what lies behind it": (
        flat(1, 1, (8,), "a = load 0 r0; b = load 0 r0+8; c = add a b; store 1 r0 c"), {"x": (16,), "y": (8,)}, True,
    ),
    "a part, and what reaches into it": (
        flat(1, 1, (8,), "a = load 0 r0; b = load 0 r0+7; c = add a b; store 1 r0 c"), {"x": (16,), "y": (8,)}, False,
    ),
    "a part, from behind it turned": (
        flat(1, 1, (2, 4), "a = load 0 2*r1+r0+8; store 1 4*r0+r1 a"), {"x": (16,), "y": (2, 4)}, True,
    ),
    "sums of rows over their first elements": (
        nest((4,), 1, 1, ((4,), "a = load 0 4*i0+r0; s = reduce sum a"), ((), "store 1 i0 s")), {"x": GRID, "y": (4,)}, False,
    ),
    "loaded by two names": (
        flat(2, 1, (16,), "a = load 0 r0; b = load 1 r0; c = add a b; store 2 r0 c"), {"x": (16,), "z": (16,), "y": (16,)}, True,
    ),
}  # fmt: skip


@pytest.mark.spec("SC-55")
@pytest.mark.parametrize("name", CASES)
def test_what_may_be_overwritten(name: str) -> None:
    loop, shapes, permitted = CASES[name]
    names = " ".join(n for n in shapes if n != "y")
    graph = one_op(loop, names, shapes)
    op = graph.sections[0].ops[-1]
    inside = frozenset(shapes)
    assert (("x", "y") in loop_pairs(graph, op, loop, inside)) == permitted
    assert loop_pairs(one_op(loop, names, shapes, owned=names), op, loop, inside) == ()
    if graph.nbytes["x"] != graph.nbytes["y"]:
        assert not any(loop_pairs(graph, op, loop, s) for s in (frozenset(), frozenset("x"), frozenset("y")))


@pytest.mark.spec("SC-55")
def test_a_second_name_that_is_read_elsewhere_forbids_it() -> None:
    """Both names stand on one storage: the one is read where it is written, the other one element on."""
    loop = flat(2, 1, (15,), "a = load 0 r0; b = load 1 r0+1; c = add a b; store 2 r0 c")
    layout = Layout("i64", "cpu", (15,), (1,))
    values = (Value("x", layout, "x"), Value("z", layout, "x"), Value("y", layout, "y"))
    op = loop_op(("x", "z"), ("y",), (), Origin(), "y")
    first = Op("x", "aten.empty.memory_format", (), (), ("x",))
    view = Op("z", "aten.alias.default", (Ref("x"),), (), ("z",), view=True)
    graph = Graph("g", values, (Section("inference", (), (first, view, op), (Ref("y"),)),))
    assert loop_pairs(graph, op, loop) == ()


@pytest.mark.spec("SC-55")
def test_what_the_loop_changes_is_not_taken_over() -> None:
    loop = flat(1, 1, (16,), "a = load 0 r0; b = add a a; store 0 r0 b; store 1 r0 b")
    graph = one_op(loop, "x", {"x": (16,), "y": (16,)}, changes="x")
    assert loop_pairs(graph, graph.sections[0].ops[-1], loop) == ()


@pytest.mark.spec("SC-55")
def test_another_width_is_not_taken_over() -> None:
    graph = one_op(flat(1, 1, (16,), "a = load 0 r0; store 1 r0 a"), "x", {"x": (16,), "y": (16,)})
    op = graph.sections[0].ops[-1]
    half = Layout("f16", "cpu", (64,), (1,))
    values = tuple(Value(v.name, half, v.storage) if v.name == "x" else v for v in graph.values)
    loop = flat(1, 1, (16,), "a = load 0 r0; store 1 r0 a")
    assert loop_pairs(Graph("g", values, graph.sections), op, loop) == ()
