"""Orderings that a limit implies: where running u before v would need more than the limit, v must come first.

Comes in: Masks and a limit in bytes. Goes out: Masks with more edges (every order within the limit respects them), or
the finding that no order is within the limit. For each node v the cheapest set of nodes before it is found by a
minimum closure; pairs that some cheap set at hand already shows possible, in the wanted order, need no closure of their
own. New edges make further closures dearer, so it goes round until nothing changes or the steps are gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lowtide.order.masks import Masks, alive_after, alive_between, bits, cost, lowest, set_of

_ROUNDS = 4
_NEVER = 1 << 200


@dataclass(slots=True)
class Implied:
    """masks: with the edges found; None: no order is within the limit. over: the least bytes above the limit that an
    argument rested on, so that the findings hold for every limit below it. edges: how many. steps: work done.
    """

    masks: Masks | None
    over: int = _NEVER
    edges: int = 0
    steps: int = 0


def implied(masks: Masks, limit: int, steps: int) -> Implied:
    """The orderings implied by ``limit``, looked for with at most about ``steps`` steps."""
    state = Implied(masks)
    for _ in range(_ROUNDS):
        before = state.edges
        _round(state, limit, steps)
        if state.masks is None or state.edges == before or state.steps >= steps:
            break
    return state


def _round(state: Implied, limit: int, steps: int) -> None:
    masks = state.masks
    assert masks is not None
    found = [0] * masks.n  # for each node those that must come before it
    ranked = sorted(range(masks.n), key=lambda v: (masks.before[v].bit_count(), v))
    for v in ranked:
        if state.steps >= steps:
            break
        look = _Look(state, masks, ranked, v, limit)
        if look.least > limit:
            state.over = min(state.over, look.least)
            state.masks = None
            return
        look.can_precede()
        look.can_follow()
        for u in bits(look.after):
            found[u] |= 1 << v
        found[v] |= look.first
    edges = sum(x.bit_count() for x in found)
    if edges:
        state.edges += edges
        state.masks = with_edges(masks, found)


class _Look:
    """What is known of one node ``v``: which nodes some set within the limit holds before it, and which it leaves out."""

    def __init__(self, state: Implied, masks: Masks, ranked: list[int], v: int, limit: int) -> None:
        self.state, self.masks, self.ranked, self.v, self.limit = state, masks, ranked, v, limit
        self.free = masks.full & ~(masks.before[v] | masks.behind[v] | 1 << v)
        self.first: int = 0  # must run before v
        self.after: int = 0  # must run after v
        self.least, self.cheapest = self._least(0, 0)
        self.start = (self.cheapest, alive_after(masks, self.cheapest))
        self.held: int = self.cheapest & self.free
        self.out: int = self.free & ~self.cheapest

    def _least(self, first: int, later: int) -> tuple[int, int]:
        """(least bytes alive while v runs, the set before it then) with ``first`` before v and ``later`` after it."""
        masks, v = self.masks, self.v
        done = masks.before[v] | first
        free = self.free & ~(first | later)
        hill = masks.alloc[v] + masks.extra[v]
        for others, nbytes in masks.begins[v]:
            if not others & (done | free):
                hill += nbytes
        granted: dict[int, int] = {}
        for held, made, _, w in masks.pairs[v]:
            if not held & ~(done | free) and not made & done:
                granted[w] = -1 if w in granted or made or not held & free else held & free
        bonus: list[tuple[int, int]] = []
        for w, need in granted.items():
            if need < 0:
                hill -= masks.flat.size[w]
            else:
                bonus.append((need, masks.flat.size[w]))
        chosen, work = lowest(masks, done, [x for x in self.ranked if free >> x & 1], bonus)
        self.state.steps += work + len(masks.held) // 8
        saved = sum(nbytes for need, nbytes in bonus if not need & ~chosen)
        return alive_after(masks, chosen) + hill - saved, chosen

    def _fits(self, near: tuple[int, int], done: int) -> tuple[int, int] | None:
        """(the set ``done``, bytes alive after it) if v may run right after it within the limit; ``near``: a set at
        hand, with its bytes.
        """
        self.state.steps += 1 + (near[0] ^ done).bit_count()
        alive = alive_between(self.masks, near[0], near[1], done)
        return (done, alive) if alive + cost(self.masks, self.v, done)[0] <= self.limit else None

    def can_precede(self) -> None:
        """Find the nodes that cannot run before v. Nodes are added to the cheapest set in groups, halved where dear."""
        masks, grown, cheapest = self.masks, self.start, self.start
        groups = [[u for u in self.ranked if (self.free & ~self.held) >> u & 1]]
        while groups:
            group = [u for u in groups.pop() if not (self.held | self.after) >> u & 1]
            need = 0
            for u in group:
                need |= masks.before[u] | 1 << u
            if not group:
                continue
            fits = self._fits(grown, grown[0] | need)
            if fits is None and grown is not cheapest:
                fits = self._fits(cheapest, cheapest[0] | need)
            if fits is not None:
                grown = fits
                self.held |= grown[0] & self.free
            elif len(group) > 1:
                groups += [group[len(group) // 2 :], group[: len(group) // 2]]
            else:
                least, chosen = self._least(need & self.free, 0)
                if least <= self.limit:
                    self.held |= chosen & self.free
                else:
                    self.state.over = min(self.state.over, least)
                    self.after |= (masks.behind[group[0]] | 1 << group[0]) & self.free

    def can_follow(self) -> None:
        """Find the nodes that cannot run after v: the same, with nodes taken out of the cheapest set."""
        masks, shrunk, cheapest = self.masks, self.start, self.start
        groups = [[u for u in reversed(self.ranked) if (self.free & ~self.out) >> u & 1]]
        while groups:
            group = [u for u in groups.pop() if not (self.out | self.first) >> u & 1]
            drop = 0
            for u in group:
                drop |= masks.behind[u] | 1 << u
            if not group:
                continue
            fits = self._fits(shrunk, shrunk[0] & ~drop)
            if fits is None and shrunk is not cheapest:
                fits = self._fits(cheapest, cheapest[0] & ~drop)
            if fits is not None:
                shrunk = fits
                self.out |= self.free & ~shrunk[0]
            elif len(group) > 1:
                groups += [group[len(group) // 2 :], group[: len(group) // 2]]
            else:
                least, chosen = self._least(0, drop & self.free)
                if least <= self.limit:
                    self.out |= self.free & ~chosen
                else:
                    self.state.over = min(self.state.over, least)
                    self.first |= (masks.before[group[0]] | 1 << group[0]) & self.free


def with_edges(masks: Masks, found: list[int]) -> Masks | None:
    """``masks`` with more predecessors (only direct edges are kept as such); None if that closes a cycle."""
    n = masks.n
    pred = [masks.pred[v] | found[v] for v in range(n)]
    after = _turned(pred)
    waiting = [p.bit_count() for p in pred]
    ranked = [v for v in range(n) if not waiting[v]]
    before = [0] * n
    for v in ranked:
        for p in bits(pred[v]):
            before[v] |= before[p] | 1 << p
        for s in bits(after[v]):
            waiting[s] -= 1
            if not waiting[s]:
                ranked.append(s)
    if len(ranked) < n:
        return None
    direct: list[int] = []
    for v in range(n):
        over = 0
        for p in bits(pred[v]):
            over |= before[p]
        direct.append(pred[v] & ~over)
    after = _turned(direct)
    behind = [0] * n
    for v in reversed(ranked):
        for s in bits(after[v]):
            behind[v] |= behind[s] | 1 << s
    return replace(
        masks,
        pred=direct,
        after=after,
        pred_list=[bits(x) for x in direct],
        succ=[bits(x) for x in after],
        before=before,
        behind=behind,
    )


def _turned(pred: list[int]) -> list[int]:
    """The edges the other way round."""
    after: list[list[int]] = [[] for _ in pred]
    for v, before in enumerate(pred):
        for p in bits(before):
            after[p].append(v)
    return [set_of(x) for x in after]
