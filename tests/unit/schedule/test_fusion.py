"""Fused programs compute what unfused ones do, in any order of points, in no more memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Set
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from loop_programs import compute, one_by_one, programs

from lowtide.ir.graph import Graph, Layout, Op, Origin, Ref, Section, Value
from lowtide.ir.interpret import interpret
from lowtide.ir.loops import Loop, parse_loop
from lowtide.ir.lowered import LOOP, Lowered, check_lowered, loop_op
from lowtide.ir.task import Task
from lowtide.ir.verify import verify
from lowtide.memory.lifetime import timeline
from lowtide.schedule import fusion
from lowtide.schedule.fusion import Fused, fuse_again, fuse_loops
from lowtide.schedule.joined import joined
from lowtide.schedule.rules import CACHED, Rules, unranked
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, schedule


def scheduled(lowered: Lowered) -> Schedule:
    """In program order; what is no loop needs some memory while it runs."""
    facts = {op.name: OpFacts(workspace=32 * len(op.reads)) for op in lowered.graph.ops if op.target != LOOP}
    return schedule(lowered.graph, facts, loops=lowered.loops)


def fused(lowered: Lowered) -> Fused:
    found = fuse_loops(lowered, scheduled(lowered))
    verify(found.lowered.graph)
    check_lowered(found.lowered)
    return found


def peak(lowered: Lowered) -> int:
    return timeline(memory_graph(scheduled(lowered))).peak


def kernels(lowered: Lowered) -> int:
    return sum(op.target == LOOP for op in lowered.graph.ops)


@pytest.mark.spec("SC-24", "SC-25", "SC-26", "SC-07", "SC-31")
@given(programs(), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_fused_programs_compute_the_same(lowered: Lowered, seed: int) -> None:
    want = compute(lowered)
    got = compute(fused(lowered).lowered, one_by_one(seed))
    assert want.keys() == got.keys()
    for name, x in want.items():
        assert np.array_equal(x, got[name]), name


@pytest.mark.spec("SC-33", "PP-28")
@given(programs())
@settings(max_examples=60, deadline=None)
def test_what_was_fused_can_be_fused_again_without_a_search(lowered: Lowered) -> None:
    found = fused(lowered)
    again = fuse_again(lowered, scheduled(lowered), found.pairs)
    assert again is not None
    assert (again.lowered, again.pairs, again.notes, again.peak) == (
        found.lowered,
        found.pairs,
        found.notes,
        found.peak,
    )
    assert all(
        fuse_again(lowered, scheduled(lowered), [(b, a)]) is None for a, b in found.pairs[:1]
    )  # the wrong way round
    none = fuse_again(lowered, scheduled(lowered), [])
    assert none is not None and kernels(none.lowered) == kernels(found.lowered) + len(found.pairs)


@pytest.mark.spec("SC-33", "SC-36")
@given(programs())
@settings(max_examples=60, deadline=None)
def test_the_peak_of_the_order_at_hand_never_rises(lowered: Lowered) -> None:
    found = fused(lowered)
    assert found.peak == peak(found.lowered) <= peak(lowered)
    assert kernels(found.lowered) <= kernels(lowered) - len(found.notes)


@pytest.mark.spec("SC-30", "SC-37")
@given(programs())
@settings(max_examples=30, deadline=None)
def test_only_loops_are_paired_and_each_refusal_names_both(lowered: Lowered) -> None:
    names = set(lowered.loops)
    for r in fused(lowered).refused:
        a, _, b = r.what.removesuffix(" stay two kernels").partition(" and ")
        assert {a[1:], b[1:]} <= names and a != b
        assert r.because


@pytest.mark.spec("SC-39")
@given(programs())
@settings(max_examples=30, deadline=None)
def test_the_same_program_is_fused_the_same_way(lowered: Lowered) -> None:
    assert fused(lowered) == fused(lowered)


@pytest.mark.spec("SC-39")
@given(programs())
@settings(max_examples=60, deadline=None)
def test_what_is_fused_is_not_fused_again(lowered: Lowered) -> None:
    once = fused(lowered)
    again = fused(once.lowered)
    assert (again.notes, again.peak) == ((), once.peak)


@pytest.mark.spec("SC-40", "SC-37", "G12")
@given(programs())
@settings(max_examples=60, deadline=None, phases=[Phase.generate])
def test_pairs_that_share_something_are_tried_once_and_no_others(lowered: Lowered) -> None:
    """Every pair of maker and reader that there is in the end was refused for a reason: none was forgotten."""
    storage = {v.name: v.storage for v in lowered.graph.values}

    tried: set[tuple[Task, Task]] = set()

    def watched(a: Task, b: Task, needed: Set[str], rules: Rules) -> Task | str:
        assert {storage[n] for n in (*a.given, *a.makes)} & {storage[n] for n in (*b.given, *b.makes)}
        assert (a, b) not in tried, "a pair is tried once, also where a fusion takes over the name of one of them"
        tried.add((a, b))
        return joined(a, b, needed, rules)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "joined", watched)
        found = fused(lowered)
    graph, why = found.lowered.graph, {r.what for r in found.refused}
    forgotten: list[tuple[str, str]] = []
    for section in graph.sections:
        for a, b in itertools.combinations([op for op in section.ops if op.target == LOOP], 2):
            made = {storage[o] for o in a.outputs if o is not None}
            if made & {storage[n] for n in b.reads} and f"%{a.name} and %{b.name} stay two kernels" not in why:
                forgotten.append((a.name, b.name))
    assert not forgotten


@pytest.mark.spec("SC-40")
def test_of_many_readers_only_neighbours_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0

    def counted(a: Task, b: Task, needed: Set[str], rules: Rules) -> str:
        nonlocal tried
        tried += 1
        return "as told"

    monkeypatch.setattr(fusion, "joined", counted)
    names = [f"s{k}" for k in range(200)]
    ops = [(ROWSUM, ("x",), (n,)) for n in names]
    fused(program({"x": (N, M)} | dict.fromkeys(names, (N,)), ops, " ".join(names)))
    assert tried == 199


def program(
    shapes: dict[str, tuple[int, ...]],
    ops: list[tuple[str, tuple[str, ...], tuple[str, ...]]],
    keep: str,
    dtype: str = "f32",
) -> Lowered:
    """Loops by text; what is not made is an input; what is given and written is changed."""
    made = {o for _, _, out in ops for o in out}
    values = []
    for n, size in shapes.items():
        stride = tuple(int(np.prod(size[k + 1 :])) for k in range(len(size)))
        values.append(Value(n, Layout(dtype, "cpu", size, stride), n))
    loops = {}
    listed = []
    for k, (text, given_, out) in enumerate(ops):
        loop = parse_loop(text)
        changes = tuple(n for j, n in enumerate(given_) if any(True for _ in loop.stores(j)))
        op = loop_op(given_, out, changes, Origin(), f"op{k}")
        listed.append(op)
        loops[op.name] = loop
    inputs = tuple(Ref(n) for n in shapes if n not in made)
    section = Section("inference", inputs, tuple(listed), tuple(map(Ref, keep.split())))
    return Lowered(Graph("g", tuple(values), (section,)), loops)


N, M = 64, 512
POINTWISE = f"""loop [] in(f32) out(f32)
  stage [{N}, {M}]
    v0: f32 = load 0 [((r0*{M})+r1)]
    v1: f32 = exp v0
    v2: f32 = store 1 [((r0*{M})+r1)] v1
