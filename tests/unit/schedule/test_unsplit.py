"""Sums of few long columns in one loop again, where a pass takes them along: which, and that they stay what they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lowtide.core import native
from lowtide.core.errors import VerifyError
from lowtide.core.observe import Observers
from lowtide.core.options import Options
from lowtide.ir.graph import Ref, refs_in
from lowtide.ir.interpret import interpret
from lowtide.ir.loops import Instr, Loop, Stage
from lowtide.ir.lowered import LOOP, Lowered, Split, check_lowered
from lowtide.ir.symbolic import symbol
from lowtide.ir.text import parse
from lowtide.ir.verify import verify
from lowtide.lowering.lower import lower
from lowtide.pipeline import Compiled, compile_graph
from lowtide.schedule.inline import inline
from lowtide.schedule.rules import CACHED
from lowtide.schedule.schedule import schedule
from lowtide.schedule.unsplit import Undone, fuse_wholes, in_one, undo_splits

ROWS, COLUMNS = 4099, 64  # no number of parts divides the rows
HEAD = """
graph g version 1
  section inference
    input %x: f32[ROWS,64]{64,1} @cpu
    input %w: f32[64,64]{64,1} @cpu
    %p: f32[ROWS,64]{64,1} @cpu = aten._softmax.default(%x, -1, False)
