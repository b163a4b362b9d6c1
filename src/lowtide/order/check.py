"""The independent checker of an order: shares no code with the orders, the searches or the flat form.

Comes in: a MemoryGraph and an order. Goes out: nothing, or a VerifyError that names the clause, the nodes and their
positions. It derives what must precede what by walking the program once, name by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lowtide.core.errors import VerifyError
from lowtide.memory.graph import MemoryGraph


def check_order(graph: MemoryGraph, order: Sequence[int]) -> None:
    """Every node exactly once, after everything that it needs, and groups side by side.

    Raises:
        VerifyError: ``permutation`` (a node missing, twice, or unknown), ``read`` (a value read before it is written),
            ``alias`` (bytes written through an alias before those under it), ``after`` (a declared constraint), ``group`` (a
            node between those of a group).
    """
    position: dict[int, int] = {}
    for at, i in enumerate(order):
        if not 0 <= i < len(graph.nodes):
            raise VerifyError("permutation", f"position {at} holds {i}, there are {len(graph.nodes)} nodes")
        if i in position:
            raise VerifyError("permutation", f"{graph.nodes[i].name} stands at {position[i]} and at {at}")
        position[i] = at
    for i, node in enumerate(graph.nodes):
        if i not in position:
            raise VerifyError("permutation", f"{node.name} is missing")
    ended: set[str] = set()
    for before, at in pairwise(range(len(order))):
        group, following = graph.nodes[order[before]].group, graph.nodes[order[at]].group
        if group != following:
            ended.add(group)
            if following and following in ended:
                raise VerifyError(
                    "group", f"{graph.nodes[order[before]].name} at {before} stands within the group {following}"
                )
    index = {node.name: i for i, node in enumerate(graph.nodes)}
    base = {b.name: b.alias_of for b in graph.buffers}
    bottom: dict[str, str] = {}
    for name, under in base.items():
        bottom[name] = name if under is None else bottom[under]
    given = {b.name for b in graph.buffers if b.input}
    written_by: dict[str, int] = {}
    through_alias: dict[str, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        for name in node.reads:
            source = _writer_of(name, base, written_by)
            parts = [] if bottom[name] in given else through_alias.get(bottom[name], [])
            for part in parts if source is None else [source]:
                _need(graph, position, part, i, "read", f"reads {name}")
        for name in node.writes:
            under = base[name]
            if under is not None:
                source = _writer_of(under, base, written_by)
                _need(graph, position, source, i, "alias", f"writes {name} over {under}")
        for name in node.after:
            _need(graph, position, index[name], i, "after", f"comes after {name}")
        for name in node.writes:
            written_by[name] = i
            through_alias.setdefault(bottom[name], []).append(i)


def _writer_of(name: str, base: dict[str, str | None], written_by: dict[str, int]) -> int | None:
    at: str | None = name
    while at is not None:
        if at in written_by:
            return written_by[at]
        at = base[at]
    return None


def _need(graph: MemoryGraph, position: dict[int, int], first: int | None, then: int, clause: str, why: str) -> None:
    if first is None or first == then:
        return
    if position[first] > position[then]:
        raise VerifyError(
            clause,
            f"{graph.nodes[then].name} at {position[then]} {why}, "
            f"but {graph.nodes[first].name} runs later, at {position[first]}",
        )
