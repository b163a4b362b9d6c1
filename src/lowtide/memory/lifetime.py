"""Lifetimes and the timeline of a MemoryGraph under an order: the one place where they are computed.

Comes in: a MemoryGraph and an order (node indices). Goes out: one Lifetime per storage that costs bytes, and the live
bytes of every step. The rules are those at the top of ``memory.graph``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowtide.memory.graph import MemoryGraph, may_share


@dataclass(frozen=True, slots=True)
class Lifetime:
    """One storage's bytes, alive in the steps ``[first, end)``.

    ``escapes``: still alive after the last step (an output; ``end`` is then the number of steps).
    ``takes_over``: the storage whose bytes it continues in place; during step ``first`` it lies inside that one.
    ``allocator``: as the buffer's.
    """

    name: str
    nbytes: int
    first: int
    end: int
    device: str = "cpu"
    escapes: bool = False
    takes_over: str | None = None
    allocator: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Live bytes of one device. ``live[t]``: while step t runs, its workspace included; ``after[t]``: after its frees;
    ``start``: before step 0 (freeable inputs)."""

    start: int
    live: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def peak(self) -> int:
        """Most bytes alive at once."""
        return max((self.start, *self.live))

    @property
    def peak_step(self) -> int:
        """First step at which the peak is reached (0 for an empty order)."""
        return self.live.index(self.peak) if self.peak in self.live else 0


def lifetimes(graph: MemoryGraph, order: Sequence[int] | None = None) -> tuple[Lifetime, ...]:
    """Lifetime of every storage that is counted, in order of declaration; steps are positions in ``order``."""
    order = range(len(graph.nodes)) if order is None else order
    storage, steps = graph.storage, len(order)
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    outputs = {storage[b.name] for b in graph.buffers if b.output}
    for b in graph.buffers:
        if b.alias_of is None and b.input and b.freeable:
            first[b.name] = 0
    for t, i in enumerate(order):
        node = graph.nodes[i]
        for name in node.writes:
            s = storage[name]
            last[s] = t
            first.setdefault(s, t)
        for name in node.reads:
            last[storage[name]] = t
    taken = _taken_over(graph, order, first, last, outputs)
    out: list[Lifetime] = []
    for b in graph.buffers:
        counted = b.alias_of is None and (b.freeable or not b.input) and b.name in first and b.name in last
        if counted:
            escapes = b.name in outputs
            end = steps if escapes else last[b.name] + 1
            out.append(
                Lifetime(b.name, b.nbytes, first[b.name], end, b.device, escapes, taken.get(b.name), b.allocator)
            )
    return tuple(out)


def _taken_over(
    graph: MemoryGraph, order: Sequence[int], first: dict[str, int], last: dict[str, int], outputs: set[str]
) -> dict[str, str]:
    """written storage -> storage that it takes over, so that each node saves the most bytes it can."""
    taken: dict[str, str] = {}
    storage, buffer = graph.storage, graph.buffer
    for t, i in enumerate(order):
        pairs = graph.nodes[i].inplace
        if not pairs:
            continue
        options: dict[str, list[str]] = {}
        for read, written in pairs:
            r, w = storage[read], storage[written]
            ours = (not buffer[r].input or buffer[r].freeable) and r not in outputs
            fits = buffer[r].nbytes >= buffer[w].nbytes and may_share(buffer[r], buffer[w])
            if r != w and ours and fits and not buffer[w].input and last[r] == t and first[w] == t:
                options.setdefault(w, []).append(r)
        for choice in options.values():
            choice.sort(key=lambda name: buffer[name].nbytes)  # the tightest first, so that large ones stay for others
        taken |= _matched(options, sorted(options, key=lambda name: -buffer[name].nbytes))
    return taken


def _matched(options: dict[str, list[str]], largest_first: list[str]) -> dict[str, str]:
    """Each of ``largest_first`` with one of its options, no option twice. Whoever can still be served by moving others
    is served (augmenting paths), which is the most bytes in all: the sets that can be served together form a matroid.
    """
    holder: dict[str, str] = {}
    for start in largest_first:
        came_from: dict[str, str] = {}  # option -> who asked for it
        asking, free = [start], None
        for w in asking:
            for r in options[w]:
                if r in came_from:
                    continue
                came_from[r] = w
                if r not in holder:
                    free = r
                    break
                asking.append(holder[r])
            if free is not None:
                break
        while free is not None:
            w = came_from[free]
            previous = next((r for r, who in holder.items() if who == w), None)
            holder[free] = w
            free = previous
            if w == start:
                break
    return {w: r for r, w in holder.items()}


def timeline(
    graph: MemoryGraph,
    order: Sequence[int] | None = None,
    *,
    device: str | None = None,
    alive: Sequence[Lifetime] | None = None,
) -> Timeline:
    """Live bytes per step on ``device`` (None: all devices added up). ``alive``: lifetimes, if already computed."""
    order = range(len(graph.nodes)) if order is None else order
    steps = len(order)
    born, dead, shared = [0] * steps, [0] * steps, [0] * steps
    start = 0
    for x in lifetimes(graph, order) if alive is None else alive:
        if device is not None and x.device != device:
            continue
        if graph.buffer[x.name].input:
            start += x.nbytes
        else:
            born[x.first] += x.nbytes
        if not x.escapes:
            dead[x.end - 1] += x.nbytes
        if x.takes_over is not None:
            shared[x.first] += x.nbytes
    live: list[int] = []
    after: list[int] = []
    total = start
    for t, i in enumerate(order):
        node = graph.nodes[i]
        total += born[t]
        live.append(total - shared[t] + (node.workspace if device is None or node.device == device else 0))
        total -= dead[t]
        after.append(total)
    return Timeline(start, tuple(live), tuple(after))