"""
ROWSUM = f"""loop [{N}] in(f32) out(f32)
  stage [{M}]
    v0: f32 = load 0 [((i0*{M})+r0)]
    v1: f32 = reduce sum v0
  stage []
    v2: f32 = store 1 [i0] v1
"""
# Four times as many rows.
WIDE = POINTWISE.replace(f"stage [{N}, {M}]", f"stage [{4 * N}, {M}]")
WIDE_SUM = ROWSUM.replace(f"loop [{N}]", f"loop [{4 * N}]")
CENTRED = f"""loop [{N}] in(f32) out(f32)
  stage [{M}]
    v0: f32 = load 0 [((i0*{M})+r0)]
    v1: f32 = reduce sum v0
  stage [{M}]
    v2: f32 = load 0 [((i0*{M})+r0)]
    v3: f32 = sub v2 v1
    v4: f32 = store 1 [((i0*{M})+r0)] v3
"""
SHIFTED = f"""loop [{N}] in(f32) out(f32)
  stage [{M}]
    v0: f32 = load 0 [(((i0*{M})+r0)+1)]
    v1: f32 = reduce sum v0
  stage []
    v2: f32 = store 1 [i0] v1
"""
COLUMNSUM = f"""loop [{M}] in(f32) out(f32)
  stage [{N}]
    v0: f32 = load 0 [((r0*{M})+i0)]
    v1: f32 = reduce sum v0
  stage []
    v2: f32 = store 1 [i0] v1
