"""Local search for large graphs: windows around the peak are solved anew, exactly, until the peak will not move.

Comes in: Flat, an order, a target in bytes, a number of steps. Goes out: an order whose peak is not higher, and the
steps used. A window is a run of neighbouring steps; what is alive at its borders is fixed, so a better order of the
window is a better order of the whole. Windows grow while nothing moves and shrink again when something did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from lowtide.memory.flat import Flat, build, live_bytes
from lowtide.order.bounds import holders_of
from lowtide.order.exact import close

_FIRST, _LARGEST = 24, 384


def improve(
    flat: Flat,
    order: Sequence[int],
    target: int,
    steps: int,
    tell: Callable[[int, int], bool] = lambda steps, peak: True,
) -> tuple[list[int], int, bool]:
    """(an order no worse than ``order``, steps used, whether it gave up before the steps were gone).

    Stops at a peak of ``target`` bytes. ``tell(steps, peak)`` is asked after each window whether to go on.
    """
    work = _Order(flat, list(order))
    used, width = 0, _FIRST
    stuck: set[tuple[int, int]] = set()
    while used < steps:
        peak = max(work.live, default=0)
        if peak <= target or not tell(used, peak):
            return work.order, used, False
        at = work.live.index(peak)
        start, stop = work.around(at, peak, width)
        spent, moved = 0, False
        if (start, stop) not in stuck:
            spent, moved = work.solve(start, stop, target, min(steps - used, 60 * (stop - start)))
            used += spent + 1
        if moved:
            width = max(_FIRST, width // 2)
            stuck = {(a, b) for a, b in stuck if b <= start or a >= stop}
            continue
        stuck.add((start, stop))
        if width >= _LARGEST or stop - start >= flat.n:
            return work.order, used, True
        width *= 2
    return work.order, used, False


class _Order:
    """An order being improved, with the bytes alive in each of its steps."""

    def __init__(self, flat: Flat, order: list[int]) -> None:
        self.flat, self.order = flat, order
        self.live = live_bytes(flat, order)
        self.holders = holders_of(flat)
        self.position = [0] * flat.n
        for t, i in enumerate(order):
            self.position[i] = t
        self.tree = after_each(flat, order)

    def around(self, at: int, peak: int, width: int) -> tuple[int, int]:
        """A window of about ``width`` steps with the peak step ``at`` in its middle."""
        n = len(self.order)
        start = max(0, min(at - width // 2, n - width))
        return start, min(n, start + width)

    def solve(self, start: int, stop: int, target: int, steps: int) -> tuple[int, bool]:
        """Order the window anew: (steps used, whether its peak fell)."""
        nodes = self.order[start:stop]
        piece = self.window(start, stop)
        outside = max(max(self.live[:start], default=0), max(self.live[stop:], default=0))
        now = max(self.live[start:stop])
        goal = max(target, min(outside, now - 1))
        found = close(piece, list(range(len(nodes))), goal, steps)
        if found.peak >= now:
            return found.steps, False
        self.order[start:stop] = [nodes[k] for k in found.order]
        self.live[start:stop] = live_bytes(piece, found.order)
        for t in range(start, stop):
            self.position[self.order[t]] = t
        for t, alive in zip(range(start, stop), after_each(piece, found.order), strict=True):
            self.tree[t] = alive
        return found.steps, True

    def window(self, start: int, stop: int) -> Flat:
        """The steps ``[start, stop)`` as a graph of their own, with what is alive around them."""
        flat, position = self.flat, self.position
        nodes = self.order[start:stop]
        local = {i: k for k, i in enumerate(nodes)}
        number: dict[int, int] = {}
        for i in nodes:
            for b in flat.holds[i]:
                number.setdefault(b, len(number))
        alive = self.tree[start - 1] if start else flat.base
        size: list[int] = []
        makers: list[list[int]] = []
        outlives: list[bool] = []
        for b in number:
            first = -1 if not flat.makers[b] else min(position[p] for p in flat.makers[b])
            makers.append([] if first < start else [local[p] for p in flat.makers[b] if p in local])
            outlives.append(flat.outlives[b] or any(position[x] >= stop for x in self.holders[b]))
            size.append(flat.size[b])
            if first < start:
                alive -= flat.size[b]
        preds = [[local[p] for p in flat.preds[i] if p in local] for i in nodes]
        holds = [sorted(number[b] for b in flat.holds[i]) for i in nodes]
        pairs = [
            [
                (number[r], number[w])
                for r, w in flat.pairs[i]
                if not outlives[number[r]] and local[i] in makers[number[w]]
            ]
            for i in nodes
        ]
        return build(preds, size, holds, makers, outlives, [flat.workspace[i] for i in nodes], pairs, alive)


def pieces(flat: Flat, order: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of steps between nodes that are before or after every other one, those that hold the peak first.

    Such a node stands at the same step in every order, so each run can be ordered by itself. The node opens its run.
    """
    n = len(order)
    position = [0] * flat.n
    for t, i in enumerate(order):
        position[i] = t
    # Step t holds a separator if every earlier node has a way to it and every later one a way from it, that is, if no
    # earlier node has all its successors beyond t and no later node all its predecessors before t.
    first_use = [min((position[s] for s in flat.succs[i]), default=n) for i in order]
    last_need = [max((position[p] for p in flat.preds[i]), default=-1) for i in order]
    reach = [n] * (n + 1)  # least last_need of the steps from t on
    for t in range(n - 1, -1, -1):
        reach[t] = min(reach[t + 1], last_need[t])
    cuts, far = [0], -1
    for t in range(n):
        if far <= t <= reach[t + 1] and t:
            cuts.append(t)
        far = max(far, first_use[t])
    cuts.append(n)
    live = live_bytes(flat, order)
    runs = [(a, b) for a, b in pairwise(cuts) if a < b]
    return sorted(runs, key=lambda run: (-max(live[run[0] : run[1]]), run))


def piece_of(flat: Flat, order: Sequence[int], start: int, stop: int) -> tuple[Flat, list[int]]:
    """The steps ``[start, stop)`` of ``order`` as a graph of their own, and the nodes that its numbers stand for."""
    return _Order(flat, list(order)).window(start, stop), list(order[start:stop])


def after_each(flat: Flat, order: Sequence[int]) -> list[int]:
    """Bytes alive after each step."""
    left = flat.holders.copy()
    begun = [not nodes for nodes in flat.makers]
    total, out = flat.base, list[int]()
    for i in order:
        total += flat.alloc[i]
        for b in flat.shared[i]:
            if not begun[b]:
                begun[b] = True
                total += flat.size[b]
        for b in flat.holds[i]:
            left[b] -= 1
            if not left[b]:
                total -= flat.size[b]
        out.append(total)
    return out
