"""Proved lower bounds on the peak of every order of a graph, each with a name.

Comes in: Masks (and an order, which only says where to look). Goes out: bytes that no order can stay below.

``start``: what is alive before the first step. ``outputs``: what is alive after the last. ``working set``: what one
node reads, writes and needs beside. ``cut``: the least that can be alive while one node runs, over all sets of nodes
that can have run before it; it contains the working set, and what must be carried past that node whatever the order.
The cut bound is a minimum closure, hence exact for its node; the true optimum can be higher because the best sets of
two nodes may not lie on one path. Where the search is exhaustive its own answer is the bound (``exhausted``).
"""

from __future__ import annotations

from collections.abc import Sequence

from lowtide.order.masks import Masks, alive_after, bits, cost, lowest


def end_bound(masks: Masks) -> tuple[int, str]:
    """The larger of what is alive at the start and at the end."""
    start, end = masks.flat.base, alive_after(masks, masks.full)
    return (start, "start") if start >= end else (end, "outputs")


def least_during(masks: Masks, v: int, ranked: Sequence[int], first: int = 0, later: int = 0) -> tuple[int, int]:
    """(least bytes alive while ``v`` runs, a set that has run before it then), over all orders in which the nodes
    of ``first`` run before ``v`` and those of ``later`` after it (both closed in their direction).

    ``ranked``: all nodes in some topological order. Bytes saved in place are counted as saved where in doubt.
    """
    done = masks.before[v] | first
    free = masks.full & ~(done | masks.behind[v] | later | 1 << v)
    path = [x for x in ranked if free >> x & 1]
    hill = masks.alloc[v] + masks.extra[v]
    bonus: list[tuple[int, int]] = []
    for others, nbytes in masks.begins[v]:
        if not others & done:
            hill += nbytes
            bonus += [(1 << x, nbytes) for x in bits(others & free)][:1]
            hill -= nbytes if len(bits(others & free)) > 1 else 0
    unsure: dict[int, int] = {}
    for held, made, _, w in masks.pairs[v]:
        if not held & ~(done | free) and not made & done:
            unsure[w] = -1 if w in unsure or made else held & free
    for w, need in unsure.items():
        if need > 0:
            bonus.append((need, masks.flat.size[w]))
        else:
            hill -= masks.flat.size[w]
    chosen, _ = lowest(masks, done, path, bonus)
    least = alive_after(masks, chosen) + hill - sum(nbytes for need, nbytes in bonus if not need & ~chosen)
    return least, chosen


def cut_bound(
    masks: Masks, order: Sequence[int], live: Sequence[int], floor: int, most: int = 1 << 30
) -> tuple[int, str, int]:
    """(bound, its name, nodes looked at): the greatest ``least_during`` over all nodes, if above ``floor``.

    A node's least is at most what is alive at it in any order; so nodes are looked at from the dearest step of
    ``order`` down to the bound reached. At most ``most`` nodes are looked at.
    """
    best, name, looked = floor, "", 0
    for t in sorted(range(len(order)), key=lambda t: (-live[t], t)):
        if live[t] <= best or looked >= most:
            break
        looked += 1
        v = order[t]
        least = least_during(masks, v, order)[0]
        if least > best:
            alone = sum(masks.flat.size[b] for b in masks.flat.holds[v]) + masks.extra[v]
            best, name = least, "working set" if not masks.pairs[v] and least <= alone else "cut"
    return best, name, looked


def worth(masks: Masks, order: Sequence[int]) -> int:
    """Peak of ``order`` in bytes, from the set costs alone."""
    done, alive, peak = 0, masks.flat.base, masks.flat.base
    for v in order:
        hill, net = cost(masks, v, done)
        peak = max(peak, alive + hill)
        alive += net
        done |= 1 << v
    return peak