"""
COLUMNPROD = COLUMNSUM.replace("reduce sum", "reduce prod")
TURNED = f"""loop [] in(f32) out(f32)
  stage [{M}, {N}]
    v0: f32 = load 0 [((r1*{M})+r0)]
    v1: f32 = store 1 [((r0*{N})+r1)] v0
"""
BOTH = f"""loop [] in(f32, f32) out(f32)
  stage [{N}, {M}]
    v0: f32 = load 0 [((r0*{M})+r1)]
    v1: f32 = load 1 [((r0*{M})+r1)]
    v2: f32 = add v0 v1
    v3: f32 = store 2 [((r0*{M})+r1)] v2
"""


@pytest.mark.spec("SC-31", "SC-25")
def test_a_value_whose_readers_are_all_inside_is_never_stored() -> None:
    found = fused(
        program({"x": (N, M), "a": (N, M), "s": (N,)}, [(POINTWISE, ("x",), ("a",)), (ROWSUM, ("a",), ("s",))], "s")
    )
    assert [op.outputs for op in found.lowered.graph.ops] == [("s",)]
    assert "a" not in found.lowered.graph.value


@pytest.mark.spec("SC-51")
def test_a_transposed_reader_joins_the_maker() -> None:
    ops = [(POINTWISE, ("x",), ("a",)), (TURNED, ("a",), ("b",))]
    found = fused(program({"x": (N, M), "a": (N, M), "b": (M, N)}, ops, "a b"))
    assert kernels(found.lowered) == 1


@pytest.mark.spec("SC-26", "SC-37")
def test_a_reader_of_other_elements_stays_apart_with_a_reason() -> None:
    ops = [(POINTWISE, ("x",), ("a",)), (SHIFTED, ("a",), ("s",))]
    lowered = program({"x": (N, M), "a": (N + 1, M), "s": (N,)}, ops, "a s")
    found = fused(lowered)
    assert kernels(found.lowered) == 2
    assert [str(r).split(":")[0] for r in found.refused] == ["%a and %s stay two kernels"]


@pytest.mark.spec("SC-27", "SC-42")
def test_readers_of_one_value_share_a_pass() -> None:
    ops = [(POINTWISE, ("x",), ("a",)), (ROWSUM, ("x",), ("s",))]
    found = fused(program({"x": (N, M), "a": (N, M), "s": (N,)}, ops, "a s"))
    assert kernels(found.lowered) == 1
    (loop,) = found.lowered.loops.values()
    assert sum(x.op == "load" for x in loop.body) == 1


@pytest.mark.spec("SC-37")
def test_a_product_of_columns_stays_apart_from_rows() -> None:
    ops = [(POINTWISE, ("x",), ("a",)), (COLUMNPROD, ("a",), ("s",))]
    found = fused(program({"x": (N, M), "a": (N, M), "s": (M,)}, ops, "a s"))
    assert kernels(found.lowered) == 2
    assert "no partial prod" in found.refused[0].because


@pytest.mark.spec("SC-25", "SC-31", "SC-52")
@pytest.mark.parametrize("maker", ["elements", "rows"])
def test_sums_of_columns_are_taken_in_the_pass_that_makes_what_they_sum(maker: str) -> None:
    first = POINTWISE if maker == "elements" else CENTRED
    ops = [(first, ("x",), ("a",)), (COLUMNSUM, ("a",), ("s",))]
    found = fused(program({"x": (N, M), "a": (N, M), "s": (M,)}, ops, "s"))
    assert [op.outputs for op in found.lowered.graph.ops] == [("s",)]
    (loop,) = found.lowered.loops.values()
    assert loop.outer == (N,)
    x = np.random.default_rng(0).normal(size=N * M).astype("f4")
    s = np.full(M, 7, "f4")
    interpret(loop, [x, s])
    grid = x.reshape(N, M)
    made = np.exp(grid) if maker == "elements" else grid - grid.sum(1, keepdims=True)
    np.testing.assert_allclose(s, made.sum(0), rtol=1e-4, atol=1e-2)


def circle() -> Lowered:
    """Two loops, and between them a product that needs the first and is needed by the second."""
    lowered = program({"x": (N, M), "a": (N, M), "m": (N, M), "s": (N,)}, [(POINTWISE, ("x",), ("a",))], "a")
    opaque = replace(
        lowered.graph.ops[0], name="m", target="aten.mm.default", args=(Ref("a"), Ref("a")), outputs=("m",)
    )
    last = loop_op(("a", "m"), ("s",), (), Origin(), "last")
    section = Section("inference", (Ref("x"),), (lowered.graph.ops[0], opaque, last), (Ref("s"),))
    values = tuple(
        replace(v, layout=lowered.graph.value["a"].layout) if v.name == "s" else v for v in lowered.graph.values
    )
    graph = replace(lowered.graph, values=values, sections=(section,))
    return Lowered(graph, {**lowered.loops, last.name: parse_loop(BOTH)})


@pytest.mark.spec("SC-32")
def test_nothing_closes_a_circle() -> None:
    found = fused(circle())
    assert kernels(found.lowered) == 2
    assert "must run between them" in found.refused[0].because


@pytest.mark.spec("SC-33", "SC-36", "SC-37")
@pytest.mark.parametrize("beside", [1, 4096])
def test_a_fusion_that_lifts_the_peak_is_refused(beside: int) -> None:
    """Two results of one input: in one pass both are alive while ``x`` is; apart, the first is gone before the second.

    ``beside``: rows of something that is there all the time; beside much else a small rise is one too."""
    ops = [
        (POINTWISE, ("x",), ("a",)),
        (ROWSUM, ("a",), ("s",)),
        (POINTWISE, ("x",), ("b",)),
        (COLUMNPROD, ("b",), ("t",)),
        (COLUMNPROD, ("a",), ("u",)),
    ]
    shapes: dict[str, tuple[int, ...]] = {
        "x": (N, M), "a": (N, M), "s": (N,), "b": (N, M), "t": (M,), "u": (M,), "z": (beside, M),
    }  # fmt: skip
    lowered = program(shapes, ops, "s t u z")
    graph = _moved(lowered.graph, (0, 1, 4, 2, 3))
    section = graph.sections[0]
    z = Op("z", "aten.empty.memory_format", (), (), ("z",))
    inputs = tuple(i for i in section.inputs if i != Ref("z"))
    apart = Lowered(replace(graph, sections=(replace(section, inputs=inputs, ops=(z, *section.ops)),)), lowered.loops)
    found = fused(apart)
    assert peak(found.lowered) <= peak(apart)
    assert any("the peak would rise" in r.because for r in found.refused)


@pytest.mark.spec("SC-25", "SC-26", "SC-18")
def test_a_second_name_of_what_is_made_is_no_way_around() -> None:
    """The reader of ``v``, a view of ``a``, wants other rows than the one that is made at its point."""
    rows = f"""loop [{N}] in(f32) out(f32)
  stage [{M}]
    v0: f32 = load 0 [((i0*{M})+r0)]
    v1: f32 = exp v0
    v2: f32 = store 1 [((i0*{M})+r0)] v1
