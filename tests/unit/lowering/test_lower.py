"""What lowering says of whole operations: every rule has a case, refusals have reasons, changed inputs keep their names."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from cases import SECTIONS
from evaluate import by_cpp, by_oracle, lower_call, lowered_results
from test_special import CASES as SPECIAL

from lowtide.core.errors import BugError
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
from lowtide.ir.lowered import LOOP, print_lowered
from lowtide.ir.text import parse
from lowtide.lowering.lower import lower
from lowtide.lowering.rules import RECORDS
from lowtide.lowering.site import Site
from lowtide.lowering.sorting import COUNTED
from lowtide.lowering.table import Record, Rule

pytestmark = pytest.mark.torch

# What changes its argument, and what refuses what the table's calls look like; each has a test below.
ELSEWHERE = {
    "aten.copy_.default", "aten.sort.default", "aten.topk.default", "aten.mode.default", "aten.median.dim",
    "aten.nanmedian.dim", "aten.kthvalue.default",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_every_rule_has_a_case():
    shown = {call[0] for calls in SECTIONS.values() for call in calls()}
    shown |= {f"aten.{name.partition(' ')[0]}" for name in SPECIAL}
    assert sorted(set(RECORDS) - shown - ELSEWHERE) == []
    assert sorted((shown | ELSEWHERE) - set(RECORDS)) == []


def _refusal(target: str, *args: object, **kwargs: object) -> str:
    lowered, _, _ = lower_call(target, args, kwargs)
    assert not lowered.loops
    (reason,) = lowered.reasons
    assert target in reason.what
    return reason.because


@pytest.mark.spec("IR-37")
def test_sorts_that_are_refused_say_why():
    x = torch.randn(4, COUNTED + 1)
    assert f"sorts {COUNTED + 1} elements" in _refusal("aten.sort.stable", x, stable=True)
    assert "ATen's own" in _refusal("aten.sort.default", x)
    assert "ATen's own" in _refusal("aten.topk.default", x, 3)
    assert "ATen's own" in _refusal("aten.mode.default", x)
    lowered, _, _ = lower_call("aten.sort.stable", (x[:, :COUNTED],), {"stable": True})
    assert lowered.loops and not lowered.reasons


def _one(op: Op, *values: Value) -> Graph:
    given = tuple(Ref(v.name) for v in values if v.name not in op.outputs)
    made = tuple(Ref(o) for o in op.outputs if o is not None)
    return Graph("one", values, (Section("inference", given, (op,), made),))


@pytest.mark.spec("IR-37")
def test_a_sort_whose_positions_nobody_uses_is_lowered():
    y = Layout("f32", "cpu", (4, 5), (5, 1))
    op = Op("s", "aten.sort.default", (Ref("x"),), (), ("y", None), "tuple")
    lowered = lower(_one(op, Value("x", y, "x"), Value("y", y, "y")))
    assert lowered.loops and not lowered.reasons


@pytest.mark.spec("IR-46", "G12")
@pytest.mark.parametrize(
    ("target", "args", "kwargs", "because"),
    [
        ("mul.Tensor", (Ref("x"), Ref("x"), 2), (), "too many positional arguments"),
        ("mul.Tensor", (Ref("x"),), (), "missing a required argument"),
        ("mul.Tensor", (Ref("x"), Ref("x")), (("by", 2),), "unexpected keyword argument 'by'"),
        ("_softmax.default", (Ref("x"), 1), (("dim", 1),), "multiple values for argument 'dim'"),
        ("_softmax.default", (Ref("x"), None, False), (), "takes None as dim"),
        ("clamp.default", (3, 1.0, 2.0), (), "takes 3 as x"),
        ("permute_copy.default", (Ref("x"), 1), (), "takes 1 as dims"),
        ("gelu.default", (Ref("x"),), (("approximate", True),), "takes True as approximate"),
    ],
    ids=str,
)
def test_a_call_that_a_rule_does_not_take_stays_a_call(target: str, args: Any, kwargs: Any, because: str):
    y = Layout("f32", "cpu", (4, 5), (5, 1))
    op = Op("y", f"aten.{target}", args, kwargs, ("y",))
    lowered = lower(_one(op, Value("x", y, "x"), Value("y", y, "y")))
    (reason,) = lowered.reasons
    assert lowered.graph.ops == (op,) and target in reason.what and because in reason.because


@pytest.mark.spec("IR-18")
def test_a_changed_input_that_is_returned_is_another_name_of_it():
    y = Layout("f32", "cpu", (4, 5), (5, 1))
    op = Op("z", "aten.copy_.default", (Ref("x"), Ref("s")), (), ("z",), mutates=("x",))
    lowered = lower(_one(op, Value("x", y, "x"), Value("s", y, "s"), Value("z", y, "x")))
    assert not lowered.reasons
    loop, name = lowered.graph.ops
    assert (loop.target, loop.mutates, loop.outputs) == (LOOP, ("x",), ())
    assert (name.view, name.outputs, name.reads) == (True, ("z",), ("x",))


def _writes_what_it_reads(site: Site, self: Ref) -> None:
    n = site.loop()
    at = n.stage(*site.size(self))
    n.store(self, at, n.load(self, at))
    n.store(site.output(), at, n.load(self, at))
    n.done()


@pytest.mark.spec("IR-06")
@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (lambda site, self: site.output(), "gives a Ref; what a rule makes are loops"),
        (_writes_what_it_reads, "writes %x, which the operation does not change"),
    ],
    ids=["a value", "its operand"],
)
def test_a_rule_makes_loops_of_what_the_operation_makes_and_nothing_else(
    rule: Rule, says: str, monkeypatch: pytest.MonkeyPatch
):
    y = Layout("f32", "cpu", (4, 5), (5, 1))
    target = "aten.neg.default"
    graph = _one(Op("y", target, (Ref("x"),), (), ("y",)), Value("x", y, "x"), Value("y", y, "y"))
    assert lower(graph).loops
    monkeypatch.setitem(RECORDS, target, Record(target, "pointwise", rule, rule))
    with pytest.raises(BugError, match=says):
        lower(graph)


WITHIN = """graph g version 1
  section inference
    input %x: f32[4]{1} @cpu
    input %z: f32[4]{1} @cpu
    %c: f32[8]{1} @cpu = aten.cat.default([%x, %z])
    call aten.copy_.default(%CHANGED, %new) mutates %CHANGED as change
    %d: f32[12]{1} @cpu = aten.cat.default([%c, %z])
    return %d
