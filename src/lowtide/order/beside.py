"""Copies between host and device that are begun early and waited for late, so that either works on meanwhile.

Comes in: a MemoryGraph whose nodes stand in the order in which they run, and its copies. Goes out: an order. Promised: the order
passes the checker; the peak of no device is above that of the order at hand; a copy, behind all that it needs, begins as near to
the front as the peaks allow, and is waited for as near as they allow to the first that needs it. Copies are looked at one after
the other, and for each place that is tried all peaks are counted anew: the place is searched for by halving, since what lives
longer seldom peaks lower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowtide.memory.flat import flatten, peak_bytes
from lowtide.memory.graph import MemoryGraph

Fits = Callable[[Sequence[int]], bool]


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy by the names of its nodes: what begins it, and what waits for it."""

    begins: str
    waits: str


def spread(graph: MemoryGraph, copies: Sequence[Copy]) -> tuple[int, ...]:
    """The nodes of ``graph`` (by index) in an order in which ``copies`` begin early and are waited for late."""
    flats = [flatten(graph, device=d) for d in dict.fromkeys(b.device for b in graph.buffers)]
    most = [peak_bytes(flat, range(flat.n)) for flat in flats]

    def fits(order: Sequence[int]) -> bool:
        return all(peak_bytes(flat, order) <= peak for flat, peak in zip(flats, most, strict=True))

    index = {node.name: i for i, node in enumerate(graph.nodes)}
    order = list(range(len(graph.nodes)))
    for copy in copies:
        order = _later(graph, order, index[copy.waits], fits)
        order = _earlier(graph, order, index[copy.begins], fits)
    return tuple(order)


def _later(graph: MemoryGraph, order: list[int], node: int, fits: Fits) -> list[int]:
    """``node`` as near as may be before the first that needs it."""
    rest = [i for i in order if i != node]
    near = order.index(node)
    far = next((at for at, i in enumerate(rest) if node in graph.predecessors[i]), len(rest))
    return _farthest(far - near, lambda by: [*rest[: near + by], node, *rest[near + by :]], order, fits)


def _earlier(graph: MemoryGraph, order: list[int], node: int, fits: Fits) -> list[int]:
    """``node`` as near as may be to the front, and in front of it what it needs, one behind the other as they were."""
    needed = {node}
    for i in reversed(order):
        if i in needed:
            needed.update(graph.predecessors[i])
    near = order.index(node)

    def placed(by: int) -> list[int]:
        passed = order[near - by : near + 1]
        ahead = [i for i in passed if i in needed]
        return [*order[: near - by], *ahead, *(i for i in passed if i not in needed), *order[near + 1 :]]

    return _farthest(near, placed, order, fits)


def _farthest(most: int, placed: Callable[[int], list[int]], order: list[int], fits: Fits) -> list[int]:
    """``placed`` by as many steps up to ``most`` as fit; ``order`` where none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        found = placed(middle)
        if fits(found):
            low, order = middle, found
        else:
            high = middle - 1
    return order
