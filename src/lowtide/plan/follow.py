"""Other sizes of a program that is planned already: the decisions stay, the bytes are counted and placed anew.

Comes in: the schedule at new sizes, in program order, and the schedule and plan of the same program at others. Goes out: the
schedule in that order and its plan, with the same way of forming slabs on each device. Promised: no order is searched for,
which takes milliseconds; the plan is as exact as any other and never above program order's without slabs (unless the caller
forces one slab); its lower bound holds for every order. What a search at the new sizes might have found is given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lowtide.core.errors import VerifyError
from lowtide.core.options import Options
from lowtide.memory.estimate import lifts_others
from lowtide.memory.flat import flatten, live_bytes
from lowtide.memory.lifetime import lifetimes, timeline
from lowtide.order.bounds import proved_peak
from lowtide.order.check import check_order
from lowtide.plan.choose import main_device, plan_memory
from lowtide.plan.plan import MemoryPlan
from lowtide.schedule.schedule import Schedule, memory_graph


def follow(
    scheduled: Schedule, before: Schedule, plan: MemoryPlan, options: Options
) -> tuple[Schedule, MemoryPlan] | None:
    """``scheduled`` in the order of ``before``, and its plan in the ways that were chosen in ``plan``; None where the steps are
    others, or have to run in another order."""
    kept = in_order(scheduled, [s.op.name for s in before.steps])
    if kept is None:
        return None
    graph = memory_graph(scheduled)
    device = main_device(lifetimes(graph))
    flat = flatten(graph, device=device)
    order = _positions(scheduled, kept)
    live = live_bytes(flat, order)
    lower = max(live, default=0) <= timeline(graph, device=device).peak and not lifts_others(graph, order, device)
    ordered = kept if lower else scheduled
    chosen = {d.device: d.chosen for d in plan.devices}
    return ordered, plan_memory(ordered, options, proved_peak(flat, order, live), chosen)


def in_order(scheduled: Schedule, names: Sequence[str]) -> Schedule | None:
    """``scheduled`` with its steps in the order of ``names``; None where its steps are others, or have to run in another."""
    by_name = {s.op.name: s for s in scheduled.steps}
    if len(names) != len(scheduled.steps) or by_name.keys() != set(names):
        return None
    kept = replace(scheduled, steps=tuple(by_name[n] for n in names))
    try:
        check_order(memory_graph(scheduled), _positions(scheduled, kept))
    except VerifyError:
        return None
    return kept


def _positions(scheduled: Schedule, kept: Schedule) -> list[int]:
    """The order of ``kept`` as positions in ``scheduled``'s memory graph."""
    index = {n.name: i for i, n in enumerate(memory_graph(scheduled).nodes)}
    return [index[n.name] for n in memory_graph(kept).nodes]
