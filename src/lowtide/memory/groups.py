"""Fixed groups: nodes that stay side by side, with nothing between them.

Comes in: a MemoryGraph, some of whose nodes name a ``group``. Goes out: one in which each group is one node, and how an order of
that one is spelled out. Promised: an order that keeps the dependencies of the smaller graph keeps, spelled out, those of the
larger one and its groups together; members stay in program order. What the smaller graph says of bytes is an estimate, not
below what the group needs: within it nothing ends early but what it alone uses, and nothing is taken over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lowtide.core.errors import VerifyError
from lowtide.memory.graph import MemoryGraph, Node
from lowtide.memory.sort import sort


@dataclass(frozen=True)
class Gathered:
    """``graph``: groups as one node each, in an order in which all can run; ``members``: for each of its nodes, positions in the
    graph that it came from."""

    graph: MemoryGraph
    members: tuple[tuple[int, ...], ...]

    def spelled(self, order: Sequence[int]) -> tuple[int, ...]:
        """An order of ``graph`` as one of the nodes that it came from."""
        return tuple(i for k in order for i in self.members[k])


def grouped(graph: MemoryGraph) -> bool:
    """Whether any node is in a group."""
    return any(n.group for n in graph.nodes)


def gather(graph: MemoryGraph, device: str | None = None) -> Gathered:
    """Each group as one node, whose workspace is the most that it holds for itself at once, on one device (None: all of them
    added up).

    Raises:
        VerifyError: ``group``, something outside needs one member and is needed by another.
    """
    units = _units(graph)
    order, cycle = sort(needs := _needs(graph, units))
    if cycle:
        raise VerifyError("group", " needs ".join(_title(graph, units[k]) for k in cycle))
    names = [graph.nodes[u[0]].name for u in units]
    inner = _inner(graph, units)
    nodes = tuple(_node(graph, units[k], tuple(names[p] for p in needs[k]), inner, device) for k in order)
    return Gathered(MemoryGraph(graph.buffers, nodes), tuple(units[k] for k in order))


def _units(graph: MemoryGraph) -> list[tuple[int, ...]]:
    """Positions of the nodes that stand together, by the first of each."""
    found: dict[str | int, list[int]] = {}
    for i, n in enumerate(graph.nodes):
        found.setdefault(n.group or i, []).append(i)
    return [tuple(u) for u in found.values()]


def _needs(graph: MemoryGraph, units: Sequence[Sequence[int]]) -> list[list[int]]:
    of = {i: k for k, u in enumerate(units) for i in u}
    return [sorted({of[p] for i in u for p in graph.predecessors[i]} - {k}) for k, u in enumerate(units)]


def _title(graph: MemoryGraph, unit: Sequence[int]) -> str:
    first = graph.nodes[unit[0]]
    return f"group {first.group}" if first.group else first.name


def _inner(graph: MemoryGraph, units: Sequence[Sequence[int]]) -> Mapping[int, set[str]]:
    """A unit's first node -> the storages that the unit makes and nothing else touches."""
    users: dict[str, set[int]] = {}
    made: set[str] = set()
    for u in units:
        for i in u:
            n = graph.nodes[i]
            made.update(graph.storage[w] for w in n.writes)
            for name in (*n.reads, *n.writes):
                users.setdefault(graph.storage[name], set()).add(u[0])
    kept = {graph.storage[b.name] for b in graph.buffers if b.output or b.input}
    inner: dict[int, set[str]] = {}
    for s, used in users.items():
        if len(used) == 1 and s in made and s not in kept:
            inner.setdefault(min(used), set()).add(s)
    return inner


def _node(
    graph: MemoryGraph, unit: Sequence[int], after: tuple[str, ...], inner: Mapping[int, set[str]], device: str | None
) -> Node:
    first = graph.nodes[unit[0]]
    if len(unit) == 1:
        return replace(first, after=after, group="")
    nodes = [graph.nodes[i] for i in unit]
    own = inner.get(unit[0], set[str]())
    last = {graph.storage[name]: k for k, n in enumerate(nodes) for name in (*n.reads, *n.writes)}
    held: set[str] = set()
    most = 0
    for k, n in enumerate(nodes):
        held |= {s for w in n.writes if (s := graph.storage[w]) in own}
        counted = sum(b.nbytes for s in held if (b := graph.buffer[s]).device == (device or b.device))
        most = max(most, counted + (n.workspace if n.device == (device or n.device) else 0))
        held = {s for s in held if last[s] > k}
    writes = dict.fromkeys(w for n in nodes for w in n.writes if graph.storage[w] not in own)
    reads = dict.fromkeys(r for n in nodes for r in n.reads if graph.storage[r] not in own and r not in writes)
    return Node(first.name, tuple(reads), tuple(writes), after, most, device=device or first.device)
