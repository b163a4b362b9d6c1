"""Choosing by another objective than the live peak, such as the bytes of a packed plan.

Comes in: the orders that a search has seen, and ``objective(graph, order) -> bytes``. Goes out: the order for which
the objective is least, after trying to move single nodes in the best one. Promised: never worse, in the objective,
than any of the orders that came in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lowtide.memory.flat import Flat
from lowtide.memory.graph import MemoryGraph

_MOST_CALLS = 64


def least_objective(
    graph: MemoryGraph,
    flat: Flat,
    orders: Mapping[str, Sequence[int]],
    objective: Callable[[MemoryGraph, Sequence[int]], int],
    steps: int,
) -> tuple[list[int], int, dict[str, int]]:
    """(order, its value, value of every order that came in). One call costs as many steps as the graph has nodes."""
    values: dict[str, int] = {}
    seen: dict[tuple[int, ...], int] = {}
    for name, order in orders.items():
        key = tuple(order)
        if key not in seen:
            seen[key] = objective(graph, order)
        values[name] = seen[key]
    # The searched order first: it has the least live peak, and ties go to it.
    best_name = min(reversed(values), key=lambda name: values[name])
    best, value = list(orders[best_name]), values[best_name]
    calls = min(_MOST_CALLS, steps // max(1, flat.n))
    heavy = sorted(range(flat.n), key=lambda i: (-sum(flat.size[b] for b in flat.holds[i]), i))
    for i in heavy:
        for late in (False, True):
            if calls <= 0:
                return best, value, values
            moved = _moved(flat, best, i, late=late)
            if moved is None:
                continue
            calls -= 1
            reached = objective(graph, moved)
            if reached < value:
                best, value = moved, reached
    return best, value, values


def _moved(flat: Flat, order: list[int], i: int, *, late: bool) -> list[int] | None:
    """``order`` with node ``i`` as early or as late as its neighbours allow; None if it stands there already."""
    position = {v: t for t, v in enumerate(order)}
    at = position[i]
    if late:
        to = min((position[s] for s in flat.succs[i]), default=len(order)) - 1
    else:
        to = max((position[p] for p in flat.preds[i]), default=-1) + 1
    if to == at:
        return None
    moved = order[:at] + order[at + 1 :]
    moved.insert(to, i)
    return moved
