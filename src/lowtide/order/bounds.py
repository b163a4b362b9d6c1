"""Proved lower bounds on the peak of every order of a graph, each with a name.

Comes in: Flat (and an order, which only says where to look). Goes out: bytes that no order can stay below.

``start``: what is alive before the first step. ``outputs``: what is alive after the last. ``working set``: what one
node reads, writes and needs beside. ``cut``: the least that can be alive while one node runs, over all sets of nodes
that can have run before it; it contains the working set, and what must be carried past that node whatever the order.
The cut bound is a minimum closure, hence exact for its node; the true optimum can be higher because the best sets of
two nodes may not lie on one path. Where the search is exhaustive its own answer is the bound (``exhausted``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lowtide.memory.flat import Flat
from lowtide.order.compiled import being_built, compiled

_BEFORE, _BEHIND = 1, 2
_STEPS = 20_000  # of the search for a bound where no order is searched for
_LOOKS = 8  # of a flow, to a step
_MEANWHILE = 50_000  # steps in Python, about 0.3 s, while the library is being built


def end_bound(flat: Flat) -> tuple[int, str]:
    """The larger of what is alive at the start and at the end."""
    end = sum(nbytes for nbytes, outlives in zip(flat.size, flat.outlives, strict=True) if outlives)
    return (flat.base, "start") if flat.base >= end else (end, "outputs")


def proved_peak(flat: Flat, order: Sequence[int], live: Sequence[int]) -> int:
    """Bytes that no order stays below, where none is searched for; looked for at the steps of ``order``, during which ``live``
    bytes are alive."""
    bound, _ = end_bound(flat)
    return max(bound, cut_bound(flat, order, live, bound, _STEPS, [-1] * flat.n)[0])


def holders_of(flat: Flat) -> list[list[int]]:
    """Per storage the nodes that hold it."""
    out: list[list[int]] = [[] for _ in range(flat.m)]
    for i, held in enumerate(flat.holds):
        for b in held:
            out[b].append(i)
    return out


def cut_bound(
    flat: Flat, order: Sequence[int], live: Sequence[int], floor: int, steps: int, known: list[int]
) -> tuple[int, str, int]:
    """(bound, its name, steps used): the greatest least_during of the nodes looked at, if above ``floor``.

    A node's least is at most what is alive at it in any order; so nodes are looked at from the dearest step of
    ``order`` down to the bound reached, or until the steps are gone. ``known`` keeps what is found for each node (-1:
    nothing yet), so that another call with a better order goes on from there. Compiled where there is a compiler; a short
    one is done in Python while the library is being built.
    """
    python = partial(cut_in_python, flat, order, live, floor)
    found = list(known)
    answer = python(min(steps, _MEANWHILE), found) if being_built() else None
    if answer is None or answer[1] >= _MEANWHILE:
        ready = compiled(flat)
        if ready is not None:
            found = list(known)
            answer = ready.cut(order, live, floor, steps, found)
        elif answer is None:
            answer = python(steps, found)
    known[:] = found
    best, used, at = answer
    if at < 0:
        return best, "", used
    alone = sum(flat.size[b] for b in flat.holds[at]) + flat.workspace[at]
    return best, "working set" if not flat.pairs[at] and best <= alone else "cut", used


def cut_in_python(
    flat: Flat, order: Sequence[int], live: Sequence[int], floor: int, steps: int, known: list[int]
) -> tuple[int, int, int]:
    """(bound, steps used, node or -1): the twin of ``lowtide_cut`` in bounds.cpp."""
    best, used, at = floor, 0, -1
    holders = holders_of(flat)
    for t in sorted(range(len(order)), key=lambda t: (-live[t], t)):
        if live[t] <= best or used >= steps:
            break
        v = order[t]
        least = known[v]
        if least < 0:
            least, work = least_during(flat, holders, v, steps - used)
            used += work
            if used < steps:
                known[v] = least
        if least > best:
            best, at = least, v
    return best, used, at


def least_during(flat: Flat, holders: list[list[int]], v: int, steps: int) -> tuple[int, int]:
    """(bytes, steps used): at least so many bytes are alive while ``v`` runs, in every order.

    Some set of nodes has run before ``v``: all its ancestors, none of its descendants, and any closed part of the rest.
    Least is alive for the part where what ends outweighs what it begins the most: a minimum closure (Picard 1976), here
    as a flow from the storages that can end to the nodes that must be paid for. A flow cut short by ``steps`` still
    gives a true bound, only a lower one. In-place savings are granted wherever they are in doubt.
    """
    label = _labels(flat, v)
    net = _Closure(flat, label)
    alive = 0
    for b, nodes in enumerate(holders):
        begun = not flat.makers[b] or any(label[p] == _BEFORE for p in flat.makers[b])
        open_ = [x for x in nodes if label[x] != _BEFORE]
        if begun and (flat.outlives[b] or open_):
            alive += flat.size[b]
        if not flat.outlives[b] and open_ and all(label[x] != _BEHIND for x in open_):
            net.supply(flat.size[b], open_, flat.makers[b][0] if len(flat.makers[b]) == 1 else -1)
    hill, bonus = _running(flat, holders, v, label)
    for nbytes, needs in bonus:
        net.supply(nbytes, needs)
    work = 2 * flat.n + net.push(_LOOKS * steps)
    return alive + hill - sum(net.left), 1 + work // _LOOKS


def _labels(flat: Flat, v: int) -> bytearray:
    label = bytearray(flat.n)
    for mark, edges in ((_BEFORE, flat.preds), (_BEHIND, flat.succs)):
        stack = [v]
        while stack:
            for x in edges[stack.pop()]:
                if label[x] != mark:
                    label[x] = mark
                    stack.append(x)
    label[v] = _BEHIND
    return label


def _running(flat: Flat, holders: list[list[int]], v: int, label: bytearray) -> tuple[int, list[tuple[int, list[int]]]]:
    """(bytes that ``v`` adds while it runs, savings that depend on free nodes having run: bytes and those nodes)."""
    hill = flat.alloc[v] + flat.workspace[v]
    for b in flat.shared[v]:
        # Begun here, or before by another maker; only the first is certain to cost, and only if no other can be first.
        if all(label[p] == _BEHIND for p in flat.makers[b]):
            hill += flat.size[b]
    ready: dict[int, list[int] | None] = {}
    for r, w in flat.pairs[v]:
        others = [x for x in holders[r] if x != v and label[x] != _BEFORE]
        if all(label[x] != _BEHIND for x in others) and not any(label[p] == _BEFORE for p in flat.makers[w]):
            doubtful = w in ready or not others or len(flat.makers[w]) > 1
            ready[w] = None if doubtful else others
    bonus: list[tuple[int, list[int]]] = []
    for w, needs in ready.items():
        if needs is None:
            hill -= flat.size[w]
        else:
            bonus.append((flat.size[w], needs))
    return hill, bonus


class _Closure:
    """Flow from supplies through the free nodes they need (and those nodes' free ancestors) to what these begin."""

    def __init__(self, flat: Flat, label: bytearray) -> None:
        self.flat, self.label = flat, label
        self.left: list[int] = []
        self.needs: list[list[int]] = []
        self.room: dict[int, int] = {}
        self.inflow: dict[int, dict[int, int]] = {}

    def supply(self, nbytes: int, needs: list[int], maker: int = -1) -> None:
        """Bytes that are gained once all of the free nodes ``needs`` have run; paid at once by a free ``maker``."""
        if maker >= 0 and self.label[maker] == 0:
            self.room[maker] = self.room.get(maker, self.flat.alloc[maker]) - nbytes
            self.inflow.setdefault(maker, {})[~len(self.left)] = nbytes
            nbytes = 0
        self.left.append(nbytes)
        self.needs.append(needs)

    def push(self, steps: int) -> int:
        """Push what can be pushed; steps used."""
        used = 0
        for c in range(len(self.left)):
            while self.left[c] and used < steps:
                looked, found = self._augment(c)
                used += looked
                if not found:
                    break
        return used

    def _out(self, x: int) -> list[int]:
        """Where flow may go from a node (>= 0), a supply (~c) or a shared storage (n + b)."""
        flat = self.flat
        if x < 0:
            return self.needs[~x]
        if x >= flat.n:
            return []
        out = [p for p in flat.preds[x] if not self.label[p]]
        for b in flat.shared[x]:
            if all(self.label[p] != _BEFORE for p in flat.makers[b]):
                out.append(flat.n + b)
        return out

    def _augment(self, c: int) -> tuple[int, bool]:
        flat, room, inflow = self.flat, self.room, self.inflow
        came: dict[int, int] = {~c: ~c}
        queue = [~c]
        for x in queue:
            if x >= 0:
                if x not in room:
                    room[x] = flat.alloc[x] if x < flat.n else flat.size[x - flat.n]
                if room[x]:
                    self._carry(x, c, came)
                    return len(queue), True
                for y in inflow.get(x, ()):
                    if y not in came:
                        came[y] = x
                        queue.append(y)
            for y in self._out(x):
                if y not in came:
                    came[y] = x
                    queue.append(y)
        return len(queue), False

    def _carry(self, end: int, c: int, came: dict[int, int]) -> None:
        """Send as much as fits along the path found to ``end``."""
        inflow = self.inflow
        amount, x = min(self.room[end], self.left[c]), end
        while x != ~c:
            y = came[x]
            if x in inflow.get(y, ()):  # against the stream: x fed y
                amount = min(amount, inflow[y][x])
            x = y
        self.room[end] -= amount
        self.left[c] -= amount
        x = end
        while x != ~c:
            y = came[x]
            if x in inflow.get(y, ()):
                inflow[y][x] -= amount
                if not inflow[y][x]:
                    del inflow[y][x]
            else:
                into = inflow.setdefault(x, {})
                into[y] = into.get(y, 0) + amount
            x = y
