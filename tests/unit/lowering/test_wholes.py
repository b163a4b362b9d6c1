"""Parts of concatenations that calls write where they belong: which, where they lie, and what stays as it is."""

from __future__ import annotations

import pytest

from lowtide.ir.graph import Graph
from lowtide.ir.lowered import check_lowered
from lowtide.ir.text import parse, print_graph
from lowtide.ir.verify import verify
from lowtide.lowering.lower import lower
from lowtide.lowering.wholes import in_their_places
from lowtide.schedule.schedule import OpFacts

pytestmark = pytest.mark.torch

BEFORE = """
graph g version 1
  section inference
    input %x: f32[2,4,8]{32,8,1} @cpu
    input %w: f32[8,3]{3,1} @cpu
    input %z: f32[2,4,5]{20,5,1} @cpu
    %n: f32[2,4,5]{20,5,1} @cpu = aten.neg.default(%z)
    %t: f32[2,4,5]{20,5,1} @cpu = aten.tanh.default(%n)
    %r: f32[8,8]{8,1} @cpu in %x = view aten.view.default(%x, [8, 8])
    %m: f32[8,3]{3,1} @cpu = aten.mm.default(%r, %w)
    %p: f32[2,4,3]{12,3,1} @cpu in %m = view aten.view.default(%m, [2, 4, 3])
    %c: f32[2,4,13]{52,13,1} @cpu = aten.cat.default([%n, %p, %z], -1)
    return %c
    return %t
"""

AFTER = """
graph g version 1
  section inference
    input %x: f32[2,4,8]{32,8,1} @cpu
    input %w: f32[8,3]{3,1} @cpu
    input %z: f32[2,4,5]{20,5,1} @cpu
    %n: f32[2,4,5]{20,5,1} @cpu = aten.neg.default(%z)
    %c: f32[2,4,13]{52,13,1} @cpu = aten.empty.memory_format([2, 4, 13], dtype=dtype:f32, device=device:cpu)
    %n_there: f32[2,4,5]{52,13,1} @cpu in %c = view aten.as_strided.default(%c, [2, 4, 5], [52, 13, 1], 0)
    call aten.copy_.default(%n_there, %n) mutates %n_there as n_copy
    %t: f32[2,4,5]{20,5,1} @cpu = aten.tanh.default(%n_there)
    %r: f32[8,8]{8,1} @cpu in %x = view aten.view.default(%x, [8, 8])
    %m: f32[8,3]{13,1}+5 @cpu in %c = view aten.as_strided.default(%c, [8, 3], [13, 1], 5)
    call aten.mm.out(%r, %w, out=%m) mutates %m as m_call
    %z_there: f32[2,4,5]{52,13,1}+8 @cpu in %c = view aten.as_strided.default(%c, [2, 4, 5], [52, 13, 1], 8)
    call aten.copy_.default(%z_there, %z) mutates %z_there as z_copy
    return %c
    return %t
"""
OUT = {"m": OpFacts(out="aten.mm.out")}


def placed(text: str, facts: dict[str, OpFacts] | None = None) -> tuple[Graph, Graph]:
    graph = parse(text)
    verify(graph)
    return graph, in_their_places(graph, lower(graph), OUT if facts is None else facts)


@pytest.mark.spec("IR-51")
def test_a_product_writes_its_part_and_the_others_are_copied():
    """A part that loops alone read goes to its place at once and is read there; what the caller holds goes there late."""
    _, after = placed(BEFORE)
    assert print_graph(after).split() == AFTER.split()
    verify(after)
    lowered = lower(after)
    check_lowered(lowered)
    assert [op.target for op in lowered.graph.ops if op.name not in lowered.loops and not op.view] == [
        "aten.empty.memory_format",
        "aten.mm.out",
    ]
    assert in_their_places(after, lowered, OUT) is after, "nothing is left to do"


@pytest.mark.spec("IR-51")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    return %t\n", "    return %t\n    return %p\n"),
        ("    return %t\n", "    return %t\n    return %m\n"),
        ("    %c:", "    %b: f32[8,8]{8,1} @cpu = aten.mm.default(%m, %w2)\n    %c:"),
        ("    %c:", "    %b: f32[2,4,8]{32,8,1} @cpu = aten.bmm.default(%p, %w3)\n    %c:"),
        ("    %c:", "    call aten.copy_.default(%p, %p2) mutates %p as change\n    %c:"),
        ("    return %t\n", "    call aten.copy_.default(%c, %c2) mutates %c as change\n    return %t\n"),
        ("[%n, %p, %z]", "[%n, %p, %p, %z]"),
        ("%p: f32[2,4,3]{12,3,1} @cpu in %m = view aten.view.default(%m, [2, 4, 3])",
         "%p: f32[2,4,3]{3,6,1} @cpu in %m = view aten.as_strided.default(%m, [2, 4, 3], [3, 6, 1])"),
        ("%c: f32[2,4,13]{52,13,1} @cpu = aten", "%c: f32[2,4,13]{4,1,8} @cpu = aten"),
    ],
    ids=[
        "the part is returned", "the result is returned", "a call reads the result", "a call reads the part",
        "the part is changed", "the whole is changed", "a part stands twice", "a part counts otherwise",
        "the whole lies otherwise",
    ],
)  # fmt: skip
def test_where_somebody_would_notice_nothing_is_placed(old: str, new: str):
    inputs = {"w2": "3,8]{8,1", "w3": "2,3,8]{24,8,1", "p2": "2,4,3]{12,3,1", "c2": "2,4,13]{52,13,1"}
    used = "".join(f"    input %{n}: f32[{kind}}} @cpu\n" for n, kind in inputs.items() if f"%{n})" in new)
    text = BEFORE.replace(old, new).replace("    %n:", f"{used}    %n:")
    text = text if "%p, %p" not in text else text.replace("f32[2,4,13]{52,13,1}", "f32[2,4,16]{64,16,1}")
    assert text != BEFORE
    graph, after = placed(text)
    assert after is graph


@pytest.mark.spec("IR-51")
@pytest.mark.parametrize(
    "facts", [OpFacts(), OpFacts(out="aten.mm.out", restride=(0,))], ids=["no form for it", "other strides"]
)
def test_a_call_that_cannot_write_there_is_left_alone(facts: OpFacts):
    graph, after = placed(BEFORE, {"m": facts})
    assert after is graph


@pytest.mark.spec("IR-51")
def test_a_part_whose_rows_are_apart_in_the_whole_is_copied():
    """Of ``[2, 4, 3]`` along the middle, the rows of a product are no longer equally far from one another."""
    text = (
        BEFORE.replace("{52,13,1}", "{36,3,1}")
        .replace("[2,4,13]", "[2,12,3]")
        .replace("[%n, %p, %z], -1", "[%n, %p, %z], 1")
    )
    text = text.replace("[2,4,5]{20,5,1}", "[2,4,3]{12,3,1}")
    graph, after = placed(text)
    assert after is graph
    one = text.replace("[2,4,3]{12,3,1}", "[1,8,3]{24,3,1}").replace("[2, 4, 3]", "[1, 8, 3]")
    one = one.replace("[2,12,3]{36,3,1}", "[1,24,3]{72,3,1}").replace("[2,4,8]{32,8,1}", "[1,8,8]{64,8,1}")
    graph, after = placed(one)
    assert after is not graph, "of a batch of one they are"
