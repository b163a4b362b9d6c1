"""The order engine: least peak of live bytes, with a proved lower bound, under a budget of search steps.

Comes in: a MemoryGraph. Goes out: an OrderResult. Promised: the order passes the independent checker, its peak is
never above the best of the classic orders, ``status`` is OPTIMAL only if the peak equals the proved bound, and the same
graph and budget give the same result on any machine (the clock is an emergency stop only, and recorded).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lowtide.memory.flat import flatten, live_bytes, peak_bytes
from lowtide.memory.graph import MemoryGraph
from lowtide.order.bounds import cut_bound, end_bound
from lowtide.order.check import check_order
from lowtide.order.entrants import ENTRANTS
from lowtide.order.exact import close
from lowtide.order.masks import masks_of

Objective = Callable[[MemoryGraph, Sequence[int]], int]
Progress = Callable[[int, int, int], None]  # steps used, best so far, lower bound

EMERGENCY_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class OrderResult:
    """An order of a graph's nodes and what is known about it.

    order: indices into ``graph.nodes``. peak, lower_bound: bytes (of the objective, where one was given).
    bound_name: which argument proves the bound. status: ``OPTIMAL`` or ``FEASIBLE``. candidates: peak of each order
    that was tried. steps: search steps used. stopped_by: ``proved``, ``stuck``, ``budget`` or ``clock``.
    """

    order: tuple[int, ...]
    peak: int
    lower_bound: int
    bound_name: str
    status: str
    candidates: Mapping[str, int]
    steps: int
    stopped_by: str

    @property
    def gap(self) -> float:
        """How far the peak may be above the optimum: 0.02 is two per cent."""
        return self.peak / self.lower_bound - 1 if self.lower_bound else float(self.peak > 0)


def default_budget(n: int) -> int:
    """Search steps that a graph of ``n`` nodes gets unless told otherwise."""
    return 20_000


def reorder(
    graph: MemoryGraph,
    *,
    budget_steps: int | None = None,
    objective: Objective | None = None,
    progress: Progress | None = None,
    device: str | None = None,
) -> OrderResult:
    """An order of least peak. ``device`` counts the bytes of one device only (None: all of them added up).

    ``objective(graph, order)`` is what is to be least instead of the live peak, in bytes; it must never be below the
    live peak, so that the bound stays true. ``progress`` is told (steps, peak, bound) now and then.
    """
    started = time.monotonic()
    flat = flatten(graph, device=device)
    budget = default_budget(flat.n) if budget_steps is None else budget_steps
    candidates: dict[str, int] = {}
    best: list[int] = []
    for name, entrant in ENTRANTS.items():
        order = entrant(flat)
        candidates[name] = peak_bytes(flat, order)
        if not best or candidates[name] < min(candidates[x] for x in candidates if x != name):
            best = order
    masks = masks_of(flat)
    floor, name = end_bound(masks)
    bound, cut, _ = cut_bound(masks, best, live_bytes(flat, best), floor)
    name = cut or name
    bracket = close(masks, best, bound, budget, lambda: time.monotonic() - started > EMERGENCY_SECONDS)
    candidates["search"] = bracket.peak
    if bracket.bound > bound:
        name = "exhausted"
    check_order(graph, bracket.order)
    status = "OPTIMAL" if bracket.closed else "FEASIBLE"
    return OrderResult(
        tuple(bracket.order),
        bracket.peak,
        bracket.bound,
        name,
        status,
        candidates,
        bracket.steps,
        "proved" if bracket.closed else "budget",
    )