"""
# What is summed: what the rows make, what they read, and what is computed of both where it is read.
MADE = "    %s: f32[64]{1} @cpu = aten.sum.dim_IntList(%p, [0])\n"
READ = "    %s: f32[64]{1} @cpu = aten.sum.dim_IntList(%x, [0])\n"
BOTH = (
    "    %q: f32[ROWS,64]{64,1} @cpu = aten.mul.Tensor(%p, %x)\n"
    "    %s: f32[64]{1} @cpu = aten.sum.dim_IntList(%q, [0])\n"
)
GREATEST = "    %s: f32[64]{1} @cpu = aten.amax.default(%p, [0])\n"
MEAN = "    %s: f32[64]{1} @cpu = aten.mean.dim(%p, [0])\n"
# The product needs the rows, and what is summed needs the product: no pass of rows can take the sums along.
BEHIND = (
    "    %m: f32[ROWS,64]{64,1} @cpu = aten.mm.default(%p, %w)\n"
    "    %q: f32[ROWS,64]{64,1} @cpu = aten.mul.Tensor(%p, %m)\n"
    "    %s: f32[64]{1} @cpu = aten.sum.dim_IntList(%q, [0])\n"
)


def program(body: str, rows: int = ROWS) -> Lowered:
    graph = parse((HEAD + body + "    return %p\n    return %s\n").replace("ROWS", str(rows)))
    verify(graph)
    found = lower(graph)
    check_lowered(found)
    return found


def undone(lowered: Lowered) -> Undone:
    found = undo_splits(lowered)
    verify(found.lowered.graph)
    check_lowered(found.lowered)
    return found


def computed(lowered: Lowered) -> Mapping[str, Any]:
    """What loops and products make of the same numbers each time, by value."""
    g = np.random.default_rng(0)
    held: dict[str, Any] = {"x": g.normal(size=ROWS * COLUMNS).astype("f4")}
    held["w"] = g.normal(size=COLUMNS * COLUMNS).astype("f4")
    for op in lowered.graph.ops:
        for o in op.outputs:
            assert o is not None
            held[o] = np.full(lowered.graph.nbytes[o] // 4, 7, "f4")
        if op.target == LOOP:
            interpret(
                lowered.loops[op.name], [held[n] for n in (*(n for a in op.args for n in refs_in(a)), *op.outputs)]
            )
        else:
            a, b = (held[n].reshape(-1, COLUMNS) for n in op.reads)
            held[str(op.outputs[0])] = (a @ b).reshape(-1)
    return held


@pytest.mark.spec("IR-33", "SC-52")
@pytest.mark.parametrize("body", [MADE, READ, BOTH, GREATEST, MEAN])
def test_a_split_keeps_what_it_would_be_in_one(body: str) -> None:
    """Also after what it reduces has come to be computed in it."""
    lowered = program(body)
    for x in (lowered, inline(lowered)):
        check_lowered(x)
        assert {n: s.parts for n, s in x.splits.items()} == {"s": "s_part0"}
        one = in_one(x, {"s"})
        verify(one.graph)
        check_lowered(one)
        assert len(one.loops) == len(x.loops) - 1 and not one.splits
        want, got = computed(x), computed(one)
        np.testing.assert_allclose(got["s"], want["s"], rtol=1e-5, atol=1e-5)
        assert np.array_equal(got["p"], want["p"])
    assert in_one(lowered, {"p"}) is lowered


@pytest.mark.spec("IR-33", "SC-52")
@pytest.mark.parametrize("body", [MADE, READ, BOTH, GREATEST])
def test_a_pass_along_the_rows_takes_them_along(body: str) -> None:
    small = inline(program(body))
    found = undone(small)
    (whole,) = found.wholes
    assert (whole.name, whole.parts, whole.beside) == ("s", "s_part0", "p") and whole.seconds > 0
    assert found.text().startswith("%s is reduced in one loop again, along with %p: saves ")
    steps = schedule(small.graph, {}, loops=small.loops)
    assert [s.op.name for s in found.steps(steps, inplace=True).steps] == ["p", "s"]
    assert found.alone(found.lowered) == {"s"}, "nothing was fused there"
    all_ = fuse_wholes(small, steps)
    assert all_.undone == found
    fused = all_.fused.lowered
    assert len(fused.loops) == 1 and not found.alone(fused)
    (loop,) = fused.loops.values()
    assert {x.op for x in loop.body} & {"fold", "fold_max"}
    np.testing.assert_allclose(computed(fused)["s"], computed(small)["s"], rtol=1e-5, atol=1e-5)


@pytest.mark.spec("SC-52")
def test_what_gains_nothing_stays_in_two() -> None:
    """Elements one by one take the parts along as well; means cannot be taken along; and who was kept is kept."""
    elements = (
        HEAD.replace("_softmax.default(%x, -1, False)", "exp.default(%x)") + MADE + "    return %p\n    return %s\n"
    )
    lowered = lower(parse(elements.replace("ROWS", "4096")))
    for x in (lowered, inline(program(MEAN))):
        assert x.splits
        found = undone(x)
        assert found.lowered is x and not found.wholes and not found.text()
    assert not undo_splits(program(MADE), frozenset({"s"})).wholes
    assert not undo_splits(program(MADE), rules=replace(CACHED, whole_columns=65)).wholes


@pytest.mark.spec("SC-52")
def test_a_split_that_cannot_follow_what_it_reads_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = program(BOTH)
    whole = lowered.splits["s"].whole
    plain = inline.__globals__["inlined"]
    monkeypatch.setitem(inline.__globals__, "inlined", lambda t, *rest: None if t == whole else plain(t, *rest))
    small = inline(lowered)
    assert "q" not in small.loops and not small.splits
    check_lowered(small)


@pytest.mark.spec("SC-52")
def test_a_program_is_fused_a_few_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each time one more split turns out to be undone in vain."""
    sums = [f"    %s{k}: f32[64]{{1}} @cpu = aten.sum.dim_IntList(%p, [0])\n" for k in range(6)]
    found = program(MADE + "".join(sums) + "".join(f"    return %s{k}\n" for k in range(6)))
    assert len(undo_splits(found).wholes) == 7
    rounds: list[int] = []

    def alone(self: Undone, fused: Lowered) -> frozenset[str]:
        rounds.append(len(self.wholes))
        return frozenset(w.name for w in self.wholes[:1])

    monkeypatch.setattr(Undone, "alone", alone)
    got = fuse_wholes(found, schedule(found.graph, {}, loops=found.loops))
    assert rounds == [7, 6, 5, 0] and not got.undone.wholes


