"""What one section saves for the next, where nothing there reads it."""

from __future__ import annotations

import pytest

from lowtide.ir.text import parse
from lowtide.memory.lifetime import lifetimes
from lowtide.schedule.schedule import memory_graph, schedule

GRAPH = """graph g version 1
  section forward
    input %x: f32[8]{1} @cpu
    %a: f32[8]{1} @cpu = aten.relu.default(%x)
    %b: f32[8]{1} @cpu = aten.exp.default(%a)
    %c: f32[8]{1} @cpu = aten.neg.default(%b)
    return %c
    return saved %a
  section backward
    input %a
    input %y: f32[8]{1} @cpu
    %d: f32[8]{1} @cpu = aten.cos.default(%y)
    return %d
"""


@pytest.mark.spec("G3", "SC-59")
def test_what_is_saved_lives_until_the_next_section_receives_it():
    """Somebody holds it meanwhile: its bytes count, and nothing is written over it."""
    line = memory_graph(schedule(parse(GRAPH), {}))
    received = [n.name for n in line.nodes].index("call:backward")
    (saved,) = (x for x in lifetimes(line) if x.name == "a")
    assert (saved.first, saved.end) == (0, received + 1)
