"""The least peak of a memory graph by looking at every set of nodes that can have run; an oracle for the order engine.

Comes in: a MemoryGraph. Goes out: bytes, or None where there are more sets than allowed. Written from the rules of
docs/design/memory.md; it shares no code with lowtide.order and drops no set: one set is expanded after the other, the one
with the least peak on the way to it first.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import permutations

from lowtide.memory.graph import MemoryGraph


class Sets:
    """What running a node after a set of nodes costs. Sets of nodes are whole numbers, bit i is node i."""

    def __init__(self, graph: MemoryGraph) -> None:
        buffer = {b.name: b for b in graph.buffers}
        root: dict[str, str] = {}
        for b in graph.buffers:
            root[b.name] = b.name if b.alias_of is None else root[b.alias_of]
        self.n = len(graph.nodes)
        self.needs = _needs(graph, root)
        self.size = {
            b.name: b.nbytes for b in graph.buffers if b.alias_of is None and (b.freeable or not b.input) and b.nbytes
        }
        self.input = {s for s in self.size if buffer[s].input}
        kept = {root[b.name] for b in graph.buffers if b.output}
        self.touch, self.made = dict.fromkeys(self.size, 0), dict.fromkeys(self.size, 0)
        self.ends: list[list[str]] = []
        self.begins: list[list[str]] = []
        self.pairs: list[list[tuple[str, str]]] = []
        for i, node in enumerate(graph.nodes):
            used = {root[x] for x in (*node.reads, *node.writes)} & self.size.keys()
            written = {root[x] for x in node.writes} & self.size.keys() - self.input
            for s in used:
                self.touch[s] |= 1 << i
            for s in written:
                self.made[s] |= 1 << i
            self.ends.append(sorted(used - kept))
            self.begins.append(sorted(written))
            both = {(root[r], root[w]) for r, w in node.inplace}
            self.pairs.append(
                sorted(
                    (r, w)
                    for r, w in both
                    if r != w
                    and {r, w} <= self.size.keys()
                    and self.size[r] >= self.size[w]
                    and buffer[r].device == buffer[w].device
                )
            )
        self.workspace = [node.workspace for node in graph.nodes]
        self.start = sum(self.size[s] for s in self.input if self.touch[s])

    def run(self, i: int, done: int) -> tuple[int, int]:
        """(bytes above the present while node ``i`` runs after ``done``, bytes above the present after it)."""
        after = done | 1 << i
        begun = [s for s in self.begins[i] if not self.made[s] & done]
        ended = [s for s in self.ends[i] if not self.touch[s] & ~after]
        more = sum(self.size[s] for s in begun)
        saved = 0
        if self.pairs[i]:
            saved = best_pairs(
                [(r, w) for r, w in self.pairs[i] if r in ended and w in begun and r not in begun], self.size
            )
        return more + self.workspace[i] - saved, more - sum(self.size[s] for s in ended)


def _needs(graph: MemoryGraph, root: dict[str, str]) -> list[int]:
    under = {b.name: b.alias_of for b in graph.buffers}
    given = {b.name for b in graph.buffers if b.input}
    index = {n.name: i for i, n in enumerate(graph.nodes)}
    writer: dict[str, int] = {}
    needs: list[int] = []
    for i, node in enumerate(graph.nodes):
        mine = {index[a] for a in node.after}
        for start in [*node.reads, *(under[w] for w in node.writes)]:
            name = start
            while name is not None and name not in writer:
                name = under[name]
            if name is not None:
                mine.add(writer[name])
            elif start in node.reads and root[start] not in given:
                mine |= {k for w, k in writer.items() if root[w] == root[start]}
        needs.append(sum(1 << k for k in mine - {i}))
        writer |= dict.fromkeys(node.writes, i)
    return needs


def best_pairs(options: list[tuple[str, str]], size: dict[str, int]) -> int:
    """Most bytes that pairs (dying, begun) save together, each storage once; by trying every way."""
    written = sorted({w for _, w in options})
    if len(written) <= 1:
        return sum(size[w] for w in written)
    reads = sorted({r for r, _ in options}) + [""] * len(written)
    allowed = set(options)
    return max(
        sum(size[w] for pair in zip(choice, written, strict=True) if pair in allowed for w in pair[1:])
        for choice in permutations(reads, len(written))
    )


def least_peak(graph: MemoryGraph, most_sets: int | None = None) -> int | None:
    """The least peak in bytes over all orders; None if more than ``most_sets`` sets would have to be looked at."""
    return _search(Sets(graph), None, most_sets)


def none_below(graph: MemoryGraph, peak: int, most_sets: int) -> bool | None:
    """Whether every order needs at least ``peak`` bytes; None if more than ``most_sets`` sets would have to be looked at."""
    found = _search(Sets(graph), peak, most_sets)
    return None if found is None else found >= peak


def _search(sets: Sets, ceiling: int | None, most_sets: int | None) -> int | None:
    """The least peak, or ``ceiling`` where it is not below that."""
    full = (1 << sets.n) - 1
    heap = [(sets.start, 0, 0, sets.start)]
    seen: set[int] = set()
    while heap:
        peak, _, done, alive = heappop(heap)
        if ceiling is not None and peak >= ceiling:
            return ceiling
        if done == full:
            return peak
        if done in seen:
            continue
        seen.add(done)
        if most_sets is not None and len(seen) > most_sets:
            return None
        for i in range(sets.n):
            if not done >> i & 1 and not sets.needs[i] & ~done:
                above, more = sets.run(i, done)
                following = done | 1 << i
                if following not in seen:
                    heappush(heap, (max(peak, alive + above), -following.bit_count(), following, alive + more))
    raise AssertionError("the last set is always reached")
