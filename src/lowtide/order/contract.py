"""Nodes whose place follows from their neighbours' are contracted into them before a graph is searched.

Comes in: a small Flat. Goes out: a smaller Flat with the same least peak, and the way back from its orders. Exact:

* *Renamed*: where a result surely takes over the bytes of a value of the same size, the two are one storage.
* *Late*: a node at which nothing can end, without workspace, never lowers what is alive and has no peak of its own; it
  may be delayed until one of its successors needs it. What it begins is then begun by the first of these.
* *Early*: a node that begins nothing and has no workspace may run as soon as its predecessors have. What it holds is
  then held by these.

In a training graph most of the forward pass is late, chains and recomputed blocks included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowtide.memory.flat import Flat, build
from lowtide.order.masks import Masks, bits

_NEW_EDGES = 8  # a contraction may add so many edges more than it removes


@dataclass(frozen=True, slots=True)
class Contracted:
    """flat: the smaller graph. nodes: for each node of it the node of the original.

    gone: contracted nodes in the order in which they went, with where each belongs: right before the first of the
    nodes given, or (``early``) right after the last of them.
    """

    flat: Flat
    nodes: list[int]
    gone: list[tuple[int, bool, tuple[int, ...]]]

    def expand(self, order: Sequence[int]) -> list[int]:
        """The order of the original for an ``order`` of the smaller graph, with the same peak."""
        out = [self.nodes[k] for k in order]
        for node, early, near in reversed(self.gone):
            around = set(near)
            places = [t for t, i in enumerate(out) if i in around]
            out.insert(places[-1] + 1 if early else places[0], node)
        return out

    def contract(self, order: Sequence[int]) -> list[int]:
        """An order of the original without the contracted nodes, in the numbers of the smaller graph."""
        number = {i: k for k, i in enumerate(self.nodes)}
        return [number[i] for i in order if i in number]


def contracted(masks: Masks) -> Contracted:
    """``masks.flat`` with all contractions made, until none is left."""
    work = _Work(masks)
    work.rename()
    changed = True
    while changed:
        changed = False
        for v in range(masks.n):
            if v in work.alive and (work.early(v) or work.late(v)):
                changed = True
    return work.result()


class _Work:
    """The graph while it shrinks; short-lived. Sets of nodes are bit sets."""

    def __init__(self, masks: Masks) -> None:
        flat = masks.flat
        self.flat, self.behind, self.before = flat, masks.behind, masks.before
        self.pred, self.succ = list(masks.pred), list(masks.after)
        self.held, self.outlives = list(masks.held), list(flat.outlives)
        self.made = [made for made, _, _ in masks.terms]
        self.holds = [set(x) for x in flat.holds]
        self.makes = [set(x) for x in flat.makes]
        self.pairs = [set(x) for x in flat.pairs]
        self.alive = set(range(masks.n))
        self.gone: list[tuple[int, bool, tuple[int, ...]]] = []
        self.merged: set[int] = set()

    def rename(self) -> None:
        """Make one storage of pairs that are taken in every order."""
        for v in range(self.flat.n):
            for r, w in sorted(self.pairs[v]):
                alone = sum(r in pair or w in pair for pair in self.pairs[v]) == 1
                sure = self.flat.size[r] == self.flat.size[w] and self.made[w] == 1 << v and not self.outlives[r]
                if not (alone and sure) or self.held[r] & ~(self.before[v] | 1 << v):
                    continue
                self.pairs[v].discard((r, w))
                for x in bits(self.held[w]):
                    self.holds[x].discard(w)
                    self.holds[x].add(r)
                    self.pairs[x] = {(r if a == w else a, b) for a, b in self.pairs[x]}
                self.makes[v].discard(w)
                self.held[r] |= self.held[w]
                self.outlives[r] = self.outlives[w]
                self.merged.add(w)

    def late(self, v: int) -> bool:
        """Contract ``v`` into its successors, if it is late."""
        if self.flat.workspace[v] or not self.succ[v] or not self._few(v):
            return False
        for b in self.holds[v]:
            if not self.outlives[b] and not self.held[b] & self.behind[v]:
                return False
        users = [s for s in bits(self.succ[v]) if not self.before[s] & self.succ[v]]
        for b in self.makes[v]:
            self.made[b] &= ~(1 << v)
            for s in users:
                self.made[b] |= 1 << s
                self.makes[s].add(b)
        for b in self.holds[v]:
            self.held[b] &= ~(1 << v)
        self._remove(v, False, self.succ[v])
        return True

    def early(self, v: int) -> bool:
        """Contract ``v`` into its predecessors, if it is early."""
        if self.flat.workspace[v] or self.makes[v] or not self.pred[v] or not self._few(v):
            return False
        before = bits(self.pred[v])
        for b in self.holds[v]:
            self.held[b] = self.held[b] & ~(1 << v) | self.pred[v]
            for p in before:
                self.holds[p].add(b)
                self.pairs[p] = {pair for pair in self.pairs[p] if pair[0] != b}
        self._remove(v, True, self.pred[v])
        return True

    def _few(self, v: int) -> bool:
        into, out = self.pred[v].bit_count(), self.succ[v].bit_count()
        return into * out <= into + out + _NEW_EDGES

    def _remove(self, v: int, early: bool, near: int) -> None:
        for p in bits(self.pred[v]):
            self.succ[p] = self.succ[p] & ~(1 << v) | self.succ[v]
        for s in bits(self.succ[v]):
            self.pred[s] = self.pred[s] & ~(1 << v) | self.pred[v]
        self.alive.discard(v)
        self.gone.append((v, early, tuple(bits(near))))

    def result(self) -> Contracted:
        """The smaller graph."""
        nodes = sorted(self.alive)
        number = {i: k for k, i in enumerate(nodes)}
        kept = [b for b in range(self.flat.m) if b not in self.merged]
        place = {b: k for k, b in enumerate(kept)}
        flat = build(
            [[number[p] for p in bits(self.pred[i])] for i in nodes],
            [self.flat.size[b] for b in kept],
            [sorted(place[b] for b in self.holds[i]) for i in nodes],
            [[number[i] for i in bits(self.made[b])] for b in kept],
            [self.outlives[b] for b in kept],
            [self.flat.workspace[i] for i in nodes],
            [sorted((place[r], place[w]) for r, w in self.pairs[i]) for i in nodes],
            self.flat.base - sum(self.flat.size[b] for b in kept if not self.made[b]),
        )
        return Contracted(flat, nodes, self.gone)
