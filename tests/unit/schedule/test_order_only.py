"""Ordering dependencies: what changes a storage waits for who read it, and keeps nothing alive by that."""

from __future__ import annotations

import pytest

from lowtide.ir.text import parse
from lowtide.memory.lifetime import lifetimes
from lowtide.schedule.depend import dependencies
from lowtide.schedule.schedule import memory_graph, schedule

# ``read`` is read before ``write`` changes it; ``seen`` is a view of what is changed, used at the end.
TEXT = """graph g version 1
  section inference
    input %x: f32[8]{1} @cpu
    %a: f32[8]{1} @cpu = aten.relu.default(%x)
    %seen: f32[4]{1} @cpu in %a = view aten.slice.Tensor(%a, 0, 0, 4)
    %read: f32[8]{1} @cpu = aten.exp.default(%a)
    %used: f32[8]{1} @cpu = aten.neg.default(%read)
    call aten.add_.Scalar(%a, 1) mutates %a as write
    %c: f32[8]{1} @cpu = aten.cos.default(%used)
    %d: f32[4]{1} @cpu = aten.sin.default(%seen)
    return %c
    return %d
"""


@pytest.mark.spec("DP-03")
def test_waiting_for_a_reader_keeps_nothing_alive_and_a_view_does():
    graph = parse(TEXT)
    found = dependencies(graph, graph.sections[0])
    assert "read" in found.before["write"] and found.ordering["write"] == {"read"}
    memory = memory_graph(schedule(graph, {}))
    at = {n.name: k for k, n in enumerate(memory.nodes)}
    life = {x.name: x for x in lifetimes(memory)}
    assert "read" in memory.nodes[at["write"]].after
    assert life["read"].end == at["used"] + 1 < at["write"] + 1  # gone before who waits for its maker runs
    assert life["a"].end == at["d"] + 1  # by way of the view
    assert "a" not in memory.nodes[at["c"]].reads
