"""Checks of a MemoryGraph that was built in memory; a graph read from JSON has passed stricter ones already.

Comes in: a MemoryGraph. Goes out: nothing, or a VerifyError that names the clause and the culprits.
"""

from __future__ import annotations

from lowtide.core.errors import VerifyError
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.sort import sort


def validate(graph: MemoryGraph) -> None:
    """Unique and known names, then no cycle. Raises VerifyError as the two checks below."""
    validate_names(graph)
    validate_acyclic(graph)


def validate_names(graph: MemoryGraph) -> None:
    """Every name is declared once and every use has a declaration.

    Raises:
        VerifyError: ``duplicate`` (two buffers or two nodes of one name), ``unknown`` (a name that nothing declares),
            ``input`` (a node writes an input by its own name; a mutation writes an alias of it).
    """
    buffers: set[str] = set()
    inputs: set[str] = set()
    for b in graph.buffers:
        if b.name in buffers:
            raise VerifyError("duplicate", f"two buffers are called {b.name}")
        if b.alias_of is not None and b.alias_of not in buffers:
            raise VerifyError("unknown", f"buffer {b.name} stands on {b.alias_of}, which is not declared before it")
        buffers.add(b.name)
        if b.input:
            inputs.add(b.name)
    nodes = {n.name for n in graph.nodes}
    seen: set[str] = set()
    for n in graph.nodes:
        if n.name in seen:
            raise VerifyError("duplicate", f"two nodes are called {n.name}")
        seen.add(n.name)
        for name in (*n.reads, *n.writes, *(x for pair in n.inplace for x in pair)):
            if name not in buffers:
                raise VerifyError("unknown", f"node {n.name} uses {name}, which is not declared")
        for name in n.writes:
            if name in inputs:
                raise VerifyError("input", f"node {n.name} writes the input {name}")
        for name in n.after:
            if name not in nodes:
                raise VerifyError("unknown", f"node {n.name} comes after {name}, which is not declared")


def validate_acyclic(graph: MemoryGraph) -> None:
    """No node needs itself, directly or through others.

    Raises:
        VerifyError: ``cycle``, with the nodes along it.
    """
    _, cycle = sort(graph.predecessors)
    if cycle:
        raise VerifyError("cycle", " needs ".join(graph.nodes[i].name for i in cycle))
