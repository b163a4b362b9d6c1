"""Views of the one timeline: running totals, pairs per step, windows, neighbour swaps, bounds on in-place reuse.

Comes in: a MemoryGraph (or its Flat form) and an order. Goes out: bytes per step. All of it follows from
``memory.lifetime`` and the rules of ``memory.graph``; nothing here defines lifetimes anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lowtide.core.errors import BugError
from lowtide.memory.flat import Flat, saved_bytes
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.lifetime import Timeline, timeline


def running_totals(line: Timeline) -> tuple[int, ...]:
    """n+1 totals in bytes: entry t while step t runs, the frees of step t-1 applied; the last what is left at the end.

    An empty order has one entry: what was there at the start.
    """
    return (*line.live, line.after[-1] if line.after else line.start)


def step_pairs(line: Timeline) -> tuple[tuple[int, int], ...]:
    """Per step (bytes after its allocations, bytes after its frees)."""
    return tuple(zip(line.live, line.after, strict=True))


def live_before(line: Timeline) -> tuple[int, ...]:
    """Bytes alive before each step."""
    return (line.start, *line.after[:-1]) if line.after else ()


def last_users(graph: MemoryGraph, order: Sequence[int]) -> dict[str, int]:
    """For each storage that some node touches the node (index) that touches it last under ``order``."""
    out: dict[str, int] = {}
    for i in order:
        for name in (*graph.nodes[i].reads, *graph.nodes[i].writes):
            out[graph.storage[name]] = i
    return out


def device_peaks(graph: MemoryGraph, order: Sequence[int] | None = None) -> dict[str, int]:
    """Peak bytes of each device under ``order``."""
    names = dict.fromkeys(b.device for b in graph.buffers) | dict.fromkeys(n.device for n in graph.nodes if n.workspace)
    return {d: timeline(graph, order, device=d).peak for d in names}


def lifts_others(graph: MemoryGraph, order: Sequence[int], device: str) -> bool:
    """Whether an order that is meant for the peak of ``device`` raises that of another, against program order."""
    now, then = device_peaks(graph, order), device_peaks(graph)
    return any(now[d] > then[d] for d in now if d != device)


@dataclass(frozen=True, slots=True)
class InplaceBounds:
    """Peaks in bytes of one order: ``most`` with no pair taken, ``certain`` with the pairs that are taken in every
    order, ``least`` with every pair that can be taken in this one.
    """

    most: int
    certain: int
    least: int


def inplace_bounds(graph: MemoryGraph, order: Sequence[int] | None = None) -> InplaceBounds:
    """What in-place reuse can save at the peak of ``order``."""
    never = replace_pairs(graph, {})
    sure = replace_pairs(graph, certain_pairs(graph))
    return InplaceBounds(timeline(never, order).peak, timeline(sure, order).peak, timeline(graph, order).peak)


def certain_pairs(graph: MemoryGraph) -> dict[int, tuple[tuple[str, str], ...]]:
    """Per node (index) the in-place pairs whose read dies there in every order: all its other users run before."""
    users: dict[str, set[int]] = {}
    for i, node in enumerate(graph.nodes):
        for name in (*node.reads, *node.writes):
            users.setdefault(graph.storage[name], set()).add(i)
    preds = graph.predecessors
    out: dict[int, tuple[tuple[str, str], ...]] = {}
    for i, node in enumerate(graph.nodes):
        if not node.inplace:
            continue
        wanted = {u for read, _ in node.inplace for u in users[graph.storage[read]]} - {i}
        before = _ancestors(preds, i, wanted)
        kept = tuple(pair for pair in node.inplace if users[graph.storage[pair[0]]] - {i} <= before)
        if kept:
            out[i] = kept
    return out


def _ancestors(preds: Sequence[Sequence[int]], start: int, wanted: set[int]) -> set[int]:
    """The ancestors of ``start``; the walk ends early once all ``wanted`` are found or cannot be any more."""
    found: set[int] = set()
    oldest = min(wanted, default=start)
    stack, missing = [start], set(wanted)
    while stack and missing:
        for p in preds[stack.pop()]:
            if p not in found and p >= oldest:
                found.add(p)
                missing.discard(p)
                stack.append(p)
    return found


def replace_pairs(graph: MemoryGraph, pairs: Mapping[int, tuple[tuple[str, str], ...]]) -> MemoryGraph:
    """``graph`` with only the given in-place pairs per node (index)."""
    nodes = tuple(replace(n, inplace=pairs.get(i, ())) if n.inplace else n for i, n in enumerate(graph.nodes))
    return MemoryGraph(graph.buffers, nodes)


def subprogram_workspace(branches: Iterable[MemoryGraph]) -> int:
    """Workspace of a node that calls one of several sub-programs: the largest of their peaks, in bytes."""
    return max((timeline(branch).peak for branch in branches), default=0)


class Estimate:
    """The timeline of an order that is being changed step by step; short-lived.

    Neighbours are swapped and windows judged in time that does not grow with the graph, only with what the nodes
    concerned touch.
    """

    def __init__(self, flat: Flat, order: Sequence[int]) -> None:
        self.flat, self.order = flat, list(order)
        self.first = [-1 if not nodes else flat.n for nodes in flat.makers]
        self.last = [-1] * flat.m
        for t, i in enumerate(self.order):
            for b in flat.makes[i]:
                self.first[b] = min(self.first[b], t)
            for b in flat.holds[i]:
                self.last[b] = t
        self.live: list[int] = []
        self.after: list[int] = []
        total = flat.base
        for t in range(len(self.order)):
            live, total = self._step(t, total)
            self.live.append(live)
            self.after.append(total)

    @property
    def peak(self) -> int:
        """Most bytes alive at once."""
        return max((self.flat.base, *self.live))

    def before(self, t: int) -> int:
        """Bytes alive before step ``t``."""
        return self.after[t - 1] if t else self.flat.base

    def swap(self, t: int) -> None:
        """Exchange the steps ``t`` and ``t + 1``.

        Raises:
            BugError: the second needs the first.
        """
        a, b = self.order[t], self.order[t + 1]
        if a in self.flat.preds[b]:
            raise BugError(f"node {b} needs node {a}: they cannot be swapped")
        self.order[t], self.order[t + 1] = b, a
        self._place(t, b, a)
        total = self.before(t)
        for at in (t, t + 1):
            self.live[at], total = self._step(at, total)
            self.after[at] = total

    def window_peak(self, start: int, nodes: Sequence[int]) -> int:
        """Peak of the steps from ``start`` if ``nodes``, a reordering of those that stand there, took their place."""
        now = self.order[start : start + len(nodes)]
        if sorted(now) != sorted(nodes):
            raise BugError("a window is reordered, not replaced")
        self._arrange(start, nodes)
        total, peak = self.before(start), 0
        for t in range(start, start + len(nodes)):
            live, total = self._step(t, total)
            peak = max(peak, live)
        self._arrange(start, now)
        return peak

    def _arrange(self, start: int, nodes: Sequence[int]) -> None:
        flat, stop = self.flat, start + len(nodes)
        self.order[start:stop] = nodes
        for i in nodes:
            for b in flat.makes[i]:
                if self.first[b] >= start:
                    self.first[b] = flat.n
        for t, i in zip(range(start, stop), nodes, strict=True):
            for b in flat.makes[i]:
                self.first[b] = min(self.first[b], t)
            for b in flat.holds[i]:
                if self.last[b] < stop:
                    self.last[b] = t

    def _place(self, t: int, earlier: int, later: int) -> None:
        """Mend first and last steps of storages after the nodes at ``t`` and ``t + 1`` were set."""
        flat = self.flat
        for at, i in ((t + 1, later), (t, earlier)):
            for b in flat.makes[i]:
                if self.first[b] in (t, t + 1):
                    self.first[b] = at
        for at, i in ((t, earlier), (t + 1, later)):
            for b in flat.holds[i]:
                if self.last[b] in (t, t + 1):
                    self.last[b] = at

    def _step(self, t: int, total: int) -> tuple[int, int]:
        """(bytes alive while step t runs, after it), given the bytes before it."""
        flat, i = self.flat, self.order[t]
        total += sum(flat.size[b] for b in flat.makes[i] if self.first[b] == t)
        live = total + flat.workspace[i]
        possible = [(r, w) for r, w in flat.pairs[i] if self.last[r] == t and self.first[w] == t]
        if possible:
            live -= saved_bytes(possible, flat.size)
        total -= sum(flat.size[b] for b in flat.holds[i] if self.last[b] == t and not flat.outlives[b])
        return live, total
