"""Nodes in an order in which each runs after what it needs: what a list of nodes becomes that does not come so.

Comes in: nodes and buffers as somebody lists them. Goes out: positions in the list. Promised: a list in order stays as it
stands; otherwise a node leaves its place only to stand in front of the first that needs it; time grows with nodes and
needs, nothing recurses; a cycle is given as the nodes along it.

Who needs whom is said by names, since each is written once: the reader of a buffer needs its writer, or, where nothing
writes that name, the writer of the nearest one under it, or of all parts of it; the writer of an alias needs the writer of
the bytes under it; every node needs its ``after``. A list in order may say one thing by itself: a reader that needs all
parts may stand between those who write them, and reads what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowtide.core.errors import VerifyError
from lowtide.memory.graph import Buffer, Node, storages


def positions(nodes: Sequence[Node], buffers: Mapping[str, Buffer]) -> tuple[int, ...]:
    """Positions of nodes in an order in which each runs after what it needs. Names that nothing declares or writes need
    nothing. ``buffers`` stand behind those that they are aliases of.

    Raises:
        VerifyError: ``cycle``, with the nodes along it: not all can be placed.
    """
    needs = _needs(nodes, buffers)
    if all(_behind(i, need) for i, need in enumerate(needs)):
        return tuple(range(len(nodes)))
    order, cycle = sort([sorted(need.writers | need.parts) for need in needs])
    if cycle:
        raise VerifyError("cycle", " needs ".join(nodes[i].name for i in cycle))
    return order


def sort(needs: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Depth first, from the first node to the last: an order in which each stands behind its ``needs``, and no cycle; or a
    cycle, which begins and ends with the same node."""
    new, begun, placed = 0, 1, 2
    state = [new] * len(needs)
    order: list[int] = []
    for root in range(len(needs)):
        path = [root] if state[root] == new else []
        todo = [iter(needs[root])] if path else []
        if path:
            state[root] = begun
        while path:
            following = next(todo[-1], None)
            if following is None:
                order.append(path.pop())
                state[order[-1]] = placed
                todo.pop()
            elif state[following] == begun:
                return (), (*path[path.index(following) :], following)
            elif state[following] == new:
                state[following] = begun
                path.append(following)
                todo.append(iter(needs[following]))
    return tuple(order), ()


@dataclass(frozen=True, slots=True)
class _Need:
    """What a node needs, itself left out: positions of nodes that must run before it, and of those that write parts of what
    it reads."""

    writers: set[int]
    parts: set[int]


def _behind(i: int, need: _Need) -> bool:
    """Whether the node at ``i`` stands where a list in order may have it."""
    return max(need.writers, default=-1) < i and min(need.parts, default=-1) < i


def _needs(nodes: Sequence[Node], buffers: Mapping[str, Buffer]) -> list[_Need]:
    at = {n.name: i for i, n in enumerate(nodes)}
    storage = storages(buffers.values())
    writer: dict[str, int] = {}
    parts: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        for w in node.writes:
            writer.setdefault(w, i)
            if w in storage:
                parts.setdefault(storage[w], []).append(i)
    made: dict[str, int] = {}  # name -> the writer of the nearest one under it, or of itself
    for name, b in buffers.items():
        source = writer.get(name, None if b.alias_of is None else made.get(b.alias_of))
        if source is not None:
            made[name] = source
    out: list[_Need] = []
    for i, node in enumerate(nodes):
        need = _Need({at[a] for a in node.after if a in at}, set())
        for name in node.reads:
            if name in made:
                need.writers.add(made[name])
            elif name in storage and not buffers[storage[name]].input:
                need.parts.update(parts.get(storage[name], ()))
        for name in node.writes:
            under = buffers[name].alias_of if name in buffers else None
            if under in made:
                need.writers.add(made[under])
        need.writers.discard(i)
        need.parts.discard(i)
        out.append(need)
    return out