@pytest.mark.spec("SC-52")
@pytest.mark.parametrize(
    "wrong",
    [
        {"s": ("gone", None)},
        {"s": ("p", None)},
        {"gone": ("s_part0", None)},
        {"s": ("s_part0", {"given": ("w",)})},
        {"s": ("s_part0", {"makes": ("p",)})},
    ],
    ids=str,
)
def test_a_split_that_is_none_is_refused(wrong: dict[str, tuple[str, dict[str, tuple[str, ...]] | None]]) -> None:
    lowered = program(MADE)
    whole = lowered.splits["s"].whole
    splits = {n: Split(parts, replace(whole, **(other or {}))) for n, (parts, other) in wrong.items()}
    with pytest.raises(VerifyError, match=r"^split: "):
        check_lowered(replace(lowered, splits=splits))


def test_what_is_left_of_parts_is_returned_to_nobody() -> None:
    lowered = program(MADE)
    (section,) = lowered.graph.sections
    returns = (*section.returns, Ref("s_part0"))
    wrong = replace(lowered, graph=replace(lowered.graph, sections=(replace(section, returns=returns),)))
    with pytest.raises(VerifyError, match=r"^split: others than s read"):
        check_lowered(wrong)


def filling(given: int) -> Loop:
    """Writes the first of so many inputs, and its output."""
    stores = (Instr("store", "f32", (0,), symbol("r0"), k) for k in (0, given))
    return Loop((), (Stage((8,), (Instr("const", "f32", attr="1.0"), *stores)),), ("f32",) * given, ("f32",))


@pytest.mark.parametrize("name", ["s_part0", "s", ""], ids=["the first", "the last", "the one"])
def test_splits_change_nothing_that_they_are_given(name: str) -> None:
    lowered = program(MADE)
    split = lowered.splits["s"]
    (section,) = lowered.graph.sections
    ops = tuple(replace(op, mutates=op.reads[:1]) if op.name == name else op for op in section.ops)
    wrong = replace(
        lowered,
        graph=replace(lowered.graph, sections=(replace(section, ops=ops),)),
        loops={n: filling(len(x.inputs)) if n == name else x for n, x in lowered.loops.items()},
        splits={"s": split if name else replace(split, whole=replace(split.whole, loop=filling(1)))},
    )
    with pytest.raises(VerifyError, match=r"^split: s changes what"):
        check_lowered(wrong)


def decided(body: str, rows: int = ROWS, before: Compiled | None = None, **options: Any) -> Compiled:
    graph = parse((HEAD + body + "    return %p\n    return %s\n").replace("ROWS", str(rows)))
    return compile_graph(graph, lambda _: {}, Options(verify=True, **options), Observers(), before)


def reducing(c: Compiled) -> list[str]:
    """Kernels that have a hand in the sums."""
    names = ("s", "s_part0")
    return [
        s.op.name for s in c.schedule.steps if s.op.name in names or {*names} & {*c.schedule.members.get(s.op.name, ())}
    ]


compiler = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")


@compiler
@pytest.mark.spec("SC-52", "PP-28")
def test_the_pipeline_undoes_what_fuses_and_nothing_else() -> None:
    first = decided(MADE)
    assert first.joined.whole == {"s"} and len(reducing(first)) == 1
    again = decided(MADE, rows=4500, before=first)
    assert again.followed and again.joined.whole == {"s"} and len(reducing(again)) == 1
    behind = decided(BEHIND)
    assert not behind.joined.whole and len(reducing(behind)) == 2
    assert not decided(MADE, fuse=False).joined.whole


@compiler
@pytest.mark.spec("SC-52", "G1")
def test_switches_of_order_and_reuse_leave_the_decision_alone_where_no_peak_decides() -> None:
    """Which loops are one decides the bits; where they run and lie does not."""
    kept = {
        (reorder, inplace, slabs): decided(MADE, reorder=reorder, inplace=inplace, slabs=slabs).schedule
        for reorder in (True, False)
        for inplace in (True, False)
        for slabs in ("auto", "none")
    }
    loops = [{s.op.name: s.loop for s in made.steps} for made in kept.values()]
    assert all(x == loops[0] for x in loops)
