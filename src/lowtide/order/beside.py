"""Copies between host and device that are begun early and waited for late, so that either works on meanwhile.

Comes in: a MemoryGraph whose nodes stand in the order in which they run, and its copies. Goes out: an order. Promised: the order
passes the checker; the peak of no device is above that of the order at hand; where nodes are in groups, the order stays as it is,
since a copy could come to stand within one. A copy, behind all that it needs, begins as near to the front as halving finds, and
is waited for as near to the first that needs it: for each place that is tried all peaks are counted anew, and halving takes it
that what lives longer peaks no lower, which need not hold. Copies are looked at one after the other, and a later one may take
over work that stood beside an earlier one. What is counted is bounded by ``_WORK``; copies behind that stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowtide.memory.flat import flatten, peak_bytes
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.groups import grouped
from lowtide.order.check import check_order

_WORK = 2_000_000  # nodes that are looked at while peaks are counted, of all copies together
Fits = Callable[[Sequence[int]], bool]


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy by the names of its nodes: what begins it, and what waits for it."""

    begins: str
    waits: str


def spread(graph: MemoryGraph, copies: Sequence[Copy]) -> tuple[int, ...]:
    """The nodes of ``graph`` (by index) in an order in which ``copies`` begin early and are waited for late."""
    if grouped(graph):
        return tuple(range(len(graph.nodes)))
    flats = [flatten(graph, device=d) for d in dict.fromkeys(b.device for b in graph.buffers)]
    most = [peak_bytes(flat, range(flat.n)) for flat in flats]
    left = _WORK

    def fits(order: Sequence[int]) -> bool:
        nonlocal left
        if left <= 0:
            return False
        left -= len(flats) * len(order)
        return all(peak_bytes(flat, order) <= peak for flat, peak in zip(flats, most, strict=True))

    index = {node.name: i for i, node in enumerate(graph.nodes)}
    order = list(range(len(graph.nodes)))
    for copy in copies:
        if left <= 0:
            break
        order = _later(graph, order, index[copy.waits], fits)
        order = _earlier(graph, order, index[copy.begins], fits)
    check_order(graph, order)
    return tuple(order)


def _later(graph: MemoryGraph, order: list[int], node: int, fits: Fits) -> list[int]:
    """``node`` as near before the first that needs it as halving finds."""
    rest = [i for i in order if i != node]
    near = order.index(node)
    far = next((at for at, i in enumerate(rest) if node in graph.predecessors[i]), len(rest))
    return _farthest(far - near, lambda by: [*rest[: near + by], node, *rest[near + by :]], order, fits)


def _earlier(graph: MemoryGraph, order: list[int], node: int, fits: Fits) -> list[int]:
    """``node`` as near to the front as halving finds, and in front of it what it needs, one behind the other as they were."""
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
    """``placed`` by as many steps up to ``most`` as halving finds to fit; ``order`` where it finds none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        found = placed(middle)
        if fits(found):
            low, order = middle, found
        else:
            high = middle - 1
    return order
