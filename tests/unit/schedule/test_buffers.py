"""A scheduled buffer tells who makes it, uses it and changes it, under every name that stands on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from loop_programs import programs

from lowtide.ir.graph import refs_in
from lowtide.ir.lowered import Lowered
from lowtide.ir.text import parse
from lowtide.memory.lifetime import lifetimes
from lowtide.schedule.buffers import CALLER, CONSTANT, OURS, OUTPUT, buffers, print_buffers
from lowtide.schedule.fusion import fuse_loops
from lowtide.schedule.schedule import memory_graph, schedule
from lowtide.schedule.text import print_schedule

# ``x`` is changed three times, ``y`` through a view; ``k`` is a constant; ``s`` is saved for the second section.
TEXT = """graph g version 1
  section forward
    input %z: f32[8]{1} @cpu
    input %y: f32[8]{1} @cpu
    const %k: f32[8]{1} @cpu
    const %l: f32[8]{1} @cpu
    %x: f32[8]{1} @cpu = aten.relu.default(%z)
    %x1: f32[8]{1} @cpu in %x = aten.add_.Scalar(%x, 1) mutates %x
    %x2: f32[8]{1} @cpu in %x = aten.add_.Scalar(%x1, 1) mutates %x1
    %v: f32[4]{1} @cpu in %x = view aten.slice.Tensor(%x2, 0, 0, 4)
    %x3: f32[8]{1} @cpu in %x = aten.add_.Tensor(%x2, %l) mutates %x2
    %w: f32[4]{1} @cpu in %y = view aten.slice.Tensor(%y, 0, 0, 4)
    call aten.add_.Tensor(%w, %v) mutates %w as changes
    call aten.add_.Tensor(%k, %x3) mutates %k as counts
    %s: f32[8]{1} @cpu = aten.exp.default(%x3)
    %r: f32[8]{1} @cpu = aten.neg.default(%s)
    return %r
    return saved %s
  section backward
    input %z
    input %s
    %t: f32[8]{1} @cpu = aten.mul.Tensor(%s, %z)
    return %t
"""


@pytest.mark.spec("SC-15")
def test_every_version_leads_to_the_newest_and_to_the_bytes() -> None:
    found = buffers(schedule(parse(TEXT), {}))
    for name in ("x", "x1", "x2", "v", "x3"):
        assert found[name] is found["x"]
    assert (found["x2"].name, found["x2"].newest) == ("x", "x3")
    assert (found["w"].name, found["w"].newest) == ("y", "y"), "a change that gives no name back makes no version"


@pytest.mark.spec("SC-01", "SC-23")
def test_a_buffer_knows_its_maker_users_names_changes_and_device() -> None:
    found = buffers(schedule(parse(TEXT), {}))
    x = found["x"]
    assert (x.maker, x.users, x.changed_by) == ("x", ("x1", "x2", "x3", "changes", "counts", "s"), ("x1", "x2", "x3"))
    assert (x.names, x.device, x.nbytes, x.owner) == (("x", "x1", "x2", "v", "x3"), "cpu", 32, OURS)
    assert {n: b.owner for n, b in found.items() if b.maker is None} == {
        "z": CALLER, "y": CALLER, "w": CALLER, "k": CONSTANT, "l": CONSTANT,
    }  # fmt: skip
    assert [n for n, b in found.items() if b.donated] == ["s"]


@pytest.mark.spec("SC-06", "SC-17")
def test_what_can_be_seen_afterwards_is_used_by_the_output() -> None:
    """What is returned, and inputs and constants that change; neither what is only read, nor what is only saved."""
    found = buffers(schedule(parse(TEXT), {}))
    assert {b.name for b in found.values() if OUTPUT in b.users} == {"r", "t", "y", "k"}
    assert all(b.users[-1] == OUTPUT for b in found.values() if OUTPUT in b.users)


@pytest.mark.spec("SC-17")
def test_positions_of_changed_inputs_are_told() -> None:
    lines = print_schedule(schedule(parse(TEXT), {})).splitlines()
    assert [line for line in lines if line.startswith("section")] == [
        "section forward  changes inputs 1",
        "section backward",
    ]


@pytest.mark.spec("SC-01")
def test_a_buffer_is_what_its_name_is() -> None:
    """Also where an operation is called otherwise, so that who uses it is."""
    graph = parse(TEXT)
    renamed = parse(TEXT.replace(" as changes", " as other"))
    before, after = buffers(schedule(graph, {})), buffers(schedule(renamed, {}))
    assert before["y"].users == ("changes", OUTPUT) and after["y"].users == ("other", OUTPUT)
    assert {before["y"]: 1}[after["y"]] == 1
    assert before["y"] != before["k"]


@pytest.mark.spec("SC-01", "SC-72")
def test_the_dump_of_buffers() -> None:
    text = print_buffers(schedule(parse(TEXT), {}))
    assert text == print_buffers(schedule(parse(TEXT), {}))
    assert (
        """%x: 32 B (32 bytes) on cpu
  made by x; changed by x1, x2, x3; used by x1, x2, x3, changes, counts, s
  also called %x1, %x2, %v, %x3
  newest version %x3
"""
        in text
    )
    assert "%l: 32 B (32 bytes) on cpu\n  a constant; used by x3\n" in text
    assert "%s: 32 B (32 bytes) on cpu\n  made by s; used by r, t\n  donated to a later section\n" in text
    assert "%t: 32 B (32 bytes) on cpu\n  made by t; used by OUTPUT\n" in text


@pytest.mark.spec("SC-01", "SC-13")
@given(programs())
@settings(max_examples=40, deadline=None)
def test_users_are_those_who_touch_it_in_order(lowered: Lowered) -> None:
    """Of kernels that fusion made, too."""
    found = fuse_loops(lowered, schedule(lowered.graph, {}, loops=lowered.loops)).lowered
    made = replace(schedule(found.graph, {}, loops=found.loops), members=found.members)
    value = made.graph.value
    for name, b in buffers(made).items():
        assert value[name].storage == b.name == b.names[0]
        touching = [
            s.op
            for s in made.steps
            if b.name in {value[n].storage for n in (*s.op.reads, *s.op.mutates, *s.op.outputs) if n}
        ]
        assert [b.maker] * (b.maker is not None) + [u for u in b.users if u != OUTPUT] == [op.name for op in touching]
        assert set(b.changed_by) == {op.name for op in touching if b.name in {value[m].storage for m in op.mutates}}
        kept = {
            value[n].storage
            for s in made.graph.sections
            for k, a in enumerate(s.returns)
            if k not in s.saved
            for n in refs_in(a)
        }
        assert (OUTPUT in b.users) == (b.name in kept or bool(b.owner != OURS and b.changed_by))


@pytest.mark.spec("G3", "SC-59")
def test_what_is_saved_lives_until_the_next_section_receives_it() -> None:
    """Also where nothing there reads it: somebody holds it meanwhile, its bytes count, and nothing is written over it."""
    line = memory_graph(schedule(parse(TEXT.replace("(%s, %z)", "(%z, %z)")), {}))
    names = [n.name for n in line.nodes]
    (saved,) = (x for x in lifetimes(line) if x.name == "s")
    assert (saved.first, saved.end) == (names.index("s"), names.index("call:backward") + 1)