"""
    other = f"""loop [{N}] in(f32) out(f32)
  stage [{M}]
    v0: f32 = load 0 [r0]
    v1: f32 = reduce sum v0
  stage []
    v2: f32 = store 1 [i0] v1
"""
    lowered = program({"x": (N, M), "a": (N, M), "v": (N, M), "s": (N,)}, [(rows, ("x",), ("a",))], "a s")
    view = Op("v", "aten.alias.default", (Ref("a"),), (), ("v",), view=True)
    last = loop_op(("v",), ("s",), (), Origin(), "last")
    section = Section("inference", (Ref("x"),), (lowered.graph.ops[0], view, last), (Ref("a"), Ref("s")))
    values = tuple(replace(v, storage="a") if v.name == "v" else v for v in lowered.graph.values)
    graph = replace(lowered.graph, values=values, sections=(section,))
    found = fused(Lowered(graph, {**lowered.loops, last.name: parse_loop(other)}))
    assert kernels(found.lowered) == 2
    assert "several names" in found.refused[0].because


def _moved(graph: Graph, order: tuple[int, ...]) -> Graph:
    (section,) = graph.sections
    return replace(graph, sections=(replace(section, ops=tuple(section.ops[k] for k in order)),))


@pytest.mark.spec("SC-32")
def test_no_circle_through_several_others() -> None:
    """Two library calls stand one behind the other between the maker and the reader, none of them beside both."""
    lowered = program(
        {"x": (N, M), "a": (N, M), "s": (N, M), "m": (N, M), "k": (N, M)}, [(POINTWISE, ("x",), ("a",))], "a"
    )
    first = lowered.graph.ops[0]
    m = Op("m", "aten.mm.default", (Ref("a"), Ref("a")), (), ("m",))
    k = Op("k", "aten.mm.default", (Ref("m"), Ref("m")), (), ("k",))
    last = loop_op(("a", "k"), ("s",), (), Origin(), "last")
    section = Section("inference", (Ref("x"),), (first, m, k, last), (Ref("s"),))
    graph = replace(lowered.graph, sections=(section,))
    found = fused(Lowered(graph, {**lowered.loops, last.name: parse_loop(BOTH)}))
    assert kernels(found.lowered) == 2
    assert "must run between them" in found.refused[0].because


@pytest.mark.spec("SC-31", "SC-24")
@pytest.mark.parametrize("keep", ["s a", "s b"])
def test_what_others_read_or_the_caller_gets_is_stored(keep: str) -> None:
    ops = [(POINTWISE, ("x",), ("a",)), (ROWSUM, ("a",), ("s",)), (COLUMNPROD, ("a",), ("b",))]
    found = fused(program({"x": (N, M), "a": (N, M), "s": (N,), "b": (M,)}, ops, keep))
    assert "a" in {o for op in found.lowered.graph.ops for o in op.outputs}


@pytest.mark.spec("SC-20", "SC-17")
def test_loops_that_nobody_needs_go_with_what_only_they_needed() -> None:
    ops = [(POINTWISE, ("x",), ("a",)), (ROWSUM, ("a",), ("s",)), (POINTWISE, ("x",), ("b",))]
    shapes: dict[str, tuple[int, ...]] = {"x": (N, M), "a": (N, M), "s": (N,), "b": (N, M)}
    assert [op.outputs for op in fused(program(shapes, ops, "b")).lowered.graph.ops] == [("b",)]
    checked = POINTWISE.replace("    v1: f32 = exp v0\n    v2: f32 = store 1 [((r0*512)+r1)] v1\n", "")
    checked += "    v1: bool = lt v0 v0\n    v2: bool = check v1\n    v3: f32 = store 1 [((r0*512)+r1)] v0\n"
    found = fused(program(shapes, [(checked, ("x",), ("a",)), (POINTWISE, ("x",), ("b",))], "b"))
    assert any(x.op == "check" for loop in found.lowered.loops.values() for x in loop.body)


@pytest.mark.spec("SC-35")
def test_a_kernel_has_so_many_buffers_and_no_more() -> None:
    """Two sums of thirteen and fourteen inputs each: together they would touch more than 24 buffers."""

    def total(n: int) -> str:
        lines = [f"load {k} [r0]" for k in range(n)]
        lines += ["add v0 v1", *(f"add v{k} v{n + k - 2}" for k in range(2, n)), f"store {n} [r0] v{2 * n - 2}"]
        body = "".join(f"    v{k}: f32 = {line}\n" for k, line in enumerate(lines))
        return f"loop [] in({', '.join(['f32'] * n)}) out(f32)\n  stage [64]\n{body}"

    first = tuple(f"p{k}" for k in range(13))
    second = ("a", *(f"q{k}" for k in range(13)))
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys((*first, *second, "b"), (64,))
    found = fused(program(shapes, [(total(13), first, ("a",)), (total(14), second, ("b",))], "b"))
    assert kernels(found.lowered) == 2
    assert "more than 24 buffers" in found.refused[0].because


@pytest.mark.spec("SC-33", "SC-42")
def test_bytes_at_the_peak_come_first() -> None:
    """``b`` is small and there at the peak; ``c`` is four times as large and gone by then."""
    large, small = (4 * N, M), (N, M)
    shapes: dict[str, tuple[int, ...]] = {
        "w": large, "c": large, "u": (4 * N,), "x": small, "b": small, "s": (N,), "y": (4096, M), "z": (4096, M),
    }  # fmt: skip
    ops = [
        (WIDE, ("w",), ("c",)),
        (WIDE_SUM, ("c",), ("u",)),
        (POINTWISE, ("x",), ("b",)),
        (ROWSUM, ("b",), ("s",)),
    ]
    lowered = program(shapes, ops, "u s z")
    at_peak = Op("z", "aten.mm.default", (Ref("y"), Ref("y")), (), ("z",))
    section = lowered.graph.sections[0]
    ops_ = (*section.ops[:3], at_peak, section.ops[3])
    inputs = tuple(Ref(n) for n in ("w", "x", "y"))
    graph = replace(lowered.graph, sections=(replace(section, ops=ops_, inputs=inputs),))
    found = fused(Lowered(graph, lowered.loops))
    assert found.notes[0].startswith("b + s")


@pytest.mark.spec("SC-42")
def test_more_bytes_come_first_and_of_equal_ones_the_nearer() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "x": (N, M), "y": (N, M), "a": (N, M), "b": (N, M), "s": (N,), "t": (N,), "v": (4 * N, M), "u": (4 * N,), "w": (4 * N, M),
    }  # fmt: skip
    ops = [
        (POINTWISE, ("x",), ("a",)),  # as many bytes as from b to t, and farther away
        (POINTWISE, ("y",), ("b",)),
        (ROWSUM, ("b",), ("t",)),
        (ROWSUM, ("a",), ("s",)),
        (WIDE, ("w",), ("v",)),
        (WIDE_SUM, ("v",), ("u",)),
    ]
    found = fused(program(shapes, ops, "a b v s t u"))
    assert [n.split(" -> ")[0] for n in found.notes] == ["v + u", "b + t", "a + s"]


@pytest.mark.spec("SC-41", "SC-42")
def test_pairs_that_the_target_ranks_higher_come_first_and_of_those_the_most_bytes() -> None:
    """By itself ``v`` and ``u`` are first, which have more bytes in common; a target may put kinds of pairs in front."""
    shapes: dict[str, tuple[int, ...]] = {
        "x": (N, M), "a": (N, M), "b": (N, M), "w": (4 * N, M), "v": (4 * N, M), "u": (4 * N,), "y": (N, M), "c": (N, M),
        "s": (N,),
    }  # fmt: skip
    ops = [
        (POINTWISE, ("y",), ("c",)),
        (ROWSUM, ("c",), ("s",)),
        (WIDE, ("w",), ("v",)),
        (WIDE_SUM, ("v",), ("u",)),
        (POINTWISE, ("x",), ("a",)),
        (POINTWISE, ("a",), ("b",)),
    ]
    lowered = program(shapes, ops, "a b c s u v")

    def first(rank: Callable[[Loop, Loop], int]) -> list[str]:
        found = fuse_loops(lowered, scheduled(lowered), rules=replace(CACHED, rank=rank))
        return [n.split(" -> ")[0] for n in found.notes]

    def sums(x: Loop, y: Loop) -> bool:
        return any(i.op == "reduce" for i in (*x.body, *y.body))

    assert first(unranked) == ["v + u", "c + s", "a + b"]
    assert first(lambda x, y: sums(x, y)) == ["a + b", "v + u", "c + s"]
    assert first(lambda x, y: -sums(x, y)) == ["v + u", "c + s", "a + b"]


@pytest.mark.spec("SC-27")
@pytest.mark.parametrize(("rows", "least", "kernels_left"), [(N, 10, 2), (N, 4, 1), (8, 10, 1)])
def test_large_siblings_with_next_to_nothing_in_common_stay_apart(rows: int, least: int, kernels_left: int) -> None:
    """Sums of rows of two tensors that share one number; small ones save a call."""
    body = ROWSUM.replace("in(f32)", "in(f32, f32)").replace(f"loop [{N}]", f"loop [{rows}]")
    body = body.replace(
        "v2: f32 = store 1 [i0] v1", "v2: f32 = load 1 [0]\n    v3: f32 = add v1 v2\n    v4: f32 = store 2 [i0] v3"
    )
    shapes: dict[str, tuple[int, ...]] = {"x": (rows, M), "y": (rows, M), "k": (1,), "s": (rows,), "t": (rows,)}
    lowered = program(shapes, [(body, ("x", "k"), ("s",)), (body, ("y", "k"), ("t",))], "s t")
    found = fuse_loops(lowered, scheduled(lowered), rules=replace(CACHED, least_shared=least))
    assert kernels(found.lowered) == kernels_left
    assert [r.because for r in found.refused] == (["they share 4 B"] if kernels_left == 2 else [])


@pytest.mark.spec("SC-34", "SC-27")
@pytest.mark.parametrize("between", [1, 200])
def test_siblings_far_apart_share_a_pass_where_that_costs_no_peak(between: int) -> None:
    """What counts is what lives longer, not how many others stand between."""
    others = [f"o{k}" for k in range(between)]
    ops = [(ROWSUM, ("x",), ("s",)), *((ROWSUM, (f"i{o}",), (o,)) for o in others), (POINTWISE, ("x",), ("a",))]
    shapes: dict[str, tuple[int, ...]] = {"x": (N, M), "s": (N,), "a": (N, M)}
    shapes |= dict.fromkeys(others, (N,)) | {f"i{o}": (N, M) for o in others}
    found = fused(program(shapes, ops, " ".join(("s", "a", *others))))
    assert any(op.outputs in (("s", "a"), ("a", "s")) for op in found.lowered.graph.ops)


def side_by_side() -> Lowered:
    """Two functions of one value, the first of which is gone before the second begins."""
    ops = [
        (POINTWISE, ("x",), ("a",)),
        (COLUMNPROD, ("a",), ("s",)),
        (POINTWISE, ("x",), ("b",)),
        (COLUMNPROD, ("b",), ("t",)),
    ]
    return program({"x": (N, M), "a": (N, M), "b": (N, M), "s": (M,), "t": (M,)}, ops, "s t")


@pytest.mark.spec("SC-34", "SC-33")
def test_siblings_side_by_side_stay_apart_where_that_lifts_the_peak() -> None:
    found = fused(side_by_side())
    assert kernels(found.lowered) == 4
    assert any("%a and %b" in r.what and "the peak would rise" in r.because for r in found.refused)


@pytest.mark.spec("SC-32", "SC-33", "PP-28")
@pytest.mark.parametrize("made", [circle, side_by_side])
def test_what_may_not_be_fused_is_not_fused_again(made: Callable[[], Lowered]) -> None:
    lowered = made()
    found = fused(lowered)
    assert found.refused and not found.pairs
    for r in found.refused:
        a, _, b = r.what.removesuffix(" stay two kernels").partition(" and ")
        assert fuse_again(lowered, scheduled(lowered), [(a[1:], b[1:])]) is None, r
    assert fuse_again(lowered, scheduled(lowered), [("nobody", "knows")]) is None


@pytest.mark.spec("SC-33")
def test_the_order_at_hand_counts() -> None:
    """In another order than the program's, what stands between two loops is other bytes."""
    ops = [
        (POINTWISE, ("x",), ("a",)),
        (ROWSUM, ("a",), ("s",)),
        (POINTWISE, ("y",), ("b",)),
        (ROWSUM, ("b",), ("t",)),
    ]
    lowered = program({"x": (N, M), "a": (N, M), "s": (N,), "y": (N, M), "b": (N, M), "t": (N,)}, ops, "a b s t")
    steps = scheduled(lowered)
    turned = replace(steps, steps=(*steps.steps[2:], *steps.steps[:2]))
    found = fuse_loops(lowered, turned)
    assert [op.outputs for op in found.lowered.graph.ops] == [("b", "t"), ("a", "s")]