"""


@pytest.mark.spec("IR-51", "G6")
@pytest.mark.parametrize(("changed", "kept"), [("x", True), ("y", False)])
def test_a_concatenation_within_another_is_made_where_its_parts_change_before_the_other(changed: str, kept: bool):
    """Else the other would read what came later."""
    inputs = "    input %y: f32[4]{1} @cpu\n    input %new: f32[4]{1} @cpu\n    %c:"
    lowered = lower(parse(WITHIN.replace("CHANGED", changed).replace("    %c:", inputs)))
    assert ("c" in lowered.loops) is kept
    (op,) = (op for op in lowered.graph.ops if op.name == "d")
    assert {*op.reads} == ({"c", "z"} if kept else {"x", "z"})


@pytest.mark.spec("IR-03")
def test_printing_shows_the_bodies_and_changes_nothing():
    lowered, _, _ = lower_call("aten._softmax.default", (torch.zeros(3, 5), 1, False))
    before = copy.deepcopy(lowered)
    text = print_lowered(lowered)
    assert print_lowered(lowered) == text and lowered == before
    assert lower_call("aten._softmax.default", (torch.zeros(3, 5), 1, False))[0] == lowered
    assert "reduce max" in text and "lowtide.loop.default" in text
    assert all(str(loop) in text for loop in lowered.loops.values())


@pytest.mark.spec("IR-13")
@pytest.mark.parametrize("size", [(), (3,), (2, 3, 4), (2, 0, 4), (0,), (0, 0, 3), (5, 1, 2)], ids=str)
def test_tensors_of_our_own_have_row_major_strides(size: tuple[int, ...]):
    op = Op("y", "aten.neg.default", (Ref("x"),), (), ("y",))
    site = Site(_one(op, Value("x", Layout("f32", "cpu", (), ()), "x")), op, {})
    assert site.value(site.temporary("f32", size)).layout.stride == torch.empty(size).stride()


@pytest.mark.spec("IR-30")
@pytest.mark.parametrize("width", [8, 128], ids=["few elements", "many"])
def test_what_rows_are_added_to_is_filled_row_by_row(width: int):
    """By a loop of its own, which threads share by rows, where they share the columns of what is added: of many elements."""
    torch.manual_seed(0)
    ids = torch.arange(600) % 7 * 43
    lowered, tensors, eager = lower_call(
        "aten.embedding_dense_backward.default", (torch.randn(600, width), ids, 300, -1, False)
    )
    outer = [x.outer for x in lowered.loops.values()]
    assert outer == ([(8,)] if width == 8 else [(), (128,)])
    for run in (by_cpp, by_oracle):
        torch.testing.assert_close(lowered_results(lowered, tensors, run)["y0"], eager)


@pytest.mark.spec("SC-05", "SC-09")
def test_a_concatenation_in_a_group_takes_in_no_other_from_outside() -> None:
    text = """
graph cats version 1
  section inference
    input %x: f32[4,8]{8,1} @cpu
    input %y: f32[4,8]{8,1} @cpu
    %a: f32[8,8]{8,1} @cpu = aten.cat.default([%x, %y])
    %b: f32[12,8]{8,1} @cpu = aten.cat.default([%a, %x])GROUP
    %c: f32[12,8]{8,1} @cpu = aten.sin.default(%b)GROUP
    return %c
"""
    assert [op.name for op in lower(parse(text.replace("GROUP", ""))).graph.ops] == ["b", "c"]
    assert [op.name for op in lower(parse(text.replace("GROUP", " group g"))).graph.ops] == ["a", "b", "c"]
