"""Local search over orders: iterated greedy.

Comes in: an order and a function that places. Goes out: the lowest placement found. Promised: deterministic but for the
deadline (its own small random numbers from a fixed seed). One round takes buffers that reach the top of the placement,
and some that lie right below them, moves them forward in the order, places anew, and keeps the order unless it got
worse. The idea is squeaky-wheel optimisation (Joslin and Clements 1999).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from lowtide.plan.compiled import Place
from lowtide.plan.flat import Flat
from lowtide.plan.greedy import height_of

_ROUNDS = 4000


def improve(flat: Flat, order: Sequence[int], place: Place, target: int, until: float) -> list[int]:
    """Offsets no higher than those of ``place(order)``; stops at ``target`` (bytes), after a fixed number of rounds, or
    at the clock ``until`` (as ``time.perf_counter``)."""
    draw = _Draw()
    current = list(order)
    best = place(current)
    height = height_of(flat, best)
    now = best
    for _ in range(_ROUNDS):
        if height <= target or time.perf_counter() > until:
            break
        trial = _nudged(flat, current, now, draw)
        offsets = place(trial)
        reached = height_of(flat, offsets)
        if reached <= height:
            current, now = trial, offsets
            if reached < height:
                best, height = offsets, reached
    return best


class _Draw:
    """Random whole numbers from a fixed seed (Lehmer's generator)."""

    def __init__(self) -> None:
        self.state = 20_011

    def below(self, n: int) -> int:
        self.state = self.state * 48_271 % 2_147_483_647
        return self.state % n


def _nudged(flat: Flat, order: list[int], offsets: list[int], draw: _Draw) -> list[int]:
    """The order with one of the topmost buffers, and now and then another one near the top, further in front."""
    at = flat.segment_of
    tops = [offsets[i] + flat.size[i] if at[i] < at[i + 1] else 0 for i in range(flat.count)]
    top = max(tops)
    high = [k for k, i in enumerate(order) if tops[i] >= top - (top >> 6) * draw.below(2)]
    moved = list(order)
    for _ in range(1 + draw.below(2)):
        k = high[draw.below(len(high))]
        i = order[k]
        moved.remove(i)
        moved.insert(draw.below(k + 1), i)
    return moved
