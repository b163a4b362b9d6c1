"""What an order or a fusion decision wants to know of each buffer and node of a MemoryGraph, in one call.

Comes in: a MemoryGraph. Goes out: PlanningInfo, frozen. Promised: predecessors and successors mirror each other, no
node is its own, and the ordering successors of a buffer contain its memory successors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowtide.memory.graph import MemoryGraph
from lowtide.memory.lifetime import timeline


@dataclass(frozen=True, slots=True)
class BufferInfo:
    """One name. Bytes stand with the name that owns the storage; its aliases, such as mutated versions, have none.

    memory_successors: nodes (indices) that use the bytes after they are there, through any name for the owner of a
    storage. ordering_successors: these, and nodes that only have to wait for a writer.
    """

    name: str
    nbytes_on_create: int
    nbytes_on_free: int
    memory_successors: tuple[int, ...]
    ordering_successors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node: what it creates in bytes, which counted storages it reads, and its neighbours (indices)."""

    index: int
    nbytes_created: int
    reads: tuple[str, ...]
    predecessors: tuple[int, ...]
    successors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlanningInfo:
    """buffers by name; nodes in program order; names of freeable inputs that are used; peak of program order."""

    buffers: Mapping[str, BufferInfo]
    nodes: tuple[NodeInfo, ...]
    freeable_inputs: tuple[str, ...]
    baseline_peak: int


def prepare(graph: MemoryGraph) -> PlanningInfo:
    """All planning information of ``graph``. Independent of whether anything is reordered later."""
    preds = graph.predecessors
    succs: list[list[int]] = [[] for _ in preds]
    for i, before in enumerate(preds):
        for p in before:
            succs[p].append(i)
    memory, ordering = _successors(graph, succs)
    buffers: dict[str, BufferInfo] = {}
    counted: set[str] = set()
    for b in graph.buffers:
        owns = b.alias_of is None and (b.freeable or not b.input)
        if owns:
            counted.add(b.name)
        nbytes = b.nbytes if owns else 0
        used = tuple(sorted(memory[b.name]))
        buffers[b.name] = BufferInfo(b.name, nbytes, nbytes, used, tuple(sorted(ordering[b.name] | memory[b.name])))
    nodes: list[NodeInfo] = []
    for i, node in enumerate(graph.nodes):
        created = sum(buffers[w].nbytes_on_create for w in node.writes)
        read = dict.fromkeys(s for r in node.reads if (s := graph.storage[r]) in counted)
        nodes.append(NodeInfo(i, created, tuple(read), preds[i], tuple(sorted(succs[i]))))
    freeable = tuple(b.name for b in graph.buffers if b.input and b.freeable and memory[b.name])
    return PlanningInfo(buffers, tuple(nodes), freeable, timeline(graph).peak)


def _successors(graph: MemoryGraph, succs: Sequence[Sequence[int]]) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """Per buffer: nodes that use its bytes once they are there, and nodes that wait for one of its writers."""
    memory: dict[str, set[int]] = {b.name: set() for b in graph.buffers}
    ordering: dict[str, set[int]] = {b.name: set() for b in graph.buffers}
    first: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        for name in node.reads:
            memory[name].add(i)
            memory[graph.storage[name]].add(i)
        for name in node.writes:
            owner = graph.storage[name]
            ordering[name].update(succs[i])
            ordering[owner].update(succs[i])
            if first.setdefault(owner, i) != i or graph.buffer[owner].input:
                memory[owner].add(i)
    for owner, i in first.items():
        if not graph.buffer[owner].input:
            memory[owner].discard(i)
            ordering[owner].discard(i)
    return memory, ordering
