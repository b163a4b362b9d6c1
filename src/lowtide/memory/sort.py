"""Nodes in an order in which each runs after what it needs: what a list of nodes becomes that does not come so.

Comes in: nodes and buffers as somebody lists them. Goes out: positions in the list. Promised: a list in order stays as it
stands; otherwise a node leaves its place only to stand in front of the first that needs it; time grows with nodes and
needs, nothing recurses; a cycle is given as the nodes along it.

Who needs whom is said by names, since each is written once: the reader of a buffer needs its writer, or, where nothing
writes that name, the writer of the nearest one under it, or of all parts of it; the writer of an alias needs the writer of
the bytes under it; every node needs its ``after``. A list in order says more by itself: a reader may stand between those who
write parts of what it reads, or in front of the one who changes it, and reads what is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lowtide.core.errors import VerifyError
from lowtide.memory.graph import Buffer, Node


def positions(nodes: Sequence[Node], buffers: Mapping[str, Buffer]) -> tuple[int, ...]:
    """Positions of nodes in an order in which each runs after what it needs. Names that nothing declares or writes need
    nothing.

    Raises:
        VerifyError: ``cycle``, with the nodes along it: not all can be placed.
    """
    if _in_order(nodes, buffers):
        return tuple(range(len(nodes)))
    order, cycle = sort(_needs(nodes, buffers))
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


def _in_order(nodes: Sequence[Node], buffers: Mapping[str, Buffer]) -> bool:
    """Whether every node stands behind one that gives it what it needs."""
    names = {n.name for n in nodes}
    seen: set[str] = set()
    there: set[str] = set()  # written so far, and the bytes of which a part is
    for node in nodes:
        if any(a in names and a not in seen for a in node.after if a != node.name):
            return False
        for name in node.reads:
            if not any(b in there or buffers[b].input for b in _under(name, buffers)):
                return False
        seen.add(node.name)
        there.update(b for w in node.writes for b in (w, *tuple(_under(w, buffers))[-1:]))
    return True


def _needs(nodes: Sequence[Node], buffers: Mapping[str, Buffer]) -> list[list[int]]:
    """For each node the positions of those that it needs, ascending, never itself."""
    at = {n.name: i for i, n in enumerate(nodes)}
    writer: dict[str, int] = {}
    parts: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        for w in node.writes:
            writer.setdefault(w, i)
            for root in tuple(_under(w, buffers))[-1:]:
                parts.setdefault(root, []).append(i)
    out: list[list[int]] = []
    for i, node in enumerate(nodes):
        found = {at[a] for a in node.after if a in at}
        for name in node.reads:
            under = tuple(_under(name, buffers))
            made = next((writer[b] for b in under if b in writer), None)
            if made is not None:
                found.add(made)
            elif under and not buffers[under[-1]].input:
                found.update(parts.get(under[-1], ()))
        for name in node.writes:
            found.update(next(([writer[b]] for b in tuple(_under(name, buffers))[1:] if b in writer), ()))
        out.append(sorted(found - {i}))
    return out


def _under(name: str, buffers: Mapping[str, Buffer]) -> Iterator[str]:
    """A buffer and those on which it stands, down to the one that owns the bytes; none where nothing declares it."""
    while (found := buffers.get(name)) is not None:
        yield name
        if found.alias_of is None:
            return
        name = found.alias_of
